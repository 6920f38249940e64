"""What is told of finished slides: the table, the maps with their legends, and the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.evaluation.page import legend, page, picture_sheet
from wsistain.evaluation.stain_map import StainMap
from wsistain.markers import Marker
from wsistain.pages.pictures import nice_top
from wsistain.slide.base import RGB

Facts = dict[str, Any]


@dataclass
class SlideReport:
    """One slide: facts for the tables, its map, and pictures for the page."""

    facts: Facts
    map: StainMap
    marker: Marker
    pictures: dict[str, RGB] = field(default_factory=dict)


CONVENTIONS = {
    "seam_score": "as in run.json (wsistain.tiling.seams): mean step across tile borders over that elsewhere on the source's compression grid, blank pairs left out; 1 is perfect",
    "tissue_mm2": "area of the tissue mask of the stained slide (about 8 um per px)",
    "positive_fraction": "share of tissue pixels, level 0, whose stain density is at least the marker's 1+ cut-off",
    "h_score": "per tissue pixel, level 0, at the marker's cut-offs",
    "area_r_64um": "Pearson of the positive share of 64 um squares, virtual and registered real, where both are tissue",
    "area_r_256um": "the same for squares of 256 um",
    "residual_um": "local displacements left after the affine map, by phase correlation of windows with structure",
}


_STOPS = ((250, 246, 240), (224, 186, 140), (156, 88, 34), (66, 28, 8))
_UNKNOWN = 226
"""Grey of squares without tissue."""


def heat_map(values: NDArray[np.float64], top: float) -> RGB:
    """A map as a picture, uint8 (h, w, 3): from near white over tan to dark brown at `top`; grey where NaN."""
    stops = np.array(_STOPS, np.float64)
    share = np.clip(np.nan_to_num(values) / top, 0, 1) * (len(stops) - 1)
    rgb = np.stack([np.interp(share, np.arange(len(stops)), stops[:, c]) for c in range(3)], axis=2)
    rgb[~np.isfinite(values)] = _UNKNOWN
    factor = max(1, 320 // max(values.shape))
    return np.kron(rgb, np.ones((factor, factor, 1))).round().astype(np.uint8)


def paint_maps(reports: Sequence[SlideReport]) -> dict[str, str]:
    """Paint the maps of all slides in the same colours for the same numbers; the legend of each kind of map as HTML."""
    legends = {}
    for kind, label in (("positive", "of the tissue is positive"), ("h_score", "H-score")):
        maps = [r.map.positive_map() if kind == "positive" else r.map.h_score_map() / 300 for r in reports]
        top = nice_top([float(v) for m in maps for v in m[np.isfinite(m)]])
        for report, values in zip(reports, maps, strict=True):
            report.pictures[kind] = heat_map(values, top)
        ends = ("0 %", f"{100 * top:g} %") if kind == "positive" else ("0", f"{300 * top:g}")
        gradient = ", ".join(f"rgb{stop}" for stop in _STOPS)
        legends[kind] = legend(f"linear-gradient(to right, {gradient})", *ends, f"{label}; grey: no tissue")
    return legends


_COLUMNS = (
    ("marker", "marker", "{}"),
    ("seam score", "seam_score", "{:.3f}"),
    ("tissue mm2", "tissue_mm2", "{:.2f}"),
    ("positive", "positive_fraction", "{:.3f}"),
    ("H-score", "h_score", "{:.1f}"),
)
_REFERENCE_COLUMNS = (
    ("area r 64 um", "area_r_64um", "{:.3f}"),
    ("area r 256 um", "area_r_256um", "{:.3f}"),
    ("positive virtual", "positive_fraction_virtual", "{:.3f}"),
    ("positive real", "positive_fraction_real", "{:.3f}"),
    ("H-score virtual", "h_score_virtual", "{:.1f}"),
    ("H-score real", "h_score_real", "{:.1f}"),
    ("residual um", "residual_um_median", "{:.1f}"),
    ("residual um p90", "residual_um_p90", "{:.1f}"),
    ("correlation", "correlation", "{:.3f}"),
)


def table_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(names of columns, rows of text): with a reference, what the comparison says as well."""
    with_reference = any("reference" in s for s in results["slides"])
    header = ["slide", *(c[0] for c in _COLUMNS), *(c[0] for c in _REFERENCE_COLUMNS if with_reference)]
    rows = []
    for slide in results["slides"]:
        row = [slide["name"]]
        row += ["–" if slide[key] is None else form.format(slide[key]) for _, key, form in _COLUMNS]
        if with_reference:
            found = slide.get("reference", {})
            row += ["–" if found.get(key) is None else form.format(found[key]) for _, key, form in _REFERENCE_COLUMNS]
        rows.append(row)
    return header, rows


def flat_facts(slide: Facts) -> Facts:
    """The facts of one slide without levels, for a row of a CSV file."""
    found = slide.get("reference", {})
    return {k: v for k, v in slide.items() if k != "reference"} | {
        f"reference_{k}": v for k, v in found.items() if k != "matrix_yx_px"
    }


def to_html(results: dict[str, Any], reports: Sequence[SlideReport], legends: Mapping[str, str]) -> str:
    """The page; `legends` as `paint_maps` gives them."""
    header, rows = table_rows(results)
    heads = "".join(f"<th data-sort>{escape(h)}</th>" for h in header)
    lines = "".join(
        f"<tr><td class=text>{escape(row[0])}</td>" + "".join(f"<td>{escape(c)}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    labels = {
        "virtual": "virtual stain",
        "positive": "positive share of tissue, 64 um squares",
        "h_score": "H-score",
        "real": "registered real IHC",
        "checker": "virtual and real in turn",
    }
    notes = [
        f"{r.facts['name']}: seam score not known: {r.facts['seam_score_missing']}"
        for r in reports
        if r.facts["seam_score_missing"]
    ]
    body = [
        "<h1>Virtual slides</h1>",
        f"<p class=soft>wsistain {escape(results['wsistain_version'])}, {escape(results['date'])}. Virtual stains are for "
        "research, not for diagnosis.</p>",
        f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>',
        "".join(f"<div class=note>{escape(n)}</div>" for n in notes),
        "<h2>Pictures and maps</h2>",
        picture_sheet([(r.facts["name"], r.pictures) for r in reports], labels, legends, named=True),
        "<h2>Conventions</h2><dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in CONVENTIONS.items())
        + "</dl>",
        f"<details><summary>All facts</summary><pre>{escape(json.dumps(results['slides'], indent=2))}</pre></details>",
    ]
    return page("wsistain: virtual slides", body)
