"""The seam score: do the borders of tiles show in a stained slide? One definition, for a run and for a finished slide.

It is the mean |step| between neighbouring pixels across tile borders over that elsewhere: 1.00 is perfect. A border is
where a tile begins (multiples of the stride) or its predecessor ends (`overlap` px later): without blending a tile's
edge would show at one or the other. Elsewhere is the rest of the positions that fall on the source's compression grid
like the borders do, where that is finer than the tiles. Every 8th line is looked at. Steps between two blank pixels are
not counted, nor are those across the borders of blocks, which nobody sees while a run writes: so a run, which looks at
its blocks one by one, and whoever reads the finished slide in bands come to the same number. `overlap` px into the output
nothing ends, since no tile came before, or none that is part of it: that place is passed over, and an output of one tile
has no score.
"""

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


class SeamCounter:
    """Sums of steps, fed band after band from the top; holds one row of the image.

    width           : of the image, px; its corner lies on the tile grid and is that of a block.
    stride, overlap : of the tiles, px.
    block           : edge of the blocks that the image was written in, px, a multiple of the stride; None: all is one.
    begins          : whether the output begins at the image's (top, left); False in a block that has one before it.
    """

    def __init__(
        self,
        width: int,
        stride: int,
        overlap: int,
        block: int | None = None,
        *,
        begins: tuple[bool, bool] = (True, True),
    ) -> None:
        if stride < 2 or not 0 <= overlap <= stride:
            raise ValueError(f"a stride of {stride} px with an overlap of {overlap} px is no tile grid")
        self._width, self._stride, self._overlap, self._block = width, stride, overlap, block
        self._begins = begins
        self._row = 0
        self._above: NDArray[np.uint8] | None = None
        self.sums = SeamSums()

    def _positions(self, start: int, stop: int, *, begins: bool) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where a step that counts ends, in [start, stop), and which of them are borders."""
        period = gcd(gcd(self._stride, self._overlap), COMPRESSION_GRID)
        # Every position that is left would be a border, with nothing to compare it to.
        if period == self._stride:
            period = 1
        place = np.arange(max(start, 1), stop)
        counts = place % period == 0
        if self._block is not None:
            counts &= place % self._block != 0
        if begins and self._overlap < self._stride:
            counts &= place != self._overlap
        place = place[counts]
        within = place % self._stride
        return place, (within == 0) | (within == self._overlap % self._stride)

    def _lines(self, start: int, stop: int) -> NDArray[np.intp]:
        """The rows or columns in [start, stop) along which steps are looked at."""
        line = np.arange(start, stop)
        within = line if self._block is None else line % self._block
        picked: NDArray[np.intp] = line[within % LINE_STEP == LINE_STEP // 2]
        return picked

    def add(self, band: NDArray[np.uint8]) -> None:
        """Take the next band of rows, uint8 (rows, width, 3)."""
        if band.ndim != 3 or band.shape[1:] != (self._width, 3) or band.dtype != np.uint8:
            raise ValueError(f"wanted a band uint8 (rows, {self._width}, 3); found {band.dtype} {band.shape}")
        if not len(band):
            return
        first, end = self._row, self._row + len(band)

        # Steps to the right, along every 8th row.
        place, is_border = self._positions(0, self._width, begins=self._begins[1])
        lines = band[self._lines(first, end) - first]
        self.sums += _compare(lines[:, place - 1], lines[:, place], is_border[None, :])

        # Steps down, along every 8th column; the row above the band is that of the last one.
        place, is_border = self._positions(first, end, begins=self._begins[0])
        cols = self._lines(0, self._width)
        stack = band[:, cols] if self._above is None else np.concatenate([self._above[None, cols], band[:, cols]])
        offset = first if self._above is None else first - 1
        self.sums += _compare(stack[place - offset - 1], stack[place - offset], is_border[:, None])
        self._above, self._row = band[-1].copy(), end


def _compare(before: NDArray[np.uint8], after: NDArray[np.uint8], is_border: NDArray[np.bool_]) -> SeamSums:
    """Sums of the steps from `before` to `after`, uint8 (n, m, 3); `is_border` fits (n, m)."""
    steps = np.abs(after.astype(np.int16) - before).sum(axis=2)
    seen = ((after & before) != 255).any(axis=2)
    on, off = seen & is_border, seen & ~is_border
    return SeamSums(int(steps[on].sum()), int(on.sum()), int(steps[off].sum()), int(off.sum()))


def seam_sums(
    pixels: NDArray[np.uint8], stride: int, overlap: int, *, begins: tuple[bool, bool] = (True, True)
) -> SeamSums:
    """Seam sums of one block, uint8 (h, w, 3), whose corner lies on the tile grid; `begins` as in `SeamCounter`."""
    counter = SeamCounter(pixels.shape[1], stride, overlap, begins=begins)
    counter.add(pixels)
    return counter.sums
