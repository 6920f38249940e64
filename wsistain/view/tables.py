"""What lies beside a result and is shown with it: scores that are known already, and a file of cells."""

import json
from pathlib import Path
from typing import Any

from wsistain.view.results import run_facts

_CELLS = (".cells.parquet", ".cells.geojson")
_SCORES = ("h_score", "positive_fraction", "allred", "ki67_index", "her2", "trust", "seam_score", "tissue_mm2")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome")


def cells_file(path: Path, given: Path | None) -> Path | None:
    """The cells of a result: the file that was named, else one beside it; None where there is none."""
    if given is not None:
        return given
    places = [path.with_name(f"{_stem(path)}{ending}") for ending in _CELLS]
    return next((place for place in places if place.is_file()), None)


def known_scores(path: Path) -> dict[str, Any]:
    """Scores of a finished result that were computed before: from the files beside it, {} where there are none."""
    found: dict[str, Any] = {}
    run = run_facts(path)
    if isinstance(run.get("seam_score"), int | float):
        found["seam_score"] = run["seam_score"]
    try:
        read = json.loads(path.with_name(f"{_stem(path)}.scores.json").read_bytes())
    except (OSError, ValueError):
        return found
    if isinstance(read, dict):
        found |= {n: read[n] for n in _SCORES if isinstance(read.get(n), int | float | str)}
    return found
