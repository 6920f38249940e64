"""Scores of a marker over cells, as guidelines define them, each with an interval by bootstrap over tiles of the slide.

A score is a function of how many cells there are and how many of them reach 1+, 2+ and 3+ (`Counts`). Which cells are
counted is not decided here: guidelines count invasive tumour cells, and whoever draws them (`--roi`, `--roi-class`) gets
the guideline's number; without a drawing it is that of all cells found. None of these numbers is validated on patients.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from wsistain.markers import Marker
from wsistain.reading.stain import NOT_READ

TILE_UM = 250.0
"""Edge of the tiles that are drawn again and again: neighbours are alike, tiles are less so."""

DRAWS = 1000
LEAST_TILES = 5
"""With fewer tiles there is no interval."""

LEAST_HOTSPOT_CELLS = 500
"""A hot spot is looked for where so many cells lie on 1 mm2, as Ki67 is counted."""

SHARES = {"percent_positive": 100.0, "ki67_index": 100.0, "h_score": 300.0}
"""Scores that are a share of the most that they can be; the others are steps."""

_HOT_STEPS = 4
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number, and the interval (95 %) in which it lies when tiles are drawn again; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Scores:
    """The scores of one region.

    n_cells  : cells that were read.
    not_read : cells over which nothing was stained.
    numbers  : by name.
    category : in the guideline's words; "" without cells, or where the guideline has no word.
    """

    n_cells: int
    not_read: int
    numbers: Mapping[str, Estimate]
    category: str


@dataclass(frozen=True)
class Counts:
    """Cells of a region, or of each draw: arrays of one shape, or scalars.

    n, weak, moderate, strong : all that were read, and those that reach 1+, 2+ and 3+.
    positive                  : those that count as positive.
    """

    n: F64
    weak: F64
    moderate: F64
    strong: F64
    positive: F64


def percent_positive(c: Counts) -> F64:
    """Positive cells in a hundred.

    Source: Allison et al., Estrogen and progesterone receptor testing in breast cancer: ASCO/CAP guideline update, J Clin
    Oncol 2020: below 1 negative, 1 to 10 low positive (a word for ER there; here for PR as well), above 10 positive.
    """
    return _share(c.positive, c.n, 100)


def h_score(c: Counts) -> F64:
    """1 x % of 1+ and 2 x % of 2+ and 3 x % of 3+, 0..300. Source: McCarty et al., Arch Pathol Lab Med 1985."""
    return _share(c.weak + c.moderate + c.strong, c.n, 100)


def allred(c: Counts) -> F64:
    """Proportion (0..5) and intensity (0..3) added, 0 or 2..8; above 2 is positive.

    Proportion: 1 below 1 in 100, 2 to 1 in 10, 3 to 1 in 3, 4 to 2 in 3, 5 above; intensity: the mean grade of the cells
    that are stained, rounded. Source: Allred et al., Mod Pathol 1998; Harvey et al., J Clin Oncol 1999.
    """
    share = _share(c.weak, c.n, 1)
    proportion = np.select([share <= 0, share < 0.01, share <= 0.1, share <= 1 / 3, share <= 2 / 3], [0, 1, 2, 3, 4], 5)
    mean = _share(c.weak + c.moderate + c.strong, c.weak, 1)
    intensity = np.floor(np.nan_to_num(mean) + 0.5)
    return np.where(np.isfinite(share), proportion + np.where(share > 0, intensity, 0), np.nan)


def ki67_index(c: Counts) -> F64:
    """Positive cells in a hundred, whatever their grade; at most 5 is low, from 30 on high.

    Source: Nielsen et al., Assessment of Ki67 in breast cancer: updated recommendations from the International Ki67 in
    Breast Cancer Working Group, J Natl Cancer Inst 2021 (the average over the section is what they recommend).
    """
    return percent_positive(c)


def her2_score(c: Counts) -> F64:
    """0, 1, 2 or 3 from completeness and intensity of membranes in more than 10 of a hundred cells.

    3: complete and strong; 2: complete, weak to moderate; 1: faint; 0 otherwise: the classes of its cells. Source: Wolff et al., HER2 testing in breast cancer: ASCO/CAP focused update, J Clin Oncol 2018 (confirmed 2023).
    """
    strong, some, faint = (_share(v, c.n, 1) > 0.1 for v in (c.strong, c.moderate, c.weak))
    return np.where(c.n > 0, np.select([strong, some, faint], [3.0, 2.0, 1.0], 0.0), np.nan)


def _share(part: F64, whole: F64, times: float) -> F64:
    return np.where(whole > 0, times * part / np.maximum(whole, 1), np.nan)


Score = Callable[[Counts], F64]


def scores_of(marker: Marker) -> dict[str, Score]:
    """The scores that are given for a marker, by name."""
    names: dict[str, Score] = {"percent_positive": percent_positive, "h_score": h_score}
    if marker.name == "Ki67":
        return {"ki67_index": ki67_index, **names}
    if marker.compartment == "membranous":
        return {"her2_score": her2_score, **names} if marker.name == "HER2" else names
    return {**names, "allred": allred} if marker.compartment == "nuclear" else names


def category_of(marker: Marker, numbers: Mapping[str, Estimate]) -> str:
    """What the guideline calls the result, "" where it has no word or there are no cells."""
    if marker.name in ("ER", "PR"):
        value = numbers["percent_positive"].value
        if value is None:
            return ""
        return "negative (< 1 %)" if value < 1 else "low positive (1 to 10 %)" if value <= 10 else "positive (> 10 %)"
    if marker.name == "Ki67":
        value = numbers["ki67_index"].value
        return "" if value is None else "low (≤ 5 %)" if value <= 5 else "high (≥ 30 %)" if value >= 30 else "between"
    if marker.name == "HER2":
        value = numbers["her2_score"].value
        return "" if value is None else ("0", "1+", "2+ (equivocal)", "3+ (positive)")[int(value)]
    return ""


def counted(grade: NDArray[np.int8], marker: Marker) -> F64:
    """What each cell adds to `Counts`, float (n, 5); cells that were not read add nothing."""
    columns = (grade > NOT_READ, grade >= 1, grade >= 2, grade >= 3, grade >= marker.cell_positive)
    return np.stack(columns, axis=1).astype(np.float64)


def score_cells(
    y: F64,
    x: F64,
    grade: NDArray[np.int8],
    marker: Marker,
    *,
    seed: int = 0,
    tile_um: float = TILE_UM,
) -> Scores:
    """The scores of n cells at (y, x) um, with intervals.

    The bootstrap draws tiles of `tile_um` that hold cells, with replacement. The interval of a share (`SHARES`) has the variance of
    the draws; that of a score in steps is 2.5 to 97.5 % of them. It tells how far the number depends on which fields were looked
    at, not how far the stain or the cells are wrong.
    """
    adds = counted(grade, marker)
    cols = np.floor(x / tile_um).astype(np.int64)
    rows = np.floor(y / tile_um).astype(np.int64)
    _, at = np.unique(rows << 32 | cols, return_inverse=True)
    n_tiles = int(at.max()) + 1 if len(at) else 0
    tiles = np.stack([np.bincount(at, weights=column, minlength=n_tiles) for column in adds.T], axis=1)
    tiles = tiles[tiles[:, 0] > 0]
    total = Counts(*tiles.sum(axis=0)) if len(tiles) else Counts(*np.zeros(5))
    draws = None
    if len(tiles) >= LEAST_TILES:
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(len(tiles), np.full(len(tiles), 1 / len(tiles)), size=DRAWS)
        draws = Counts(*(weights @ tiles).T)
    numbers = {}
    for name, score in scores_of(marker).items():
        value = float(score(total))
        low = high = None
        if draws is not None and name in SHARES:
            most = SHARES[name]
            variance = float(np.var(score(draws) / most)) * len(tiles) / (len(tiles) - 1)
            low, high = (most * v for v in _interval(value / most, variance, int(total.n), len(tiles)))
        elif draws is not None:
            low, high = map(float, np.percentile(score(draws), [2.5, 97.5]))
        numbers[name] = Estimate(value, low, high) if math.isfinite(value) else Estimate(None)
    n = int(total.n)
    return Scores(n, len(grade) - n, numbers, category_of(marker, numbers))


def _interval(share: float, variance: float, n_cells: int, n_tiles: int) -> tuple[float, float]:
    """The interval (95 %) of a share 0..1, whose variance was told from `n_tiles` tiles with `n_cells` cells.

    Clopper and Pearson's interval of as many independent cells as have that variance, and of fewer where few tiles told it.
    Quantiles of the draws end too low where one cell in a hundred is positive: they know only the fields that were seen, and
    of those with few positive cells they say that little varies.

    Source: Korn and Graubard, Survey Methodology 1998 (proportions of clustered samples); Clopper and Pearson, Biometrika 1934.
    """
    few = float(stdtrit(n_cells - 1, 0.975) / stdtrit(n_tiles - 1, 0.975)) ** 2 if n_cells > 1 else 1.0
    n = n_cells * few if variance <= 0 else min(few * share * (1 - share) / variance, n_cells)
    held, rest = share * n, (1 - share) * n
    low = float(betaincinv(held, rest + 1, 0.025)) if held > 0 else 0.0
    high = float(betaincinv(held + 1, rest, 0.975)) if rest > 0 else 1.0
    return low, high


@dataclass(frozen=True)
class Hotspot:
    """The square of 1 mm2 with the largest share of positive cells. y, x: its upper left corner, um; scores: its own."""

    y: float
    x: float
    scores: Scores


def find_hotspot(
    y: F64, x: F64, grade: NDArray[np.int8], marker: Marker, *, least: int = LEAST_HOTSPOT_CELLS
) -> Hotspot | None:
    """The hot spot among squares of 1 mm2 in steps of 250 um with `least` cells or more.

    None where no square has them, and where one holds all cells: then there is no hotter place than the whole.
    """
    adds = counted(grade, marker)
    if not len(adds):
        return None
    step = 1000 / _HOT_STEPS
    rows, cols = np.floor(y / step).astype(np.int64), np.floor(x / step).astype(np.int64)
    r0, c0 = int(rows.min()), int(cols.min())
    shape = (int(rows.max()) - r0 + 1, int(cols.max()) - c0 + 1)
    at = (rows - r0) * shape[1] + cols - c0
    size = shape[0] * shape[1]
    n, positive = (
        _windows(np.bincount(at, weights=w, minlength=size).reshape(shape).astype(np.float64))
        for w in (adds[:, 0], adds[:, 4])
    )
    share = np.where(n >= least, positive / np.maximum(n, 1), -1)
    best = int(share.argmax())
    if share.flat[best] < 0:
        return None
    row, col = np.unravel_index(best, share.shape)
    top, left = (float(row) + r0) * step, (float(col) + c0) * step
    here = (y >= top) & (y < top + 1000) & (x >= left) & (x < left + 1000)
    if here.all():
        return None
    return Hotspot(
        top,
        left,
        score_cells(y[here], x[here], grade[here], marker),
    )


def _windows(cells: F64) -> F64:
    """Sums over every square of 4 x 4 inside, or of all there is where that is smaller."""
    k = _HOT_STEPS
    rows, cols = (max(k - n, 0) for n in cells.shape)
    table = np.pad(np.pad(cells, ((0, rows), (0, cols))).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums: F64 = table[k:, k:] - table[:-k, k:] - table[k:, :-k] + table[:-k, :-k]
    return sums
