"""From numbers of single pictures to one line of a table, with confidence intervals by bootstrap over slides.

Pictures of one slide are not independent, so whole slides are drawn with replacement. Every statistic is a function
of sums over slides, so that a thousand draws are one matrix product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.evaluation.pathology import area_under_curve, precision_recall

Values = NDArray[np.float64]

DRAWS = 1000
IOD_UNIT = 1e-7

MEANS = (
    "ssim",
    "ssim_float",
    "ssim_gauss",
    "psnr",
    "css",
    "vif",
    "hist_corr",
    "lpips_alex",
    "stlpips_alex",
    "phv_1",
    "phv_2",
    "phv_3",
    "phv_4",
    "phv_avg",
    "r_c",
    "positive_fraction",
    "positive_error",
    "h_score",
    "h_score_error",
    "dice",
    "iou",
    "hausdorff",
    "sensitivity",
    "specificity",
    "dice_truth",
    "ssim_truth",
    "cell_h_error",
)
"""Metrics that are the mean of finite values of pictures."""


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval (None where slides are unknown or fewer than two), and how many pictures it is of.

    spread : what papers print after the plus-minus: the standard deviation over pictures of a mean of pictures, over
             subsets of KID; None of what is neither. It is no error of the number.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    spread: float | None = None

    def as_json(self) -> dict[str, float | int | None]:
        value = self.value if np.isfinite(self.value) else None
        return {"value": value, "spread": self.spread, "ci_low": self.low, "ci_high": self.high, "n": self.n}


class SlideBootstrap:
    """Draws of slides, the same for every statistic of one table.

    slides : the slide of each picture, None where unknown.

    `why_not` says why there are no intervals, None where there are.
    """

    def __init__(self, slides: Sequence[str | None], draws: int = DRAWS, seed: int = 0) -> None:
        names = sorted({s for s in slides if s is not None})
        self.why_not: str | None = None
        if any(s is None for s in slides):
            self.why_not = "the names of the pictures do not tell their slides"
        elif len(names) < 2:
            self.why_not = f"there is {len(names)} slide; an interval needs two or more"
        self._group = np.array([names.index(s) if s is not None else 0 for s in slides], dtype=np.int64)
        self._n_groups = max(len(names), 1)
        rng = np.random.default_rng(seed)
        draws = 0 if self.why_not else draws
        self._weights = rng.multinomial(self._n_groups, np.full(self._n_groups, 1 / self._n_groups), size=draws)

    @property
    def draws(self) -> int:
        """How many draws there are; 0 where there are no intervals."""
        return len(self._weights)

    def sums(self, values: Values) -> tuple[float, Values]:
        """The sum over all pictures, and over each draw of slides, float (draws,)."""
        by_slide = np.bincount(self._group, weights=values, minlength=self._n_groups)
        return float(values.sum()), np.asarray(self._weights @ by_slide, dtype=np.float64)

    def weights_of(self, groups: Sequence[str], slides: Sequence[str | None]) -> NDArray[np.int64]:
        """How often the slide of each item of `groups` is in each draw, int (draws, n)."""
        place = {s: int(g) for s, g in zip(slides, self._group, strict=True) if s is not None}
        return self._weights[:, [place[g] for g in groups]] if len(self._weights) else np.zeros((0, len(groups)), int)

    def interval(self, draws: Values) -> tuple[float | None, float | None]:
        """2.5 and 97.5 % quantiles of the finite draws, None without any."""
        finite = draws[np.isfinite(draws)]
        if not finite.size:
            return None, None
        low, high = np.quantile(finite, [0.025, 0.975])
        return float(low), float(high)


def _ratio(a: Values, b: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(a, dtype=np.float64) / b


def mean_estimate(values: Values, boot: SlideBootstrap) -> Estimate:
    """Mean of the finite values, its interval, and their standard deviation."""
    finite = np.isfinite(values)
    total, drawn = boot.sums(np.where(finite, values, 0.0))
    count, drawn_count = boot.sums(finite.astype(np.float64))
    value = total / count if count else float("nan")
    spread = float(values[finite].std()) if count else None
    return Estimate(value, *boot.interval(_ratio(drawn, drawn_count)), n=int(count), spread=spread)


def _pearson_from(n: Values, x: Values, y: Values, xx: Values, yy: Values, xy: Values) -> Values:
    cov = xy - _ratio(x * y, n)
    var = (xx - _ratio(x * x, n)) * (yy - _ratio(y * y, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(var > 0, cov / np.sqrt(np.maximum(var, 0)), np.nan)


def _pearson(x: Values, y: Values, boot: SlideBootstrap) -> tuple[float, Values, int]:
    # Centred and scaled first: sums of squares of large integrated densities would lose their digits.
    seen = np.isfinite(x) & np.isfinite(y)
    xs = np.where(seen, x - (x[seen].mean() if seen.any() else 0), 0.0)
    ys = np.where(seen, y - (y[seen].mean() if seen.any() else 0), 0.0)
    scale_x, scale_y = np.abs(xs).max(initial=0) or 1.0, np.abs(ys).max(initial=0) or 1.0
    xs, ys = xs / scale_x, ys / scale_y
    sums = [boot.sums(v) for v in (seen.astype(np.float64), xs, ys, xs * xs, ys * ys, xs * ys)]
    whole = _pearson_from(*(np.array([s]) for s, _ in sums))
    is_flat = not seen.any() or float(np.ptp(x[seen])) == 0 or float(np.ptp(y[seen])) == 0
    return float("nan") if is_flat else float(whole[0]), _pearson_from(*(d for _, d in sums)), int(seen.sum())


def pearson_estimate(x: Values, y: Values, boot: SlideBootstrap) -> Estimate:
    """Pearson correlation over pictures, and its interval; NaN when one side is constant."""
    value, drawn, n = _pearson(x, y, boot)
    return Estimate(value, *boot.interval(drawn), n=n)


def _sum_of(values: Values, boot: SlideBootstrap) -> tuple[float, Values]:
    """The sum over all pictures and over each draw, which holds more or fewer pictures and is brought to their number."""
    total, drawn = boot.sums(values)
    n = len(values)
    return total, drawn * _ratio(np.full(len(drawn), n), boot.sums(np.ones(n))[1])


def summarise(
    values: Mapping[str, Values], real: Mapping[str, Values], slides: Sequence[str | None], *, seed: int = 0
) -> dict[str, Estimate]:
    """Every statistic that follows from numbers of single pictures.

    values : metric to float (n,) of one system; real: "int_den", "int_den_cells", "positive_fraction" (and
             "positive_fraction_truth").
    slides : slide of each picture.

    R_avg is taken in the same draw of slides as R_c and R_p. IoD is a sum over pictures; draws are scaled to n.
    """
    boot = SlideBootstrap(slides, seed=seed)
    table = {name: mean_estimate(values[name], boot) for name in MEANS if name in values}
    n = len(slides)
    if "int_den" in values:
        total, drawn = _sum_of(values["int_den"] - real["int_den"], boot)
        table["iod"] = Estimate(abs(total) * IOD_UNIT, *boot.interval(np.abs(drawn) * IOD_UNIT), n=n)
        table["iod_signed"] = Estimate(total * IOD_UNIT, *boot.interval(drawn * IOD_UNIT), n=n)
        if "int_den_cells" in values:
            total, drawn = _sum_of(values["int_den_cells"] - real["int_den_cells"], boot)
            table["iod_cells"] = Estimate(total * IOD_UNIT, *boot.interval(drawn * IOD_UNIT), n=n)
        table["r_p"] = pearson_estimate(values["int_den"], real["int_den"], boot)
        if "r_c" in values:
            content = values["r_c"]
            finite = np.isfinite(content)
            _, drawn_sum = boot.sums(np.where(finite, content, 0.0))
            _, drawn_count = boot.sums(finite.astype(np.float64))
            _, drawn_r_p, _ = _pearson(values["int_den"], real["int_den"], boot)
            value = (table["r_c"].value + table["r_p"].value) / 2
            table["r_avg"] = Estimate(value, *boot.interval((_ratio(drawn_sum, drawn_count) + drawn_r_p) / 2), n=n)
    if "positive_fraction" in values and "int_den" in values:  # the real IHC agrees with itself
        table["area_r"] = pearson_estimate(values["positive_fraction"], real["positive_fraction"], boot)
    if "positive_fraction" in values and "positive_fraction_truth" in real:
        table["area_r_truth"] = pearson_estimate(values["positive_fraction"], real["positive_fraction_truth"], boot)
    return table


def weighted_auc(score: Values, positive: NDArray[np.bool_], weight: NDArray[Any]) -> float:
    """`area_under_curve` where cell i counts `weight[i]` times; `score` in rising order."""
    w_positive, w_negative = np.where(positive, weight, 0.0), np.where(positive, 0.0, weight)
    starts = np.flatnonzero(np.r_[True, np.diff(score) > 0])
    p, q = np.add.reduceat(w_positive, starts), np.add.reduceat(w_negative, starts)
    below = np.cumsum(q) - q
    total = p.sum() * q.sum()
    return float((p * (below + q / 2)).sum() / total) if total > 0 else float("nan")


def summarise_cells(
    score: Values,
    positive: NDArray[np.bool_],
    cell_slides: Sequence[str],
    slides: Sequence[str | None],
    *,
    cutoff: float,
    seed: int = 0,
    draws: int = 200,
) -> dict[str, Estimate]:
    """Cell-level AUC, precision and recall over all cells of all pictures, with intervals over slides.

    score    : float (n,), mean DAB optical density at each cell, finite.
    positive : bool (n,), the truth.
    cutoff   : optical density from which a cell is called positive.
    n counts cells.
    """
    n = len(score)
    called = score >= cutoff
    precision, recall = precision_recall(called, positive)
    values = {"cell_auc": area_under_curve(score, positive), "cell_precision": precision, "cell_recall": recall}
    boot = SlideBootstrap(slides, draws=draws, seed=seed)
    order = np.argsort(score, kind="stable")
    weights = boot.weights_of(cell_slides, slides)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for weight in weights:
        drawn["cell_auc"].append(weighted_auc(score[order], positive[order], weight[order]))
        hits = float(weight[called & positive].sum())
        n_called, n_positive = float(weight[called].sum()), float(weight[positive].sum())
        drawn["cell_precision"].append(hits / n_called if n_called else float("nan"))
        drawn["cell_recall"].append(hits / n_positive if n_positive else float("nan"))
    return {k: Estimate(v, *boot.interval(np.array(drawn[k])), n=n) for k, v in values.items()}
