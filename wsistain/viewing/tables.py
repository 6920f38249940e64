"""What lies beside a result and is shown with it: scores that are known already, and a file of cells."""

import json
from pathlib import Path
from typing import Any

from wsistain.viewing.results import run_facts

_CELLS = (".cells.parquet", ".cells.geojson")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome")


def cells_file(path: Path, given: Path | None) -> Path | None:
    """The cells of a result: the file that was named, else one beside it; None where there is none."""
    if given is not None:
        return given
    places = [path.with_name(f"{_stem(path)}{ending}") for ending in _CELLS]
    return next((place for place in places if place.is_file()), None)


def known_scores(path: Path) -> dict[str, Any]:
    """Scores of a finished result that were computed before: plain JSON values, {} where there are none.

    Those of `wsistain read` are `{"value", "low", "high"}`, with the number of cells and the guideline's word for them.
    """
    found: dict[str, Any] = {}
    run = run_facts(path)
    if isinstance(run.get("seam_score"), int | float):
        found["seam_score"] = run["seam_score"]
    try:
        slide = json.loads(path.with_name(f"{_stem(path)}.read.json").read_bytes())["scores"]["slide"]
        numbers = {name: held for name, held in slide.items() if isinstance(held, dict)}
        read = {name: {k: held.get(k) for k in ("value", "low", "high")} for name, held in numbers.items()}
        return {"cells": slide["cells"], "category": slide["category"], **read, **found}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return found
