"""How good probabilities of single cells are: calibration, information, and what is gained by leaving cells out. Numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Values = NDArray[np.float64]
Bool = NDArray[np.bool_]

BINS = 10
FOLDS = 8
COVERAGES = (1.0, 0.8, 0.5)
_LEAST = 1e-4


def bins_of(chance: Values) -> NDArray[np.int64]:
    """The bin 0..9 of equal width in which each probability 0..1 lies, int (n,)."""
    return np.minimum((np.asarray(chance) * BINS).astype(np.int64), BINS - 1)


def calibration_error(chance: Values, positive: Bool) -> float:
    """Expected calibration error, 0..1: mean over cells of |mean probability - share positive| of their bin; NaN for none.

    chance : float (n,), 0..1. positive : bool (n,). Ten bins of equal width.

    Source: Naeini et al. 2015.

    >>> calibration_error(np.array([0.2, 0.2, 0.2, 0.2, 0.2]), np.array([True, False, False, False, False]))
    0.0
    """
    if not len(chance):
        return float("nan")
    where = bins_of(chance)
    gap = np.bincount(where, chance, BINS) - np.bincount(where, positive, BINS)
    return float(np.abs(gap).sum() / len(chance))


def surprise(chance: Values, positive: Bool) -> Values:
    """Bits that each truth costs under its probability, float (n,); probabilities are kept 1e-4 from 0 and 1."""
    p = np.clip(chance, _LEAST, 1 - _LEAST)
    return np.asarray(-np.log2(np.where(positive, p, 1 - p)))


def entropy(share: Any) -> Any:
    """Bits of a yes or no of this probability; arrays too."""
    p = np.clip(share, 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def information(chance: Values, positive: Bool) -> float:
    """Bits a cell that probabilities tell over the share of positive cells alone; below 0: worse than knowing that share.

    1 at most, and the entropy of the share for those who know every cell; NaN without cells.
    """
    if not len(chance):
        return float("nan")
    return float(entropy(positive.mean()) - surprise(chance, positive).mean())


def recalibrated(score: Values, positive: Bool, groups: Sequence[Any]) -> Values:
    """Probability of each cell as its own group does not know it: a rising step function of the score, fitted on the others.

    score  : float (n,), any unit. positive : bool (n,). groups : of each cell; whole groups are left out in turn (8 folds).

    The fit is isotonic, so that a score that ranks cells the wrong way round tells nothing rather than much; a step of few
    cells is drawn towards a half by one cell.
    """
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"found {len(names)} group; wanted two or more, to fit on others than are told")
    fold = group % min(FOLDS, len(names))
    chance = np.empty(len(score))
    for k in range(fold.max() + 1):
        here = fold == k
        order = np.argsort(score[~here], kind="stable")
        x, y = score[~here][order], positive[~here][order].astype(np.float64)
        # Equal scores are one value, so that their order among themselves counts for nothing.
        starts = np.flatnonzero(np.r_[True, np.diff(x) > 0])
        n, hits = np.diff(np.r_[starts, len(x)]).astype(np.float64), np.add.reduceat(y, starts)
        blocks = isotonic_regression(hits / n, weights=n).blocks
        steps = (np.add.reduceat(hits, blocks[:-1]) + 0.5) / (np.add.reduceat(n, blocks[:-1]) + 1)
        at = np.searchsorted(x[starts][blocks[:-1]], score[here], side="right") - 1
        chance[here] = steps[at.clip(0)]
    return chance


def errors_by_coverage(wrong: Bool, trust: Values, weight: NDArray[Any] | None = None) -> dict[float, float]:
    """Share of wrong calls among the most trusted 100, 80 and 50 % of cells; cells of equal trust count as one.

    wrong : bool (n,). trust : float (n,). weight : how often each cell counts, (n,); once without.
    """
    times = np.ones(len(wrong)) if weight is None else np.asarray(weight, np.float64)
    if not times.sum():
        return dict.fromkeys(COVERAGES, float("nan"))
    levels, level = np.unique(-np.asarray(trust, dtype=np.float64), return_inverse=True)
    n = np.cumsum(np.bincount(level, times, len(levels)))
    bad = np.cumsum(np.bincount(level, wrong * times, len(levels)))
    # Within cells of equal trust the errors are spread evenly: a constant trust gains nothing, whatever their order.
    kept = np.array(COVERAGES) * times.sum()
    found = np.interp(kept, np.r_[0, n], np.r_[0.0, bad]) / kept
    return {c: float(v) for c, v in zip(COVERAGES, found, strict=True)}
