"""How far numbers lie from those of a bank: whitened along the directions in which the bank's own differ, nearest few.

Source: distance to the nearest neighbours as a test of novelty (Sun et al., Out-of-distribution detection with deep nearest
neighbors, ICML 2022). Numpy and SciPy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAREST = 3
FAR_PERCENT = 99.0
FLAT = 1e-4
"""Directions in which rows differ less than this, of the first, are none: whitened they would be noise."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bank:
    """Rows of d numbers that are known.

    mean, spread : (d,), by which rows are brought to one scale.
    directions   : (k, d), along which they are compared, to unit variance.
    rows         : (n, k), the bank along them.
    far          : distance at which the furthest hundredth of rows like it, but not of it, lie.
    """

    mean: F64
    spread: F64
    directions: F64
    rows: F64
    far: float

    def distance(self, values: NDArray[np.floating]) -> F64:
        """Distance of `values` (..., d) to the nearest of the bank, 1 at `far`; NaN where a number is not finite."""
        flat = (values.reshape(-1, len(self.mean)).astype(np.float64) - self.mean) / self.spread
        out = np.full(len(flat), np.nan)
        known = np.isfinite(flat).all(axis=1)
        out[known] = nearest(flat[known] @ self.directions.T, self.rows) / self.far
        distance: F64 = out.reshape(values.shape[:-1])
        return distance


def nearest(rows: F64, bank: F64) -> F64:
    """Mean distance of each of `rows` (m, k) to its `NEAREST` of `bank` (n, k), (m,)."""
    from scipy.spatial import cKDTree

    if not len(rows):
        return np.zeros(0)
    distance, _ = cKDTree(bank).query(rows, k=min(NEAREST, len(bank)))
    mean: F64 = distance.reshape(len(rows), -1).mean(axis=1)
    return mean


def make_bank(banked: F64, other: F64, *, directions: int, most: int, seed: int = 0) -> Bank:
    """A bank of up to `most` of the rows `banked` (n, d), n > d; `far` is measured on the rows `other`."""
    mean, spread = banked.mean(axis=0), np.maximum(banked.std(axis=0), 1e-3)
    scaled = (banked - mean) / spread
    _, lengths, axes = np.linalg.svd(scaled, full_matrices=False)
    directions = max(1, min(directions, int((lengths > FLAT * lengths[0]).sum())))
    along = axes[:directions] * (np.sqrt(len(scaled)) / np.maximum(lengths[:directions], 1e-9))[:, None]
    chosen = np.random.default_rng(seed).permutation(len(scaled))[:most]
    rows = scaled[np.sort(chosen)] @ along.T
    far = float(np.percentile(nearest((other - mean) / spread @ along.T, rows), FAR_PERCENT))
    return Bank(mean, spread, along, rows, max(far, 1e-3))
