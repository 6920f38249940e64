"""Seam sums of a run, gathered block by block while the pixels are in memory."""

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

LINE_STEP = 8
"""Every 8th line is looked at: little work, and millions of steps on any slide."""

COMPRESSION_GRID = 16
"""JPEG blocks of the source (8 px, 16 with halved colour) leave steps of their own; like is compared with like."""


@dataclass(frozen=True)
class SeamSums:
    """Sums and counts of |step| between neighbouring pixels: on tile borders, and elsewhere. They add up."""

    on_sum: int = 0
    on_count: int = 0
    off_sum: int = 0
    off_count: int = 0

    def __add__(self, other: "SeamSums") -> "SeamSums":
        return SeamSums(
            self.on_sum + other.on_sum,
            self.on_count + other.on_count,
            self.off_sum + other.off_sum,
            self.off_count + other.off_count,
        )

    @property
    def score(self) -> float | None:
        """Mean |step| on borders over that elsewhere; 1.00 is perfect. None where there is nothing to compare."""
        if not self.on_count or not self.off_sum:
            return None
        return (self.on_sum / self.on_count) / (self.off_sum / self.off_count)


def _along_rows(lines: NDArray[np.uint8], stride: int, overlap: int) -> SeamSums:
    """Steps along the second axis of uint8 (n, length, 3), whose position 0 lies on the tile grid."""
    period = gcd(gcd(stride, overlap), COMPRESSION_GRID)
    if period == stride:
        period = 1
    after, before = lines[:, period::period], lines[:, period - 1 : -1 : period]
    steps = np.abs(after.astype(np.int16) - before).sum(axis=2)
    seen = ((after & before) != 255).any(axis=2)
    place = np.arange(period, lines.shape[1], period) % stride
    border = (place == 0) | (place == overlap % stride)
    on, off = seen[:, border], seen[:, ~border]
    return SeamSums(int(steps[:, border][on].sum()), int(on.sum()), int(steps[:, ~border][off].sum()), int(off.sum()))


def seam_sums(pixels: NDArray[np.uint8], stride: int, overlap: int) -> SeamSums:
    """Seam sums of a block, uint8 (h, w, 3), whose corner lies on the tile grid.

    A border is where a tile begins (multiples of `stride`) or its predecessor ends (`overlap` px later): without
    blending a tile's edge would show at one or the other. Elsewhere is the rest of the positions that fall on the
    source's compression grid like the borders do, where that is finer than the tiles. Steps between two blank
    pixels are not counted.
    """
    rows = _along_rows(pixels[LINE_STEP // 2 :: LINE_STEP], stride, overlap)
    cols = _along_rows(pixels[:, LINE_STEP // 2 :: LINE_STEP].transpose(1, 0, 2), stride, overlap)
    return rows + cols
