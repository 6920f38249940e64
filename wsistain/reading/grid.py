"""The grid on which cells are read: the H&E at about 1 um per px, labels twice as fine, in blocks with a margin.

Frames. A place on the slide is told in um from the upper left corner of level 0, and as level-0 px of the same corner:
the middle of the first pixel lies at 0.5, as in QuPath. Grid px (i, j) covers i * mpp .. (i + 1) * mpp um.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsistain.slide.base import SlideInfo
from wsistain.slide.resample import Sampling, choose_sampling
from wsistain.slide.tissue import TissueMask

GRID_MPP = 1.0
"""um per px at which nuclei are looked for."""

FINE = 2
"""Label px per grid px along an edge."""

BLOCK_PX = 1024
"""Edge of a block, grid px."""

MARGIN_UM = 64.0
"""How far beyond its block a block looks. Nothing about a cell depends on anything further away, and larger cells are left out."""

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """A window of the grid, grid px."""

    y: int
    x: int
    height: int
    width: int

    def grown(self, px: int) -> "Box":
        """The window with `px` more on each side."""
        return Box(self.y - px, self.x - px, self.height + 2 * px, self.width + 2 * px)

    def holds(self, y: F64, x: F64) -> NDArray[np.bool_]:
        """Which places (grid px from the corner) lie in the window: lower ends in, upper ends out."""
        inside: NDArray[np.bool_] = (
            (y >= self.y) & (y < self.y + self.height) & (x >= self.x) & (x < self.x + self.width)
        )
        return inside


@dataclass(frozen=True)
class Cover:
    """Where there is a stain to be read. rectangles : (y, x, height, width) of each, um from the corner of the slide."""

    rectangles: tuple[tuple[float, float, float, float], ...]

    def holds(self, y: F64, x: F64) -> NDArray[np.bool_]:
        """Which places, um, lie under any of them."""
        inside = np.zeros(len(y), bool)
        for top, left, height, width in self.rectangles:
            inside |= (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        return inside

    def touches(self, box: Box, mpp: float) -> bool:
        """Whether a window of a grid of `mpp` um per px lies under any of them."""
        ends = (box.y + box.height) * mpp, (box.x + box.width) * mpp
        return any(
            box.y * mpp < top + height and ends[0] > top and box.x * mpp < left + width and ends[1] > left
            for top, left, height, width in self.rectangles
        )


@dataclass(frozen=True)
class Grid:
    """The grid of one slide.

    sampling : how its pixels come from the slide.
    um_l0    : um per level-0 px.
    size_l0  : (height, width) of level 0, px.
    block    : edge of a block, grid px.
    """

    sampling: Sampling
    um_l0: float
    size_l0: tuple[int, int]
    block: int = BLOCK_PX

    @property
    def mpp(self) -> float:
        """um per grid px."""
        return self.sampling.mpp

    @property
    def label_mpp(self) -> float:
        """um per label px."""
        return self.sampling.mpp / FINE

    @property
    def margin(self) -> int:
        """Grid px that a block looks beyond its edge."""
        return int(np.ceil(MARGIN_UM / self.mpp))

    def blocks(self, tissue: TissueMask) -> Iterator[Box]:
        """Blocks that touch tissue, top to bottom, then left to right."""
        height, width = self.sampling.shape
        per_px = self.mpp / self.um_l0
        for y in range(0, height, self.block):
            for x in range(0, width, self.block):
                box = Box(y, x, min(self.block, height - y), min(self.block, width - x))
                if tissue.covers(y * per_px, x * per_px, box.height * per_px, box.width * per_px):
                    yield box


def make_grid(info: SlideInfo, *, block: int = BLOCK_PX) -> Grid:
    """The grid of a slide. SlideError where it is coarser than 2 um per px: nuclei cannot be told there."""
    return Grid(choose_sampling(info, GRID_MPP), info.mpp, info.size_l0, block)
