"""The stained nuclei and membranes of a window of a stain, without finding cells: what is dark, and what is positive."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from wsistain.markers import Marker
from wsistain.optics.scoring import stain_od

SMOOTHED_UM = 3.0
"""Edge over which densities are meant, as over the core of a nucleus."""

DARK_OD = 0.15
"""Density, mean of red, green and blue, from which a px is of a nucleus or a membrane."""

F32 = NDArray[np.float32]
RGB = NDArray[np.uint8]
_OD = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def densities(rgb: RGB, marker: Marker, mpp: float) -> tuple[NDArray[np.bool_], F32]:
    """Which px of a stain uint8 (h, w, 3) are of nuclei or membranes, and the dye's density round each, float32 (h, w)."""
    od: F32 = uniform_filter(stain_od(rgb, marker.chromogen), max(1, round(SMOOTHED_UM / mpp)), mode="nearest")
    return _OD[rgb].mean(axis=2) >= DARK_OD, od


def called(rgb: RGB, marker: Marker, mpp: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which px are of nuclei or membranes, and which are called positive, bool (h, w) each."""
    dark, od = densities(rgb, marker, mpp)
    return dark, od >= marker.positive_cell_od


def cell_sums(values: NDArray[np.floating], ys: list[int], xs: list[int]) -> F32:
    """Sums over cells whose rows begin at `ys` and columns at `xs`, of `values` (h, w) that begin at the first of them."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    y, x = (np.minimum(np.array(v) - v[0], n) for v, n in ((ys, values.shape[0]), (xs, values.shape[1])))
    return np.diff(np.diff(table[np.ix_(y, x)], axis=0), axis=1).astype(np.float32)
