"""Whether the papers' metrics put the systems of a table in the order in which their cells do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from wsistain.benchmark.compare import RANKED, System
from wsistain.evaluation.metrics import METRICS

LEAST = 4
"""Systems of which an order is told."""


@dataclass(frozen=True)
class Agreement:
    """One metric against the first ranked one: Spearman's correlation over `n` systems, 1 for the same order.

    low, high : 95 % of the draws of slides and seeds; None where the metric has none.
    """

    metric: str
    n: int
    value: float
    low: float | None
    high: float | None


def agreements(systems: Sequence[System], metrics: Sequence[str]) -> list[Agreement]:
    """How each of `metrics` agrees with the cell AUC, the best first; those that `LEAST` systems or more have."""
    found = []
    for metric in metrics:
        have = [s for s in systems if np.isfinite([s.value.get(m, np.nan) for m in (metric, RANKED[0])]).all()]
        if len(have) < LEAST or metric == RANKED[0]:
            continue
        value = spearman(*(np.array([[_good(m) * s.value[m]] for s in have]) for m in (metric, RANKED[0])))[0]
        draws = spearman(*(np.array([_good(m) * s.draws[m] for s in have]) for m in (metric, RANKED[0])))
        draws = draws[np.isfinite(draws)]
        low, high = np.quantile(draws, [0.025, 0.975]).tolist() if draws.size else (None, None)
        if np.isfinite(value):
            found.append(Agreement(metric, len(have), float(value), low, high))
    return sorted(found, key=lambda a: -a.value)


def _good(metric: str) -> float:
    """1 where more is better, -1 where less is."""
    return 1.0 if METRICS[metric].better == "higher" else -1.0


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank correlation of each column of a with that of b, float (k,) of (n, k); NaN where a column is constant or has a NaN."""
    ok = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    found = np.full(a.shape[1], np.nan)
    if not ok.any():
        return found
    x, y = (rankdata(v[:, ok], axis=0) - (len(v) + 1) / 2 for v in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        found[ok] = (x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return found
