"""One pair of slides, from two files to patches: register, measure, cut, show."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsistain.config import MIST_MPP
from wsistain.data.layouts import slide_of
from wsistain.errors import ConfigError, DataError
from wsistain.markers import DAB, Marker, find_marker
from wsistain.optics.pinkness import LEAST_PINK, MOST_PINK, SWAPPED
from wsistain.pairing.align import Placed, charts_of, place_pieces
from wsistain.pairing.cut import Cutter, Patch
from wsistain.pairing.fit import FIT_MPP, STEP_UM, Fit, measure_fit
from wsistain.pairing.folder import MarkerFolder, Part, part_of_patient, rows_as_text
from wsistain.pairing.page import checkerboard, number, pair_page, residual_picture
from wsistain.pairing.sections import Side, look_at_slide
from wsistain.pairing.smooth import smooth_map
from wsistain.pairing.transform import PieceMap, load_transform, save_transform
from wsistain.runtime.files import local_path, write_bytes, write_json, write_text
from wsistain.runtime.jpeg import LEARNT_FROM, encode_jpeg
from wsistain.runtime.progress import OnProgress
from wsistain.slide.base import RGB, Slide, SlideInfo
from wsistain.slide.inside import phantom_of, phantom_text
from wsistain.slide.mpp import MppError
from wsistain.slide.reader import open_slide
from wsistain.slide.resample import choose_sampling, read_window

_SHOWN, _SHOWN_PX, _OVERVIEW_PX = 12, 320, 1100
_FIT_PX = 16_000_000


@dataclass(frozen=True)
class PairJob:
    """What is asked for of one pair.

    slide    : its name in files and manifest. patient : None is the slide's name.
    part     : "train" or "val"; "auto" by a hash of the patient's name.
    he_mpp, ihc_mpp : um per px of slides that do not say.
    mpp, size : of the patches, um per px and px.
    least_tissue : patches of which less is tissue are not cut, 0..1.
    transform : an earlier run's transform.npz of the same slides, used instead of registering.
    """

    he: str
    ihc: str
    marker: str
    slide: str
    patient: str | None = None
    part: Literal["auto", "train", "val"] = "auto"
    he_mpp: float | None = None
    ihc_mpp: float | None = None
    mpp: float = MIST_MPP
    size: int = 1024
    least_tissue: float = 0.5
    transform: Path | None = None


@dataclass(frozen=True)
class Registered:
    """Both slides as they were looked at, and one map and fit for each piece that was found, by the piece's number."""

    he: Side
    ihc: Side
    pieces: dict[int, PieceMap]
    fits: dict[int, Fit]
    facts: list[dict[str, Any]]


def make_pair(
    job: PairJob, output: str | Path, *, overwrite: bool = False, progress: OnProgress | None = None
) -> dict[str, Any]:
    """The facts of a finished pair, as in its pair.json.

    Writes `<output>/<MARKER>/TrainValAB/...`, `.../pairs/<slide>/` and the marker's manifest; docs/pair.md describes all
    of it. The same slides give the same bytes. Raises SlideError, ConfigError, DataError (the slides do not show the same
    tissue) or OutputError; nothing is left behind then.
    """
    marker = find_marker(job.marker)
    if job.size < 64 or job.size % 16 or not 0 < job.least_tissue <= 1 or not 0.05 <= job.mpp <= 20:
        raise ConfigError(
            f"patches of {job.size} px at {job.mpp:g} um per px with {job.least_tissue:g} tissue cannot be cut; wanted a size "
            "that is a multiple of 16 from 64 on, 0.05 to 20 um per px, and a share above 0 up to 1"
        )
    if slide_of(f"{job.slide}_0_0") != job.slide:
        raise ConfigError(
            f"the name {job.slide!r} ends like the place of a patch, by which it would be read wrongly; choose another, such as "
            f"{job.slide.replace('_', '-')!r}"
        )
    patient = job.patient or job.slide
    part: Part = part_of_patient(patient) if job.part == "auto" else job.part
    folder = MarkerFolder(local_path(output), marker.name, job.mpp, job.size)
    with ExitStack() as stack:
        he = stack.enter_context(_opened(job.he, job.he_mpp, "--he-mpp"))
        ihc = stack.enter_context(_opened(job.ihc, job.ihc_mpp, "--ihc-mpp"))
        choose_sampling(he.info, job.mpp), choose_sampling(ihc.info, job.mpp)  # refused before the work, not after it
        if he.info.fingerprint == ihc.info.fingerprint:
            raise ConfigError(f"{job.he} and {job.ihc} are one slide; name an H&E slide and an IHC slide")
        staged = stack.enter_context(folder.staging(job.slide, overwrite=overwrite))
        found = register_slides(he, ihc, marker, transform=job.transform, progress=progress)
        facts = _write(staged, job, marker, found, patient, part, progress)
        folder.adopt(staged, job.slide, part)
    return facts


@contextmanager
def _opened(path: str, mpp: float | None, option: str) -> Iterator[Slide]:
    """An open slide; a missing um per px is asked for by the name of its own option."""
    try:
        slide = open_slide(path, mpp=mpp)
    except MppError as error:
        raise MppError(str(error).replace("--mpp", option)) from None
    try:
        yield slide
    finally:
        slide.close()


def register_slides(
    he: Slide, ihc: Slide, marker: Marker, *, transform: Path | None = None, progress: OnProgress | None = None
) -> Registered:
    """Both slides, registered: pieces of tissue, how they lie, the smooth field over each, and how well it fits.

    transform : an earlier result of the same two slides, which is then only measured.

    Raises DataError where one has no tissue or they do not show the same.
    """
    # What the slides show.
    tell = progress or (lambda what, done, total: None)
    sides = []
    for k, (slide, chromogen) in enumerate(((he, None), (ihc, marker.chromogen))):
        side = look_at_slide(slide, chromogen)
        if not side.pieces:
            raise DataError(f"{slide.info.path} shows no tissue; wanted a section of it")
        sides.append(side)
        tell("slides looked at", k + 1, 2)

    # How each piece lies, or what an earlier run found.
    if transform is not None:
        pieces, facts = _given(transform, he.info, ihc.info)
    else:
        _check_stains(sides[0], sides[1])
        placed = place_pieces(sides[0], sides[1])
        pieces, facts = {}, []
        for k, one in enumerate(placed, 1):
            pieces[one.he.number] = smooth_map(sides[0], sides[1], one)
            facts.append(_section_facts(one, pieces[one.he.number]))
            tell("pieces registered", k, len(placed))

    # How well they lie over each other.
    fits = {}
    for section in facts:
        key = section["section"]
        pair = [(sides[0], _piece(sides[0], key)), (sides[1], _piece(sides[1], section["ihc_section"]))]
        charts = charts_of(pair, FIT_MPP, _FIT_PX)
        fits[key] = fit = measure_fit(charts[0], charts[1], pieces[key])
        section |= _fit_facts(fit)
    return Registered(sides[0], sides[1], pieces, fits, facts)


def _check_stains(he: Side, ihc: Side) -> None:
    """DataError where the slide named as H&E is the IHC, and the other way round."""
    if he.pinkness is not None and ihc.pinkness is not None and ihc.pinkness - he.pinkness > SWAPPED:
        raise DataError(
            f"{he.slide.info.path} is named as the H&E slide and {ihc.slide.info.path} as the IHC, but it is the second that is "
            f"pink with eosin ({ihc.pinkness:.2f} against {he.pinkness:.2f}); name them the other way round"
        )


def stain_notes(side: Side) -> list[str]:
    """A sentence where a slide does not look like what it is named as; both may be H&E, or both IHC."""
    if side.pinkness is None:
        return []
    if side.chromogen is None and side.pinkness < LEAST_PINK:
        return [
            f"this does not look like H&E: hardly any eosin (pinkness {side.pinkness:.2f}, on H&E mostly 0.1 to 0.25)"
        ]
    if side.chromogen == DAB and side.pinkness > MOST_PINK:
        return [f"this looks like H&E, not like DAB (pinkness {side.pinkness:.2f}, with DAB mostly below {LEAST_PINK})"]
    return []


def _piece(side: Side, number: int) -> Any:
    return next(p for p in side.pieces if p.number == number)


def _section_facts(placed: Placed, piece: PieceMap) -> dict[str, Any]:
    """What is told of how a piece lies."""
    return {
        "section": placed.he.number,
        "ihc_section": placed.ihc.number,
        "mm2": round(placed.he.mm2, 3),
        "turn_deg": round(piece.turn_deg, 2) + 0.0,  # no -0.0
        "is_mirrored": piece.is_mirrored,
        "correlation": placed.correlation,
        "runner_up": placed.runner_up,
        "stretch": round(float(piece.stretch().max()), 4),
    }


def _fit_facts(fit: Fit) -> dict[str, Any]:
    values = fit.residual_um[np.isfinite(fit.residual_um)]
    agreement = fit.agreement[np.isfinite(fit.agreement)]
    median, p90 = (round(float(np.quantile(values, q)), 3) if values.size else None for q in (0.5, 0.9))
    return {
        "residual_um": {"median": median, "p90": p90, "windows": int(values.size)},
        "agreement": round(float(agreement.mean()), 4) if agreement.size else None,
    }


def _given(path: Path, he: SlideInfo, ihc: SlideInfo) -> tuple[dict[int, PieceMap], list[dict[str, Any]]]:
    """The maps of an earlier run and what it said of them; DataError where it was of other slides."""
    pieces, facts = load_transform(path)
    for side, info in (("he", he), ("ihc", ihc)):
        if facts.get(side, {}).get("fingerprint") != info.fingerprint:
            raise DataError(f"{path} was made from another {side.upper()} slide than {info.path}; register them again")
    sections = facts["sections"]
    return {s["section"]: piece for s, piece in zip(sections, pieces, strict=True)}, sections


def _write(
    staged: Path, job: PairJob, marker: Marker, found: Registered, patient: str, part: Part, progress: OnProgress | None
) -> dict[str, Any]:
    """Everything of a pair into the staging folder; its facts."""
    # The patches, and a line of what was measured for each.
    cutter = Cutter(
        found.he, found.ihc, marker, found.pieces, found.fits, job.mpp, job.size, job.least_tissue
    )  # fmt: skip
    places, left_out = cutter.places()
    if not places:
        told = "; ".join(f"{n} {reason}" for reason, n in left_out.items()) or "the tissue is smaller than one patch"
        raise DataError(f"{job.he}: no patch of {job.size} px at {job.mpp:g} um per px can be cut: {told}")
    rows, shown = _cut_all(staged, job, cutter, places, patient, part, progress)
    write_text(staged / "patches.csv", rows_as_text(rows))

    # The transform, the residual map as numbers, the facts and the page.
    he, ihc = _side_facts(found.he), _side_facts(found.ihc)
    basis = {"he": he, "ihc": ihc, "sections": found.facts}
    save_transform(staged / "transform.npz", [found.pieces[s["section"]] for s in found.facts], basis)
    _write_residual(staged / "residual.csv", found.fits)
    facts = {
        "slide": job.slide, "patient": patient, "part": part, "marker": marker.name, "mpp": job.mpp, "size": job.size,
        **basis, "n_patches": len(rows), "left_out": dict(sorted(left_out.items())),
    }  # fmt: skip
    write_json(staged / "pair.json", facts, sort_keys=True)
    write_text(staged / "page.html", pair_page(facts, list(_sections_shown(found)), shown))
    return facts


def _side_facts(side: Side) -> dict[str, Any]:
    """What is told of one of the two slides."""
    info = side.slide.info
    return {
        "path": info.path,
        "mpp": info.mpp,
        "fingerprint": info.fingerprint,
        "pieces": len(side.pieces),
        "unreadable_tiles": side.slide.unreadable_tiles,
        "notes": [*info.notes, *stain_notes(side)],
    }


def _cut_all(
    staged: Path,
    job: PairJob,
    cutter: Cutter,
    places: list[tuple[int, int, int]],
    patient: str,
    part: Part,
    progress: OnProgress | None,
) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, RGB]]]]:
    """Write every patch; a row for each, and some to show, spread from the best to the worst residual."""
    for side in ("A", "B"):
        (staged / side).mkdir()
    # Patches of synthetic tissue are synthetic: weights that are trained on them must know it.
    painted = phantom_of(job.he)
    comment = b"" if painted is None else phantom_text({**painted, "kind": "patches"}).encode("ascii")
    rows: list[dict[str, Any]] = []
    for done, place in enumerate(places, 1):
        patch = cutter.cut(place)
        name = f"{job.slide}_{patch.col}_{patch.row}"
        for side, rgb in (("A", patch.he), ("B", patch.ihc)):
            write_bytes(staged / side / f"{name}.jpg", encode_jpeg(rgb, LEARNT_FROM, comment=comment))
        rows.append({"patch": name, "part": part, "slide": job.slide, "patient": patient, **asdict(patch.measured)})
        if progress is not None:
            progress("patches", done, len(places))
    order = sorted(range(len(rows)), key=lambda k: (rows[k]["residual_um"] is None, rows[k]["residual_um"] or 0.0, k))
    chosen = [order[k] for k in np.unique(np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int))]
    return rows, [_shown(cutter.cut(places[k]), rows[k]) for k in chosen]


def _shown(patch: Patch, row: dict[str, Any]) -> tuple[str, dict[str, RGB]]:
    """A patch for the page: its numbers, and its pictures made small."""
    n = max(1, patch.he.shape[0] // _SHOWN_PX)
    h = patch.he.shape[0] // n * n
    he, ihc = (
        np.rint(p[:h, :h].reshape(h // n, n, h // n, n, 3).mean(axis=(1, 3))).astype(np.uint8)
        for p in (patch.he, patch.ihc)
    )
    told = f"{row['patch']}, residual {number(row['residual_um'], 1)} um, agreement {number(row['agreement'])}, DAB {row['dab']:.1%}"
    return told, {"he": he, "ihc": ihc, "board": checkerboard(he, ihc, 4)}


def _write_residual(path: Path, fits: dict[int, Fit]) -> None:
    """The windows of all pieces as lines: section, place of the centre on the H&E slide, residual, agreement."""
    lines = ["section,y_um,x_um,residual_um,agreement"]
    for section, fit in fits.items():
        for (row, col), agreement in np.ndenumerate(fit.agreement):
            if np.isfinite(agreement):
                y, x = fit.centre_um[0] + row * STEP_UM, fit.centre_um[1] + col * STEP_UM
                residual = fit.residual_um[row, col]
                told = f"{residual:.3f}" if np.isfinite(residual) else ""
                lines.append(f"{section},{y:.1f},{x:.1f},{told},{agreement:.4f}")
    write_text(path, "\n".join(lines) + "\n")


def _sections_shown(found: Registered) -> Iterator[tuple[str, RGB, RGB, RGB]]:
    """Each piece for the page: heading, H&E, the IHC in its frame, and the residual map."""
    for section in found.facts:
        piece = found.pieces[section["section"]]
        y0, x0, y1, x1 = (float(v) for v in piece.box_um)
        info = found.he.slide.info
        sampling = choose_sampling(info, max(info.mpp, max(y1 - y0, x1 - x0) / _OVERVIEW_PX))
        rows, cols = (
            np.arange(int(a // sampling.mpp), int(b // sampling.mpp) + 1) for a, b in ((y0, y1), (x0, x1))
        )  # fmt: skip
        he = read_window(found.he.slide, sampling, int(rows[0]), int(cols[0]), len(rows), len(cols))
        y, x = np.meshgrid((rows + 0.5) * sampling.mpp, (cols + 0.5) * sampling.mpp, indexing="ij")
        ihc = _overview(found.ihc.slide, sampling.mpp, *piece.map(y, x))
        origin = (float(rows[0]) * sampling.mpp, float(cols[0]) * sampling.mpp)
        residual = residual_picture(he, found.fits[section["section"]], sampling.mpp, origin)
        yield f"Section {section['section']}", he, ihc, residual


def _overview(slide: Slide, mpp: float, y: NDArray[np.float64], x: NDArray[np.float64]) -> RGB:
    """A slide at places in um, at low power, nearest pixel."""
    sampling = choose_sampling(slide.info, max(mpp, slide.info.mpp))
    row, col = (np.floor(v / sampling.mpp).astype(np.int64) for v in (y, x))
    top, left = int(row.min()), int(col.min())
    height, width = int(row.max()) - top + 1, int(col.max()) - left + 1
    return np.asarray(read_window(slide, sampling, top, left, height, width)[row - top, col - left])
