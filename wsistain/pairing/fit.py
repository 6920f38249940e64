"""How well two registered sections lie over each other, window by window: what displacement is left, and what agrees."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from wsistain.pairing.sections import Chart
from wsistain.pairing.transform import PieceMap

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

FIT_MPP = 4.0
WINDOW_UM, STEP_UM = 256.0, 128.0
SMOOTH_UM = 8.0
"""About a nucleus: neighbouring sections share few nuclei but where they are dense, and what surrounds them."""

_REACH_UM = 64.0
_STRUCTURE = 0.4  # a window is judged by where both sections have so much of the spread of the whole
_LEAST_PEAK = 0.1  # a weaker correlation at its best place says nothing about the place


@dataclass(frozen=True)
class Fit:
    """What is left over on a grid of windows of `WINDOW_UM`, on the H&E slide.

    residual_um : float32 (rows, columns), length of the displacement that is left; NaN where nothing can be measured.
    agreement   : float32, correlation of the smoothed haematoxylin at zero displacement; NaN where there is no tissue.
    centre_um   : (y, x) of the centre of the first window; the others follow every `STEP_UM`.
    """

    residual_um: F32
    agreement: F32
    centre_um: tuple[float, float]

    def within(self, y0: float, x0: float, y1: float, x1: float) -> tuple[float | None, float | None]:
        """Median residual, um, and mean agreement of the windows whose centres lie in a rectangle, um; None: unknown.

        A rectangle smaller than the grid's step takes the window nearest to its middle.
        """
        rows, cols = (
            _span(a, b, origin, n)
            for a, b, origin, n in zip((y0, x0), (y1, x1), self.centre_um, self.residual_um.shape, strict=True)
        )
        residual, agreement = self.residual_um[rows, cols], self.agreement[rows, cols]
        told = []
        for values, of in ((residual, np.median), (agreement, np.mean)):
            good = values[np.isfinite(values)]
            told.append(float(of(good)) if good.size else None)
        return told[0], told[1]


def _span(low: float, high: float, origin: float, n: int) -> slice:
    first = int(np.ceil((low - origin) / STEP_UM))
    last = int(np.floor((high - origin) / STEP_UM))
    if last < first:
        first = last = round(((low + high) / 2 - origin) / STEP_UM)
    return slice(min(max(first, 0), n), min(max(last + 1, 0), n))


def measure_fit(he: Chart, ihc: Chart, piece: PieceMap) -> Fit:
    """The fit of two charts of one um per px under a map."""
    # The moving section in the frame of the fixed one, both smoothed to what sections can share.
    y, x = he.centres
    moved = moved_chart(he, ihc, piece)
    sigma = SMOOTH_UM / he.mpp
    fixed, moving = gaussian_filter(he.density, sigma), gaussian_filter(moved, sigma)
    spread = [float(a[he.tissue].std()) if he.tissue.any() else 0.0 for a in (fixed, moving)]

    # Windows: correlation where they lie, and where it would be largest.
    window, step = max(8, round(WINDOW_UM / he.mpp) // 2 * 2), max(1, round(STEP_UM / he.mpp))
    rows, cols = (range(0, max(n - window, 0) + 1, step) for n in fixed.shape)
    residual = np.full((len(rows), len(cols)), np.nan, np.float32)
    agreement = residual.copy()
    reach = max(2, round(_REACH_UM / he.mpp))
    for i, top in enumerate(rows):
        for j, left in enumerate(cols):
            here = (slice(top, top + window), slice(left, left + window))
            a, b = fixed[here], moving[here]
            if a.shape != (window, window) or he.tissue[here].mean() < 0.5:
                continue
            if min(a.std() / max(spread[0], 1e-6), b.std() / max(spread[1], 1e-6)) < _STRUCTURE:
                agreement[i, j] = 0.0 if b.std() < 1e-6 else _correlation(a, b)
                continue
            agreement[i, j] = _correlation(a, b)
            found = displacement(a, b, reach)
            if found is not None:
                residual[i, j] = np.hypot(*found) * he.mpp
    half = window / 2 * he.mpp
    return Fit(residual, agreement, (float(y[0]) - he.mpp / 2 + half, float(x[0]) - he.mpp / 2 + half))


def moved_chart(he: Chart, ihc: Chart, piece: PieceMap) -> F32:
    """The IHC chart in the frame of the H&E chart, float32 (h, w), worked out in bands."""
    y, x = he.centres
    out = np.empty(he.density.shape, np.float32)
    for top in range(0, len(y), 256):
        rows = slice(top, top + 256)
        out[rows] = ihc.sample(*piece.map(*np.meshgrid(y[rows], x, indexing="ij")))
    return out


def _correlation(a: F32, b: F32) -> float:
    p, q = a - a.mean(), b - b.mean()
    length = float(np.sqrt(np.sum(p * p, dtype=np.float64) * np.sum(q * q, dtype=np.float64)))
    return float(np.sum(p * q, dtype=np.float64)) / length if length > 0 else 0.0


def displacement(a: F32, b: F32, reach: int) -> tuple[float, float] | None:
    """Where b lies beside a, (y, x) px, by the largest correlation of two square windows, to a fraction of a pixel.

    reach : furthest displacement looked at, px. None where the correlation has no peak within it.

    The windows are tapered; what the taper takes from the correlation of displaced windows is given back.
    """
    n = a.shape[0]
    reach = min(reach, n // 3)
    taper, envelope = _tapers(n, reach)
    p, q = ((v - v.mean()) * taper for v in (a, b))
    length = float(np.sqrt(np.sum(p * p, dtype=np.float64) * np.sum(q * q, dtype=np.float64)))
    if length == 0:
        return None
    near = _correlate(p, q, reach) / length / envelope
    row, col = (int(v) for v in np.unravel_index(int(near.argmax()), near.shape))
    peak = float(near[row, col])
    if peak < _LEAST_PEAK or not (0 < row < 2 * reach and 0 < col < 2 * reach):
        return None
    return (
        row - reach + _vertex(near[row - 1, col], peak, near[row + 1, col]),
        col - reach + _vertex(near[row, col - 1], peak, near[row, col + 1]),
    )


def _correlate(p: NDArray[Any], q: NDArray[Any], reach: int) -> F64:
    """Circular correlation at displacements of -reach..reach px, float (2 reach + 1, 2 reach + 1)."""
    whole = np.fft.fftshift(np.fft.irfft2(np.conj(np.fft.rfft2(p)) * np.fft.rfft2(q), s=p.shape))
    centre = p.shape[0] // 2
    near = slice(centre - reach, centre + reach + 1)
    return np.asarray(whole[near, near])


@lru_cache(maxsize=8)
def _tapers(n: int, reach: int) -> tuple[F64, F64]:
    """The taper of a window of n px, and what it leaves of a correlation at each displacement."""
    taper = np.outer(np.hanning(n), np.hanning(n))
    left = _correlate(taper, taper, reach)
    return taper, left / left[reach, reach]


def _vertex(before: float, peak: float, after: float) -> float:
    """Where the parabola through three equally spaced values has its top, -0.5..0.5 from the middle one."""
    bend = before - 2 * peak + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
