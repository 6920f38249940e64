"""The page of a reading: what was stained, what was read of it, and how far to believe it. One HTML file, no scripts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsistain.markers import Marker
from wsistain.pages.pictures import POSITIVE, TRUST, Ramp, in_um, jpeg_data, nice_top, png_data
from wsistain.pages.plots import histogram
from wsistain.pages.render import number, percent, render
from wsistain.reading.membranes import DIRECTIONS, MEMBRANES, MEMBRANES_SOURCE
from wsistain.reading.qupath import COLOURS
from wsistain.reading.regions import Regions
from wsistain.reading.scores import Estimate, Scores
from wsistain.reading.shown import (
    LEAST_CELLS,
    SquareMap,
    View,
    in_view,
    outline,
    positive_map,
    scale_bar,
    spread_of,
    stain_picture,
    trust_map,
)
from wsistain.reading.stain import classed_by_membranes, positive_from
from wsistain.runtime.files import reporting, write_text
from wsistain.slide.base import RGB

if TYPE_CHECKING:
    from wsistain.reading.scored import Reading

REGION_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#e69f00", "#000000")
NAMES = {
    "percent_positive": ("Positive cells", " %", 1),
    "h_score": ("H-score", "", 1),
    "allred": ("Allred", "", 0),
    "ki67_index": ("Ki67 index", " %", 1),
    "her2_score": ("HER2 score", "", 0),
}
"""Score to its name for people, unit and digits; others are told by their own name."""

MOST_SHAPES = 40
"""Of more shapes the scores are in the table alone."""

GRADE_NAMES = ("Negative", "1+", "2+", "3+")
VERDICT_NOTES = {
    "like training": "Colours and textures are like those of the training pictures. That says nothing of whether the stain is true.",
    "not known": "Whether the slide looks like what the weights were trained on is not known.",
}


@dataclass(frozen=True)
class Layer:
    """A map over the pictures, in px of the view; data: a PNG address."""

    data: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Legend:
    """What the colours of a map mean: a CSS gradient between two words, and a sentence."""

    gradient: str
    low: str
    high: str
    note: str


def write_report(reading: "Reading", view: View, he: RGB, regions: Regions) -> None:
    """Write `report.html` beside the stain.

    he      : uint8 (h, w, 3), the H&E in the view of the stain (`shown.HePictures`).
    regions : as they were drawn.

    Raises OutputError, or SlideError where the stain cannot be read any more.
    """
    text = to_html(reading, view, he, regions)
    with reporting(reading.files["report"], retry="run again"):
        write_text(reading.files["report"], text)


def to_html(reading: "Reading", view: View, he: RGB, regions: Regions) -> str:
    """The page of one reading; see `write_report`."""
    told = reading.result.stain.provenance
    kept, marker = reading.kept, reading.result.marker
    grade, counted = kept.joined("grade", np.int8), kept.joined("counted", bool)
    counts = counted & (grade >= 0)
    y, x = (kept.joined(n, float)[counts] for n in ("y", "x"))
    positive, edge = positive_map(view, y, x, grade[counts] >= marker.cell_positive)
    top = nice_top([float(v) for v in positive.share.ravel()])
    bar_um, bar_px = scale_bar(view)
    colours = [_hex(COLOURS[name]) for name in GRADE_NAMES]
    return render(
        "reading.html",
        title=f"{_slide_name(reading)} · {marker.name}",
        statement=told.get("statement", reading.facts["statement"]),
        demonstration=_demonstration(told),
        verdict=_verdict(told),
        marker=marker.name,
        headline=_numbers(reading.slide),
        trusted=None if reading.trust is None else reading.trust.trusted,
        scores=reading.slide,
        interval="95 % interval" if any(e.low is not None for e in reading.slide.numbers.values()) else "",
        view=view,
        size=f"{in_um(round(view.width * view.mpp))} × {in_um(round(view.height * view.mpp))}",
        bar={"px": bar_px, "text": in_um(bar_um)},
        he=jpeg_data(he),
        stain=jpeg_data(stain_picture(reading.result.stain, view)),
        regions=_regions(reading, regions, view),
        hotspot=_hotspot(reading, view),
        positive=_layer(positive, POSITIVE, 1 / top),
        positive_legend=Legend(
            POSITIVE.css,
            "0 %",
            percent(top, 0) + ("" if top == 1 else " or more"),
            f"share of positive cells in squares of {edge:g} µm; clear: fewer than {LEAST_CELLS} cells that count",
        ),
        **_trust(reading, view),
        table=_table(reading),
        **_plot(kept.joined("od", float)[counts], marker, colours),
        classes=_classes(grade[counts], colours),
        notes=_notes(reading, regions),
        provenance=_provenance(reading, told),
    )


def _plot(od: "np.ndarray[Any, np.dtype[np.float64]]", marker: Marker, colours: list[str]) -> dict[str, Any]:
    """The histogram of what decides the classes, and what it says. HER2's follow from more than one density."""
    if classed_by_membranes(marker):
        words = f"{marker.chromogen.name} optical density that half of a membrane reaches"
        names = "incomplete", "complete"
        note = f"{words}, cells that count; line: complete (2+ and 3+)"
        return {
            "plot": histogram(od, [positive_from(marker)], colours[::2], names),
            "plot_note": note,
            "plot_axis": words,
        }
    words = f"{marker.chromogen.name} optical density"
    note = f"{words} of the cells that count; lines: cut-offs of the classes"
    return {
        "plot": histogram(od, marker.at_cells, colours, GRADE_NAMES),
        "plot_note": note,
        "plot_axis": f"{words} of a cell",
    }


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _slide_name(reading: "Reading") -> str:
    told = reading.result.stain.provenance.get("slide")
    name = told.get("name") if isinstance(told, dict) else None
    return name if isinstance(name, str) else reading.result.stem.removesuffix(f".{reading.result.marker.name}")


def _demonstration(told: Mapping[str, Any]) -> str:
    """What to know of weights that saw synthetic tissue alone; "" for others."""
    weights = told.get("weights")
    data = str(weights.get("training_data", "")) if isinstance(weights, dict) else ""
    note = str(told.get("note") or "")
    if note:
        return note
    return "Trained on synthetic tissue, not on patients' slides." if "synthetic" in data.lower() else ""


def _verdict(told: Mapping[str, Any]) -> dict[str, str]:
    """The run's verdict on the slide: `kind` (bad, warn, good or unknown), `words`, and a sentence."""
    trust = told.get("trust")
    trust = trust if isinstance(trust, dict) else {}
    words = str(trust.get("verdict") or "not known")
    kinds = {"unlike training": "bad", "partly unlike training": "warn", "like training": "good"}
    said = [str(trust["why"]).capitalize() + "."] if trust.get("why") else []
    unlike = trust.get("unlike")
    if isinstance(unlike, int | float) and words != "not known" and not trust.get("why"):
        said.append(f"{unlike:.0%} of {trust.get('squares', '?')} squares look like nothing in the training pictures.")
    if words in VERDICT_NOTES:
        said.append(VERDICT_NOTES[words])
    elif kinds.get(words) in ("bad", "warn"):
        said.append("Do not believe the stain.")
    return {"kind": kinds.get(words, "unknown"), "words": words, "text": " ".join(said)}


def _score(name: str, estimate: Estimate) -> dict[str, str]:
    label, unit, digits = NAMES.get(name, (name.replace("_", " "), "", 1))
    interval = "" if estimate.low is None else f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"
    text = number(estimate.value, digits)
    return {"label": label, "value": text + (unit if estimate.value is not None else ""), "interval": interval}


def _numbers(scores: Scores) -> list[dict[str, str]]:
    return [_score(name, estimate) for name, estimate in scores.numbers.items()]


def _table(reading: "Reading") -> list[dict[str, Any]]:
    """Rows of the table of scores: the slide, each drawn class, of several their shapes, the hot spot."""
    rows = [("Slide (cells that count)", reading.slide), *reading.regions.items()]
    if len(reading.regions) < len(reading.rois) <= MOST_SHAPES:
        rows += [(f"Shape {name}", scores) for name, scores in reading.rois.items()]
    if reading.hotspot is not None:
        rows.append(("Hot spot of 1 mm²", reading.hotspot.scores))
    return [{"name": name, "scores": scores, "numbers": _numbers(scores)} for name, scores in rows]


def _classes(grade: "np.ndarray[Any, np.dtype[np.int8]]", colours: list[str]) -> list[dict[str, Any]]:
    n = max(len(grade), 1)
    counts = [int((grade == k).sum()) for k in range(4)]
    return [
        {"name": name, "colour": colour, "n": count, "share": count / n}
        for name, colour, count in zip(GRADE_NAMES, colours, counts, strict=True)
    ]


def _layer(squares: SquareMap, ramp: Ramp, gain: float = 1.0) -> Layer:
    height, width = squares.share.shape
    data = png_data(ramp.paint(np.clip(squares.share * gain, 0, 1)))
    return Layer(data, squares.x, squares.y, width * squares.edge, height * squares.edge)


def _trust(reading: "Reading", view: View) -> dict[str, Any]:
    """The trust map as a layer, its legend, and what to say of it."""
    found = trust_map(reading.result.stain)
    if isinstance(found, str):
        return {"trust": None, "trust_legend": None, "trust_missing": found}
    median, low = spread_of(found.share.ravel())
    note = f"squares of {found.mpp:.3g} µm; nothing is laid over where the stain is trusted"
    if np.isfinite(median):
        note += f"; median {median:.2f}, below one half in {low:.0%} of what is known"
    return {
        "trust": _layer(in_view(found, view), TRUST),
        "trust_legend": Legend(TRUST.css, "no trust", "full (clear)", note),
        "trust_missing": "",
    }


def _regions(reading: "Reading", regions: Regions, view: View) -> list[dict[str, Any]]:
    um_l0 = float(reading.facts["slide"]["mpp"])
    return [
        {
            "name": region.name,
            "counts": region.counts,
            "colour": REGION_COLOURS[k % len(REGION_COLOURS)],
            "path": outline(region, view, um_l0),
            "n": reading.regions[region.name].n_cells if region.name in reading.regions else 0,
        }
        for k, region in enumerate(regions.regions)
    ]


def _hotspot(reading: "Reading", view: View) -> dict[str, float] | None:
    if reading.hotspot is None:
        return None
    y, x = view.px(np.array(reading.hotspot.y), np.array(reading.hotspot.x))
    return {"x": float(x), "y": float(y), "edge": 1000 / view.mpp}


def _notes(reading: "Reading", regions: Regions) -> list[str]:
    """What whoever reads the numbers must know."""
    notes = []
    if not any(r.counts for r in regions.regions):
        rest = "" if not regions.regions else " outside what is left out"
        notes.append(
            f"Guidelines count invasive tumour cells. No tumour was drawn (--roi), so all cells{rest} count here."
        )
    notes.append(
        "Intervals (95 %) come from draws of fields of the slide: how much the number depends on the fields looked at, "
        "not how wrong the stain or the cells are."
    )
    if reading.slide.not_read:
        notes.append(f"{reading.slide.not_read} cells lie where nothing was stained; they count nowhere.")
    notes += [str(n) for n in reading.facts.get("notes", [])]
    run = _run_facts(reading)
    notes += [str(w) for w in run.get("warnings", []) if isinstance(w, str) and "like training" not in w]
    return list(dict.fromkeys(notes))


def _run_facts(reading: "Reading") -> dict[str, Any]:
    try:
        found = json.loads(reading.result.beside("run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _cutoffs(marker: Marker) -> str:
    if classed_by_membranes(marker):
        return "membrane of " + " / ".join(f"{od:g} OD in {n} of {DIRECTIONS} directions" for od, n in MEMBRANES)
    return " / ".join(f"{c:g}" for c in marker.at_cells) + " OD"


def _provenance(reading: "Reading", told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Terms and what they say; what is not known is left out."""
    facts, marker = reading.facts, reading.result.marker
    weights = told["weights"] if isinstance(told.get("weights"), dict) else {}
    slide = told["slide"] if isinstance(told.get("slide"), dict) else {}
    run = _run_facts(reading)
    seam = run.get("seam_score")
    rows: list[tuple[str, Any]] = [
        ("Slide", slide.get("name")),
        ("Fingerprint", slide.get("fingerprint")),
        ("µm per px of the slide", slide.get("mpp")),
        ("Stain", Path(reading.result.stain.path).name),
        ("Stained", told.get("date")),
        ("Marker", f"{marker.name}, {marker.compartment}, {marker.chromogen.name}"),
        ("Cut-offs of cells", f"{_cutoffs(marker)}; positive from {marker.cell_positive}+"),
        ("Where they come from", MEMBRANES_SOURCE if classed_by_membranes(marker) else marker.cutoffs_source),
        ("System", told.get("system")),
        ("Weights", weights.get("name")),
        ("SHA-256 of the weights", weights.get("sha256")),
        ("Trained on", weights.get("training_data")),
        ("Licence of the weights", weights.get("licence")),
        ("Seam score", f"{seam:.2f}" if isinstance(seam, int | float) else None),
        ("Cells", f"{reading.n_cells} {facts['cells'] if facts['cells'] == 'found by wsistain' else 'from ' + facts['cells']}"),
        ("Regions", facts["roi"]),
        ("Read", facts["date"]),
        ("wsistain", facts["wsistain"]),
    ]  # fmt: skip
    return [(term, str(value)) for term, value in rows if value not in (None, "")]
