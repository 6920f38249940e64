"""What is measured of each nucleus of a window, and of the stain in its compartment. Numpy only."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from wsistain.reading.grid import FINE, Box, Grid

CORNERS = 24
"""Corners of a contour."""

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Nuclei:
    """n nuclei, one array a property.

    y, x         : centre of the nucleus (mean of its pixels), um from the corner of the slide.
    area_um2     : of the nucleus.
    elongation   : long axis over short axis of the ellipse of its moments, 1 or more.
    haematoxylin : mean optical density of haematoxylin on the H&E.
    contour      : float32 (n, CORNERS, 2), corners (y, x) in um.
    label        : its number in the labels of the window.
    """

    y: F64
    x: F64
    area_um2: F64
    elongation: F64
    haematoxylin: F64
    contour: NDArray[np.float32]
    label: I32

    def __len__(self) -> int:
        return len(self.y)

    def take(self, which: NDArray[np.bool_]) -> "Nuclei":
        """Those that a mask picks."""
        return Nuclei(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def cell_ids(y: F64, x: F64) -> NDArray[np.int64]:
    """int64 (n,): the same cell has the same number in every marker and run: its place in steps of 0.1 um."""
    ids: NDArray[np.int64] = (np.floor(y * 10).astype(np.int64) << 32) | np.floor(x * 10).astype(np.int64)
    return ids


def measure_nuclei(labels: I32, haematoxylin: NDArray[np.float32], box: Box, grid: Grid) -> Nuclei:
    """What `labels`, int32 (2h, 2w) in the grid window `box`, hold.

    haematoxylin : float32 (h, w), grid px (`nuclei.haematoxylin`).
    """
    n, mpp = int(labels.max()), grid.label_mpp
    y, x = np.nonzero(labels)
    of = labels[y, x]
    count = np.bincount(of, minlength=n + 1)[1:]
    some = np.maximum(count, 1)
    # Moments about a corner of the slide, in whole label px: exact sums.
    gy, gx = (y + FINE * box.y).astype(np.float64), (x + FINE * box.x).astype(np.float64)

    def mean(values: F64) -> F64:
        return np.bincount(of, weights=values, minlength=n + 1)[1:] / some

    cy, cx = mean(gy), mean(gx)
    dy, dx = gy - cy[of - 1], gx - cx[of - 1]
    yy, xx, yx = mean(dy * dy), mean(dx * dx), mean(dy * dx)
    spread, half = np.sqrt(((yy - xx) / 2) ** 2 + yx**2), (yy + xx) / 2 + 1 / 12
    elongation = np.sqrt((half + spread) / np.maximum(half - spread, 1 / 12))
    stained = np.bincount(of, weights=haematoxylin[y // FINE, x // FINE], minlength=n + 1)[1:] / some
    contour = _contours(labels, y, x, of, cy - FINE * box.y, cx - FINE * box.x, count)
    contour += np.stack([cy, cx], axis=1)[:, None] + 0.5
    there = count > 0
    found = Nuclei(
        y=(cy + 0.5) * mpp,
        x=(cx + 0.5) * mpp,
        area_um2=count.astype(np.float64) * mpp**2,
        elongation=elongation,
        haematoxylin=stained,
        contour=(contour * mpp).astype(np.float32),
        label=np.arange(1, n + 1, dtype=np.int32),
    )
    return found.take(there)


def _contours(
    labels: I32, y: NDArray[np.int64], x: NDArray[np.int64], of: I32, cy: F64, cx: F64, count: NDArray[np.int64]
) -> F64:
    """Corners of each label round its centre, float (n, CORNERS, 2), label px, relative to the centre; area kept.

    One corner a direction: the furthest edge pixel in it. What is not star-shaped is smoothed over.
    """
    n = len(count)
    padded = np.pad(labels, 1)
    own = padded[1:-1, 1:-1]
    edge = (
        (own != padded[:-2, 1:-1]) | (own != padded[2:, 1:-1]) | (own != padded[1:-1, :-2]) | (own != padded[1:-1, 2:])
    )[y, x]
    ey, ex, at = y[edge], x[edge], of[edge] - 1
    dy, dx = ey - cy[at], ex - cx[at]
    step = 2 * np.pi / CORNERS
    towards = np.floor(np.arctan2(dy, dx) / step + 0.5).astype(np.int64) % CORNERS
    furthest = np.zeros(n * CORNERS)
    np.maximum.at(furthest, at * CORNERS + towards, np.hypot(dy, dx) + 0.5)
    radius = furthest.reshape(n, CORNERS)
    # Directions without an edge pixel, in small nuclei: the mean of the nearest that have one.
    for _ in range(CORNERS // 2):
        empty = radius == 0
        if not empty.any():
            break
        left, right = np.roll(radius, 1, axis=1), np.roll(radius, -1, axis=1)
        both = (left > 0).astype(int) + (right > 0)
        radius = np.where(empty & (both > 0), (left + right) / np.maximum(both, 1), radius)
    radius = np.where(radius == 0, 0.5, radius)
    # The polygon has the area of the pixels.
    area = np.sin(step) / 2 * (radius * np.roll(radius, -1, axis=1)).sum(axis=1)
    radius *= np.sqrt(np.maximum(count, 1) / area)[:, None]
    angle = np.arange(CORNERS) * step
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=2)
