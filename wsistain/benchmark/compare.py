"""Which systems are told apart: draws of slides that are the same for all, of seeds by themselves, and what follows from them.

A draw takes slides with replacement, the same for every system, and of each system its seeds with replacement. The mean over
few seeds varies too little in such draws: its distance from their own mean is made larger by the root of n / (n - 1). Two
systems are told apart where their difference is so many standard deviations of its draws that chance would do it for one
of all pairs in 5 % (normal, Bonferroni), and where both were trained from two seeds or more, or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.benchmark.cells import arrays_of, calls
from wsistain.evaluation.chances import BINS, COVERAGES, bins_of, entropy, errors_by_coverage, recalibrated, surprise
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.summary import SlideBootstrap, weighted_auc

Values = NDArray[np.float64]
Row = dict[str, Any]

DRAWS = 2000
RANKED = ("cell_auc", "information_od", "cell_h_error")
"""By which systems are ranked; the first decides their order."""

ABSTENTION = {f"error_at_{round(100 * share)}": share for share in COVERAGES}
"""Metric to the share of cells that are kept."""


def drawn(row: Row, metric: str, boot: SlideBootstrap, cells: dict[str, NDArray[Any]]) -> Values:
    """A metric in each draw of slides, float (draws,); NaN where the row does not have it."""
    slides, pictures = row["pictures"]["slides"], row["pictures"]
    none = np.full(boot.draws, np.nan)
    if metric in pictures:
        return _mean_drawn(np.asarray(pictures[metric], np.float64), boot)
    at = [slides[k] for k in cells["picture"]]
    if metric == "cell_auc":
        order = np.argsort(cells["od"], kind="stable")
        weights = boot.weights_of(at, slides)[:, order]
        od, positive = cells["od"][order], cells["positive"][order]
        return np.array([weighted_auc(od, positive, w) for w in weights])
    if metric in ABSTENTION:
        told = calls(cells, row["cutoff"])
        if told is None:
            return none
        rank = np.unique(told[1], return_inverse=True)[1].astype(
            np.float64
        )  # once, so that no draw sorts floats of its own
        weights = boot.weights_of(at, slides)
        return np.array([errors_by_coverage(told[0], rank, w)[ABSTENTION[metric]] for w in weights])
    chance = recalibrated(cells["od"], cells["positive"], at) if metric == "information_od" else cells.get("chance")
    if chance is None or metric not in ("information_od", "information", "calibration_error"):
        return none
    n = _by_picture(cells, np.ones(len(chance)), len(slides))
    total = boot.sums(n)[1]
    if metric == "calibration_error":
        where = bins_of(chance)
        gaps = [
            np.abs(boot.sums(_by_picture(cells, (where == k) * (chance - cells["positive"]), len(slides)))[1])
            for k in range(BINS)
        ]
        return np.asarray(np.sum(gaps, axis=0) / total)
    share = boot.sums(_by_picture(cells, cells["positive"].astype(float), len(slides)))[1] / total
    cost = boot.sums(_by_picture(cells, surprise(chance, cells["positive"]), len(slides)))[1] / total
    return np.asarray(entropy(share) - cost)


def _by_picture(cells: dict[str, NDArray[Any]], values: Values, n: int) -> Values:
    return np.bincount(cells["picture"], weights=values, minlength=n).astype(np.float64)


def _mean_drawn(values: Values, boot: SlideBootstrap) -> Values:
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(boot.sums(np.where(seen, values, 0.0))[1] / boot.sums(seen.astype(np.float64))[1])


@dataclass(frozen=True, eq=False)
class System:
    """The runs of one system under one budget, on one condition.

    value : metric to the mean over its runs; spread: to their least and most; draws: to (draws,).
    """

    name: str
    budget: str
    rows: Sequence[Row]
    value: dict[str, float]
    spread: dict[str, tuple[float, float]]
    draws: dict[str, Values]

    @property
    def has_seeds(self) -> bool:
        """Whether its draws hold what another seed does, or nothing was trained."""
        return self.budget == "none" or len(self.rows) > 1

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % of the draws; None without any."""
        finite = self.draws[metric][np.isfinite(self.draws[metric])]
        return (float(np.quantile(finite, 0.025)), float(np.quantile(finite, 0.975))) if finite.size else None


def system_of(rows: Sequence[Row], metrics: Sequence[str], boot: SlideBootstrap) -> System:
    """What the runs of one system come to. rows: of one system, budget and condition."""
    entry = rows[0]["entry"]
    values, spread, draws = {}, {}, {}
    all_cells = [arrays_of(row["cells"]) for row in rows]
    # Which seeds a draw takes: its own for each system, the same for all metrics.
    rng = np.random.default_rng(list(f"{entry['system']} {entry['budget']}".encode()))
    taken = rng.integers(len(rows), size=(boot.draws, len(rows)))
    for metric in metrics:
        found = np.array([_value(row, metric) for row in rows])
        values[metric] = float(np.mean(found))
        spread[metric] = (float(found.min()), float(found.max()))
        of_runs = np.array([drawn(row, metric, boot, cells) for row, cells in zip(rows, all_cells, strict=True)])
        means, n = of_runs.mean(axis=0), len(rows)
        apart = np.take_along_axis(of_runs.T, taken, axis=1).mean(axis=1) - means if boot.draws else np.zeros(0)
        draws[metric] = means + apart * (np.sqrt(n / (n - 1)) if n > 1 else 0.0)
    return System(entry["system"], entry["budget"], rows, values, spread, draws)


def _value(row: Row, metric: str) -> float:
    value = row["metrics"].get(metric, {}).get("value")
    return float("nan") if value is None else float(value)


def ranks(systems: Sequence[System], metric: str) -> list[tuple[int, int, int] | None]:
    """(rank, lowest, highest) of each system, 1 is best; the 95 % of its ranks over the draws. None without a value."""
    sign = -1.0 if METRICS[metric].better == "higher" else 1.0
    known = [k for k, s in enumerate(systems) if np.isfinite(s.value[metric])]
    found: list[tuple[int, int, int] | None] = [None] * len(systems)
    if not known:
        return found
    values = sign * np.array([systems[k].value[metric] for k in known])
    draws = sign * np.array([systems[k].draws[metric] for k in known])
    usable = draws[:, np.isfinite(draws).all(axis=0)]
    places = 1 + (usable[None] < usable[:, None]).sum(axis=1)
    for j, k in enumerate(known):
        own = 1 + int((values < values[j]).sum())
        low, high = np.quantile(places[j], [0.025, 0.975]) if places.shape[1] else (1, len(known))
        found[k] = (own, int(np.floor(low)), int(np.ceil(high)))
    return found


def told_apart(systems: Sequence[System], metric: str) -> set[tuple[int, int]]:
    """Pairs (better, worse) of places in `systems` whose difference is one; see above."""
    pairs = list(combinations(range(len(systems)), 2))
    found: set[tuple[int, int]] = set()
    if not pairs:
        return found
    beyond = NormalDist().inv_cdf(1 - 0.025 / len(pairs))  # so far out there are no draws to count
    for i, j in pairs:
        a, b = systems[i], systems[j]
        value = a.value[metric] - b.value[metric]
        gap = a.draws[metric] - b.draws[metric]
        gap = gap[np.isfinite(gap)]
        if not (a.has_seeds and b.has_seeds and gap.size and np.isfinite(value)):
            continue
        if abs(value) > beyond * float(gap.std()):
            found.add((i, j) if (value > 0) == (METRICS[metric].better == "higher") else (j, i))
    return found
