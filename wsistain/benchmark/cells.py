"""The cells of a row: how they lie in its JSON, and what is told by them alone."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.evaluation.chances import calibration_error, errors_by_coverage, information, recalibrated

UNITS = 10_000.0
"""A row keeps densities and probabilities as so many whole steps of 1."""


def packed(cells: Mapping[str, NDArray[Any]], n_pictures: int) -> dict[str, Any]:
    """Cells as a row keeps them: how many each picture has, and what `arrays_of` gives back as base64 of bits and whole numbers.

    cells : picture int (n,), rising; positive bool; od, chance, trust float, kept to 1e-4 and at most 6.5.
    """
    counts = np.bincount(cells["picture"], minlength=n_pictures)
    found: dict[str, Any] = {"counts": counts.tolist(), "positive": _text(np.packbits(cells["positive"]))}
    for name in cells.keys() - {"picture", "positive"}:
        found[name] = _text(np.rint(np.clip(cells[name] * UNITS, 0, 65_535)).astype("<u2"))
    return found


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def arrays_of(cells: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """A row's cells as arrays: picture int, positive bool, od (and chance, trust) float. ValueError where they do not fit."""
    counts = np.array(cells["counts"], np.int64)
    n = int(counts.sum())
    bits = np.frombuffer(base64.b64decode(cells["positive"], validate=True), np.uint8)
    found = {
        "picture": np.repeat(np.arange(len(counts)), counts),
        "positive": np.unpackbits(bits, count=n).astype(bool),
    }
    for name in cells.keys() - {"counts", "positive"}:
        found[name] = np.frombuffer(base64.b64decode(cells[name], validate=True), "<u2") / UNITS
    if not n or len(bits) != -(-n // 8) or any(len(v) != n for v in found.values()):
        raise ValueError(f"lists of {n} cells of different lengths")
    return found


def cell_metrics(cells: Mapping[str, Any], slides: Sequence[str | None], cutoff: float) -> dict[str, Any]:
    """Information, calibration and abstention of a row's cells; intervals are drawn where rows are compared.

    slides : of each picture, which are left out in turn where a density is made a probability.
    cutoff : density from which a cell is called positive where no probability is given.
    """
    a = arrays_of(cells)
    n, positive = len(a["positive"]), a["positive"]
    values = {
        "information_od": information(recalibrated(a["od"], positive, [slides[k] for k in a["picture"]]), positive)
    }
    if "chance" in a:
        values |= {
            "information": information(a["chance"], positive),
            "calibration_error": calibration_error(a["chance"], positive),
        }
    if (told := calls(a, cutoff)) is not None:
        values |= {f"error_at_{round(100 * c)}": v for c, v in errors_by_coverage(*told).items()}
    return {
        name: {"value": value, "spread": None, "ci_low": None, "ci_high": None, "n": n}
        for name, value in values.items()
    }


def calls(cells: Mapping[str, NDArray[Any]], cutoff: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]] | None:
    """(whether each cell is called wrongly, how far the call is trusted) of what `arrays_of` gives; None without probability and trust.

    A probability calls from 0.5 on, else the density from `cutoff` on. Without a map of trust a call is trusted by how far its
    probability is from 0.5.
    """
    if "trust" not in cells and "chance" not in cells:
        return None
    called = cells["chance"] >= 0.5 if "chance" in cells else cells["od"] >= cutoff
    trust = cells["trust"] if "trust" in cells else np.abs(cells["chance"] - 0.5)
    return called != cells["positive"], np.asarray(trust, np.float64)
