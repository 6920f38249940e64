"""The plan of a run: what will be read, generated and written, decided before anything is done.

A plan is a pure function of the slide's facts, the tissue and the tiling. Every worker and every resumed run executes
the same plan; its hash is part of the key that a resume must meet.

Frames: output pixels of the whole slide ("slide frame") carry the tile grid, which is anchored at the slide's origin.
The canvas is the rectangle that is written; blocks are counted from the canvas origin, which lies on the tile grid.
A region's pixels are therefore the crop of the whole slide's.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.slide.base import Slide, SlideInfo
from wsistain.slide.glass import NEARLY_BLACK
from wsistain.slide.resample import Sampling, read_window
from wsistain.slide.roi import Roi
from wsistain.slide.tissue import TissueMask
from wsistain.tiling.blend import Frame
from wsistain.tiling.fade import fade_lattice, touches


@dataclass(frozen=True)
class Tiling:
    """The tile grid, in output pixels.

    stride  : step of the grid.
    overlap : band that neighbouring cores share and blend; core = stride + overlap.
    halo    : margin that is read round a core and thrown away.
    tile    : edge of what is read: core + 2 halo, raised to the generator's size multiple at the far side.
    block   : edge of the unit of work; a multiple of the stride.
    """

    stride: int
    overlap: int
    halo: int
    tile: int
    block: int

    def __post_init__(self) -> None:
        if self.overlap > self.stride:
            raise ConfigError(
                f"overlap {self.overlap} is larger than the stride {self.stride}; at most half a core may be shared"
            )
        if self.block % self.stride:
            raise ConfigError(
                f"block {self.block} is not a multiple of the stride {self.stride}; try --set tiling.stride=512"
            )
        if self.tile < self.core + 2 * self.halo:
            raise ConfigError(
                f"tile {self.tile} cannot hold a core of {self.core} and a halo of {self.halo} on each side"
            )

    @property
    def core(self) -> int:
        return self.stride + self.overlap

    @property
    def per_block(self) -> int:
        """Tiles along one side of a block."""
        return self.block // self.stride


def make_tiling(*, stride: int, overlap: int, halo: int, size_multiple: int, block: int) -> Tiling:
    """A tiling whose read tile is a multiple of `size_multiple` and whose halo keeps the network's grid in step.

    The halo is raised to a multiple of `size_multiple`, and the stride must be one: a network that downsamples must
    see every tile on the same grid, or tiling would not be exact.
    """
    if stride % size_multiple:
        raise ConfigError(f"stride {stride} is not a multiple of {size_multiple}, which these weights need")
    halo = -(-halo // size_multiple) * size_multiple
    tile = -(-(stride + overlap + 2 * halo) // size_multiple) * size_multiple
    return Tiling(stride=stride, overlap=overlap, halo=halo, tile=tile, block=block)


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the grid and the origin of its core, slide frame, output px."""

    row: int
    col: int
    y_out: int
    x_out: int


@dataclass(frozen=True)
class Block:
    """One block: its place in the canvas, counted from 0, and what of it lies inside the canvas, px.

    Row or column -1 is the ring of tiles before a region's canvas: generated for its tails, never written.
    """

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class RunPlan:
    """What a run does. See the module's text for the frames.

    slide      : path, and `fingerprint` its content.
    sampling   : how output pixels come from the slide.
    canvas     : (y, x, height, width) in output px of the slide frame; y and x are multiples of the stride.
    has_tissue : bool (rows, cols) over the whole slide's tile grid: tiles to generate.
    near_tissue: lattice of `tiling.fade`: where stain is shown in full, and where it fades to glass.
    unscanned  : where black is read as white, since nothing was scanned; None where that is nowhere.
    """

    slide: str
    fingerprint: str
    sampling: Sampling
    tiling: Tiling
    canvas: tuple[int, int, int, int]
    has_tissue: NDArray[np.bool_] = field(repr=False, compare=False)
    near_tissue: NDArray[np.bool_] = field(repr=False, compare=False)
    unscanned: TissueMask | None = field(default=None, repr=False, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Block rows and columns of the canvas."""
        return -(-self.canvas[2] // self.tiling.block), -(-self.canvas[3] // self.tiling.block)

    @property
    def origin(self) -> tuple[int, int]:
        """Tile row and column at the canvas origin."""
        return self.canvas[0] // self.tiling.stride, self.canvas[1] // self.tiling.stride

    def block(self, row: int, col: int) -> Block:
        b = self.tiling.block
        return Block(row, col, min(b, self.canvas[2] - row * b), min(b, self.canvas[3] - col * b))

    def frame(self, row: int, col: int) -> Frame:
        """Blending geometry of a block, ring blocks included."""
        n = self.tiling.per_block
        return Frame(
            n, self.tiling.stride, self.tiling.overlap, self.origin[0] + row * n == 0, self.origin[1] + col * n == 0
        )

    def tiles_in(self, row: int, col: int, *, edges_only: bool = False) -> list[Tile]:
        """Tiles to generate in a block, row by row.

        edges_only: only the last tile row and column, which are all that other blocks need of it. Ring blocks are
        always so: only the tiles that touch the canvas are listed.
        """
        n, s = self.tiling.per_block, self.tiling.stride
        row0, col0 = self.origin[0] + row * n, self.origin[1] + col * n
        rows, cols = self.has_tissue.shape
        last = n - 1
        found = []
        for i in range(max(row0, 0), min(row0 + n, rows)):
            for j in range(max(col0, 0), min(col0 + n, cols)):
                on_row, on_col = i - row0 == last, j - col0 == last
                if row < 0 and not on_row:
                    continue
                if col < 0 and not on_col:
                    continue
                if edges_only and not (on_row or on_col):
                    continue
                if self.has_tissue[i, j] and self._touches_canvas(i, j):
                    found.append(Tile(i, j, i * s, j * s))
        return found

    def _touches_canvas(self, i: int, j: int) -> bool:
        y, x, h, w = self.canvas
        s, core = self.tiling.stride, self.tiling.core
        return i * s < y + h and i * s + core > y and j * s < x + w and j * s + core > x

    def blocks(self) -> Iterator[Block]:
        """Blocks to write, row by row: those that any generated tile reaches."""
        rows, cols = self.grid
        for r in range(rows):
            for c in range(cols):
                if any(self.tiles_in(rr, cc, edges_only=(rr, cc) != (r, c)) for rr, cc in self.sources(r, c)):
                    yield self.block(r, c)

    def sources(self, row: int, col: int) -> list[tuple[int, int]]:
        """The block and its neighbours above, left and above-left, where the slide has any."""
        frame = self.frame(row, col)
        near = [(row, col)]
        if not frame.is_top:
            near.append((row - 1, col))
        if not frame.is_left:
            near.append((row, col - 1))
        if not (frame.is_top or frame.is_left):
            near.append((row - 1, col - 1))
        return near

    @property
    def n_tiles(self) -> int:
        """Tiles that the run generates, each once."""
        (r0, c0), (rows, cols) = self.origin, self.grid
        n = self.tiling.per_block
        first_r, first_c = max(r0 - 1, 0), max(c0 - 1, 0)
        sub = self.has_tissue[first_r : r0 + rows * n, first_c : c0 + cols * n]
        return sum(
            self._touches_canvas(int(i) + first_r, int(j) + first_c) for i, j in zip(*np.nonzero(sub), strict=True)
        )

    @property
    def hash(self) -> str:
        """Hex digest of everything that decides the pixels."""
        facts = {
            "format": 1,
            "fingerprint": self.fingerprint,
            "sampling": asdict(self.sampling),
            "tiling": asdict(self.tiling),
            "canvas": self.canvas,
            "tiles": _bits_hash(self.has_tissue),
            "fade": _bits_hash(self.near_tissue),
        }
        if self.unscanned is not None:
            facts["unscanned"] = _bits_hash(self.unscanned.mask)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def read(self, slide: Slide, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels of a window in output px, uint8 (height, width, 3): 255 outside the slide and where it was not scanned."""
        pixels = read_window(slide, self.sampling, y, x, height, width)
        if self.unscanned is not None:
            black = self.unscanned.window(y, x, height, width, px_l0=self.sampling.mpp / slide.info.mpp)
            pixels[black & (pixels.max(axis=2) <= NEARLY_BLACK)] = 255
        return pixels

    def describe(self) -> dict[str, object]:
        """The plan as plain values for a person or a JSON file."""
        return {
            "slide": self.slide,
            "output_px": {"height": self.canvas[2], "width": self.canvas[3]},
            "origin_px": {"y": self.canvas[0], "x": self.canvas[1]},
            "mpp": self.sampling.mpp,
            "level": self.sampling.level,
            "level_px_per_output_px": self.sampling.scale,
            "tiling": asdict(self.tiling),
            "tiles": self.n_tiles,
            "blocks": sum(1 for _ in self.blocks()),
            "plan_hash": self.hash,
        }


def _bits_hash(bits: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(bits).tobytes() + str(bits.shape).encode()).hexdigest()


def plan_run(
    info: SlideInfo,
    sampling: Sampling,
    tissue: TissueMask,
    tiling: Tiling,
    roi: Roi | None = None,
    *,
    crop: bool = False,
    unscanned: TissueMask | None = None,
) -> RunPlan:
    """The plan for a slide.

    tissue : where to generate; a tile is generated when any pixel of its core is tissue, so a tissue pixel is never
             blended with glass.
    roi    : restricts the canvas to its bounding box, grown to the tile grid; with `crop` false also the tissue to
             its shape, and everything in the shape that is tissue keeps its full stain. A plain rectangle passes `crop` true: its pixels then equal the crop of the whole slide.
    """
    # The canvas: the slide, or the region grown to the tile grid, so that its pixels are those of the whole slide.
    height, width = sampling.shape
    s = tiling.stride
    per_px = sampling.mpp / info.mpp  # level-0 px per output px
    y0, x0, y1, x1 = 0, 0, height, width
    if roi is not None:
        ry, rx, rh, rw = roi.bounds_l0
        y0, x0 = max(0, int(ry / per_px) // s * s), max(0, int(rx / per_px) // s * s)
        y1 = min(height, -(-int(np.ceil((ry + rh) / per_px)) // s) * s)
        x1 = min(width, -(-int(np.ceil((rx + rw) / per_px)) // s) * s)
        if y1 <= y0 or x1 <= x0:
            raise ConfigError(
                f"the region (x {rx}, y {ry}, {rw} x {rh}) lies outside the slide of {info.size_l0[1]} x {info.size_l0[0]} level-0 px"
            )
        if not crop:
            # Grown by one px of the mask, which holds a px where its centre is inside: what was drawn round never fades
            shape = TissueMask(roi.mask(info, tissue.downsample, tissue.mask.shape), tissue.downsample)
            tissue = TissueMask(tissue.mask & shape.dilated(tissue.downsample).mask, tissue.downsample)

    # Tiles of the whole slide's grid that touch tissue.
    ys, xs = (np.arange(-(-n // s)) * (s * per_px) for n in (height, width))
    has_tissue = touches(tissue, ys, xs, tiling.core * per_px)
    near_tissue = fade_lattice(tissue, (height, width), per_px)
    canvas = (y0, x0, y1 - y0, x1 - x0)
    return RunPlan(info.path, info.fingerprint, sampling, tiling, canvas, has_tissue, near_tissue, unscanned)
