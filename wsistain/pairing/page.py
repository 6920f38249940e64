"""The page of a pair: how the sections lie over each other, to be looked at before anything is trained on them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.evaluation.page import page, picture_sheet
from wsistain.pages.pictures import jpeg_data
from wsistain.pairing.fit import STEP_UM, Fit
from wsistain.slide.base import RGB

_STYLE = """<style>
.flicker { position: relative; max-width: 900px } .flicker img { width: 100%; display: block }
.flicker img + img { position: absolute; inset: 0; animation: flicker 1.6s steps(1) infinite } .flicker:hover img + img { animation-play-state: paused }
@keyframes flicker { 0% { opacity: 1 } 50% { opacity: 0 } }
.pair { display: flex; flex-wrap: wrap; gap: 18px } .pair figure { flex: 1 1 420px; max-width: 900px } .pair img { width: 100%; display: block }
</style>"""
SCALE_UM = 24.0
"""Residual at which the map's colour ends: three nuclei."""

_STOPS = (
    (0.0, (32, 102, 168)),
    (0.25, (120, 178, 190)),
    (0.5, (244, 233, 190)),
    (0.75, (226, 142, 74)),
    (1.0, (160, 30, 40)),
)


_FRAME = (232, 186, 140)
"""Colour of the lines round the squares of the IHC, without which squares of glass are all one."""


def checkerboard(he: RGB, ihc: RGB, n: int = 8) -> RGB:
    """Squares of both pictures by turns, `n` along the longer side; those of the IHC have a frame."""
    edge = max(8, max(he.shape[:2]) // n)
    y, x = np.indices(he.shape[:2])
    is_he = ((y // edge) + (x // edge)) % 2 == 0
    line = max(1, edge // 60)
    ends = (np.minimum(edge * (at // edge + 1), n) for at, n in zip((y, x), is_he.shape, strict=True))
    rim = [np.minimum(at % edge, end - 1 - at) for at, end in zip((y, x), ends, strict=True)]
    board = np.where(is_he[..., None], he, ihc).astype(np.uint8)
    board[~is_he & (np.minimum(*rim) < line)] = _FRAME
    return board


def residual_picture(he: RGB, fit: Fit, mpp: float, origin_um: tuple[float, float]) -> RGB:
    """The residual of every window as colour over a pale H&E; grey where nothing could be measured.

    mpp, origin_um : of the picture `he`.
    """
    pale = 255 - (255 - he.astype(np.float32)) * 0.35
    step = STEP_UM / mpp
    for (row, col), value in np.ndenumerate(fit.residual_um):
        y, x = ((fit.centre_um[k] - origin_um[k]) / mpp + at * step for k, at in ((0, row), (1, col)))
        here = (slice(max(round(y - step / 2), 0), max(round(y + step / 2), 0)),
                slice(max(round(x - step / 2), 0), max(round(x + step / 2), 0)))  # fmt: skip
        if np.isfinite(value):
            pale[here] = 0.35 * pale[here] + 0.65 * colour_of(float(value) / SCALE_UM)
        elif np.isfinite(fit.agreement[row, col]):
            pale[here] = 0.6 * pale[here] + 0.4 * 150
    return np.asarray(np.clip(np.rint(pale), 0, 255), dtype=np.uint8)


def colour_of(share: float) -> NDArray[np.float32]:
    """The colour of 0 (blue: none) to 1 (red: `SCALE_UM` or more)."""
    places = [place for place, _ in _STOPS]
    return np.array([np.interp(share, places, [c[k] for _, c in _STOPS]) for k in range(3)], np.float32)


def _legend() -> str:
    stops = ", ".join(f"rgb{colour} {place:.0%}" for place, colour in _STOPS)
    return (
        f'<p class=soft>0 um <span style="display:inline-block;width:220px;height:11px;background:linear-gradient(to right,'
        f'{stops})"></span> {SCALE_UM:.0f} um and more; grey: nothing that could be measured.</p>'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """A number as people read it; a dash for None."""
    return "–" if value is None else f"{value:z.{digits}f}{unit}"


def pair_page(
    facts: Mapping[str, Any],
    sections: Sequence[tuple[str, RGB, RGB, RGB]],
    patches: Sequence[tuple[str, Mapping[str, RGB]]],
) -> str:
    """The page.

    facts    : of pair.json. sections : (heading, H&E, IHC in its frame, residual map) of each piece.
    patches  : (what was measured, pictures "he" and "ihc") of some patches.
    """
    he, ihc = facts["he"], facts["ihc"]
    body = [
        _STYLE,
        f"<h1>{escape(facts['slide'])}: H&E and {escape(facts['marker'])}</h1>",
        f"<p class=soft>H&E {escape(str(he['path']))} and IHC {escape(str(ihc['path']))}; {facts['n_patches']} patches of "
        f"{facts['size']} px at {facts['mpp']:g} um per px, part {escape(facts['part'])}, patient "
        f"{escape(facts['patient'])}. Look at the flicker and at the patches before you train on them.</p>",
        "<h2>Sections</h2>",
        _table(
            ("section of the H&E", "section of the IHC", "mm2", "turned", "face", "correlation", "next best", "residual, median",
             "residual, 90 %", "agreement", "largest stretch"),
            [
                (str(s["section"]), str(s["ihc_section"]), number(s["mm2"]), number(s["turn_deg"], 1, "°"),
                 "down" if s["is_mirrored"] else "up", number(s["correlation"]), number(s["runner_up"]),
                 number(s["residual_um"]["median"], 1, " um"), number(s["residual_um"]["p90"], 1, " um"),
                 number(s["agreement"]), number(s["stretch"]))
                for s in facts["sections"]
            ],
        ),
    ]  # fmt: skip
    if facts["left_out"]:
        listed = "; ".join(f"{n} {reason}" for reason, n in facts["left_out"].items())
        body.append(f"<div class=note>Places of patches that were not cut: {escape(listed)}.</div>")
    for heading, picture, moved, residual in sections:
        board = jpeg_data(checkerboard(picture, moved))
        body += [
            f"<h2>{escape(heading)}</h2><div class=pair>",
            f'<figure><figcaption>Flicker; point at it to stop</figcaption><div class=flicker><img src="{jpeg_data(picture)}" alt="H&E">'
            f'<img src="{jpeg_data(moved)}" alt="IHC in the frame of the H&E"></div></figure>',
            f'<figure><figcaption>Checkerboard; framed squares are the IHC</figcaption><img src="{board}" alt="checkerboard of H&E and IHC"></figure>',
            f'<figure><figcaption>What displacement is left</figcaption><img src="{jpeg_data(residual)}" alt="residual map">'
            f"{_legend()}</figure></div>",
        ]
    if patches:
        body += ["<h2>Patches</h2><p class=soft>From the best to the worst residual; point at one for its numbers. On the checkerboards "
                 "framed squares are the IHC.</p>",
                 picture_sheet(patches, {"he": "H&E", "ihc": facts["marker"], "board": "checkerboard"})]  # fmt: skip
    return page(f"wsistain pair: {facts['slide']}", body)
