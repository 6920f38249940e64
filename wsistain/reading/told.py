"""Scores as files: a table with one line a region, and everything as JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np

from wsistain.reading.scores import Estimate, Scores
from wsistain.reading.trusted import TRUSTED_FROM
from wsistain.runtime.files import reporting, write_json, write_text
from wsistain.runtime.spreadsheet import csv_text

if TYPE_CHECKING:
    from wsistain.reading.scored import Reading

_DIGITS = 3


def write_scores(reading: "Reading") -> None:
    """Write `scores.csv` beside the stain. Raises OutputError."""
    lines = score_lines(reading)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with reporting(reading.files["scores"], retry="run again"):
        write_text(reading.files["scores"], csv_text(columns, lines))


def write_facts(reading: "Reading") -> None:
    """Write `read.json` beside the stain, after all other files. Raises OutputError."""
    with reporting(reading.files["facts"], retry="run again"):
        write_json(reading.files["facts"], as_json(reading))


def score_lines(reading: "Reading") -> list[dict[str, Any]]:
    """One line a region: the slide (the cells that count), each drawn class, each drawn shape, the hot spot of 1 mm2."""
    lines = [_line(reading, "slide", reading.slide)]
    if reading.trust is not None:
        lines[0] |= {"trusted_share": _number(reading.trust.trusted), **doubted(reading)}
    lines += [_line(reading, f"class {name}", scores) for name, scores in reading.regions.items()]
    lines += [_line(reading, f"shape {name}", scores) for name, scores in reading.rois.items()]
    if reading.hotspot is not None:
        place = {"hotspot_y_um": round(reading.hotspot.y, 1), "hotspot_x_um": round(reading.hotspot.x, 1)}
        lines.append({**_line(reading, "hot spot of 1 mm2", reading.hotspot.scores), **place})
    return lines


def _line(reading: "Reading", region: str, scores: Scores) -> dict[str, Any]:
    line: dict[str, Any] = {
        "slide": reading.result.stem.removesuffix(f".{reading.result.marker.name}"),
        "marker": reading.result.marker.name,
        "region": region,
        "cells": scores.n_cells,
        "cells_not_read": scores.not_read,
        "category": scores.category,
    }
    for name, estimate in scores.numbers.items():
        line |= {name: _number(estimate.value), f"{name}_low": _number(estimate.low)}
        line[f"{name}_high"] = _number(estimate.high)
    return line


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def as_json(reading: "Reading") -> dict[str, Any]:
    """Everything that was read but the cells, as plain JSON values."""
    hot = reading.hotspot
    return {
        "marker": reading.result.marker.name,
        "cells": reading.n_cells,
        "scores": {
            "slide": _scores(reading.slide),
            "classes": {name: _scores(s) for name, s in reading.regions.items()},
            "shapes": {name: _scores(s) for name, s in reading.rois.items()},
            "hotspot": None if hot is None else {"y_um": hot.y, "x_um": hot.x, **_scores(hot.scores)},
        },
        "trust": None if reading.trust is None else {**reading.trust.facts(), **doubted(reading)},
        "seconds": reading.seconds,
        "resumed_blocks": reading.resumed_blocks,
        "files": {what: path.name for what, path in reading.files.items()},
        "provenance": reading.facts,
    }


def doubted(reading: "Reading") -> dict[str, int]:
    """How many of the counted cells lie where the stain is not trusted, and where nothing is known of it."""
    trust = reading.kept.joined("trust", float)[reading.kept.joined("counted", bool)]
    return {
        "cells_distrusted": int((trust < TRUSTED_FROM).sum()),
        "cells_of_unknown_trust": int(np.isnan(trust).sum()),
    }


def _scores(scores: Scores) -> dict[str, Any]:
    def told(e: Estimate) -> dict[str, float | None]:
        return {"value": _number(e.value), "low": _number(e.low), "high": _number(e.high)}

    numbers = {name: told(estimate) for name, estimate in scores.numbers.items()}
    return {"cells": scores.n_cells, "not_read": scores.not_read, "category": scores.category, **numbers}
