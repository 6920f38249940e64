"""Histograms as numbers that a template draws: bars, ticks and lines in the frame of a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsistain.pages.render import number

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 18, 40


@dataclass(frozen=True)
class Bar:
    """One bar in px of the plot; colour: of its class; title: what it stands for."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    title: str


@dataclass(frozen=True)
class Plot:
    """A histogram in a frame of WIDTH x HEIGHT px. ticks: (px, text); lines: (px, text)."""

    bars: tuple[Bar, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def ticks(top: float, n: int = 4) -> list[float]:
    """About `n` round numbers from 0 to `top`."""
    if not (math.isfinite(top) and top > 0):
        return [0.0]
    unit = 10.0 ** math.floor(math.log10(top / n))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= top / n * 0.999)
    return [step * k for k in range(int(top / step + 1e-6) + 1)]


def histogram(
    values: NDArray[np.floating], cutoffs: Sequence[float], colours: Sequence[str], names: Sequence[str]
) -> Plot | None:
    """How often each density occurs, the bars in the colour of their class; None without a finite value.

    cutoffs : where the second and further classes begin, rising; `colours` and `names` have one more. Bars never cross
              a cut-off: its bins are those between 0 and the last cut-off, each third of a class or finer, and go on so.
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not found.size:
        return None
    edges = _edges(cutoffs, float(np.quantile(found, 0.995)))
    last = edges[-1]
    counts, _ = np.histogram(np.clip(found, 0.0, np.nextafter(last, 0)), edges)
    # Bins differ in width, so heights are cells per 0.01 OD.
    density = counts / np.diff(edges) * 0.01
    y_ticks = ticks(float(density.max()))
    y_top = max(float(density.max()), y_ticks[-1]) * 1.04
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def px(od: float) -> float:
        return float(round(LEFT + od / last * across, 2))

    bars = []
    for k, (low, high) in enumerate(pairwise(edges)):
        grade = int(np.searchsorted(cutoffs, (low + high) / 2, side="right"))
        height = round(density[k] / y_top * up, 2)
        beyond = " or more" if k == len(counts) - 1 else f" to {high:.3f}"
        title = f"{names[grade]}: {int(counts[k])} cells at {low:.3f}{beyond}"
        bars.append(
            Bar(px(low), round(TOP + up - height, 2), round(px(high) - px(low), 2), height, colours[grade], title)
        )
    return Plot(
        bars=tuple(bars),
        x_ticks=tuple((px(t), f"{t:.3g}") for t in ticks(last, 6)),
        y_ticks=tuple((round(TOP + up - t / y_top * up, 2), _shown(t)) for t in y_ticks),
        lines=tuple((px(c), names[k + 1]) for k, c in enumerate(cutoffs)),
    )


def _shown(tick: float) -> str:
    return number(tick, 0) if tick >= 1000 else f"{tick:.3g}"


def _edges(cutoffs: Sequence[float], reach: float) -> NDArray[np.float64]:
    """Edges of bins from 0 on, every cut-off among them; the last lies beyond `reach` and the last cut-off."""
    marks = [0.0, *cutoffs]
    wide = max(marks[-1] / 30, 1e-3)
    parts = [np.linspace(a, b, max(1, round((b - a) / wide)), endpoint=False) for a, b in pairwise(marks)]
    end = max(reach, marks[-1]) + 3 * wide
    beyond = np.arange(marks[-1], end + wide / 2, wide)
    return np.concatenate([*parts, beyond])
