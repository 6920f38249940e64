"""How cells were read, as plain JSON values: what stands in the table, in `read.json` and in the report."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.markers import Marker
from wsistain.reading.grid import Grid
from wsistain.reading.membranes import DIRECTIONS, MEMBRANES
from wsistain.reading.regions import Regions
from wsistain.reading.source import Result
from wsistain.reading.sources import Source
from wsistain.reading.stain import classed_by_membranes
from wsistain.slide.base import Slide

STATEMENT = "Read from a virtual stain computed from an H&E slide; for research use only, not for diagnosis."


def facts_of(
    slide: Slide, grid: Grid, source: Source, roi: Path | None, wanted: Sequence[str], left_out: Sequence[str],
    regions: Regions,
) -> dict[str, Any]:  # fmt: skip
    """How the cells were read: plain JSON values."""
    return {
        "statement": STATEMENT,
        "wsistain": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "slide": {"path": slide.info.path, "fingerprint": slide.info.fingerprint, "mpp": slide.info.mpp},
        "cells": source.told,
        "grid_mpp": grid.mpp,
        "roi": None if roi is None else str(roi),
        "roi_class": list(wanted),
        "without": list(left_out),
        "notes": [*regions.notes, *source.notes],
    }


def cutoffs_of(marker: Marker) -> list[Any]:
    """By what its cells are 1+, 2+ and 3+: densities; of HER2 a density and in what share of its directions a membrane reaches it."""
    if classed_by_membranes(marker):
        return [{"density": od, "share_of_directions": round(n / DIRECTIONS, 3)} for od, n in MEMBRANES]
    return list(marker.at_cells)


def provenance_of(result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """The same with the stain, its marker and the cut-offs."""
    told = result.stain.provenance
    keys = ("marker", "marker_definition", "system", "weights", "plan_hash", "date", "note")
    return {
        **facts,
        "marker": result.marker.name,
        "cutoffs_of_cells": cutoffs_of(result.marker),
        "positive_from": result.marker.cell_positive,
        "stain": {"name": Path(result.stain.path).name, **{k: told[k] for k in keys if k in told}},
    }


def told_of(result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """What the table says of where it comes from. Without the date: the same cells are the same bytes."""
    return {name: value for name, value in provenance_of(result, facts).items() if name != "date"}
