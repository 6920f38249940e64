"""Exact blending of overlapping tiles: integer ramps, integer sums, no order.

A tile's core is `stride + overlap` on a side and shares `overlap` px with each neighbour. Along one axis the weights
of the two tiles at a pixel are integers that sum to 256; in the plane they are products that sum to 65536. A pixel is
(sum of weight * value + half) >> shift, so it depends on the tiles alone and not on who adds them, in which order or
in which block: the bytes are the same for any number of workers.

A block adds up its own tiles. What its tiles owe to the blocks below and to the right are `Tails`, which the neighbours
weigh and add to their own sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
Sums = NDArray[np.uint32]

UNIT = 256
GLASS = 255


@lru_cache(maxsize=64)
def ramp(overlap: int) -> NDArray[np.uint16]:
    """Weights of the later tile over the `overlap` px that it shares with the earlier one: uint16, 0..256, rising.

    The earlier tile's weights are 256 minus these. The middle of the ramp is the middle of the band.
    """
    k = np.arange(overlap, dtype=np.float64)
    weights = np.rint(UNIT * (k + 0.5) / max(overlap, 1)).astype(np.uint16)
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=256)
def axis_weights(stride: int, overlap: int, is_first: bool) -> NDArray[np.uint16]:
    """Weights of one tile along one axis: uint16 (stride + overlap,), 0..256.

    `is_first`: nothing comes before the tile on this axis, so that its leading band counts in full. Weights of
    neighbouring tiles sum to 256 at every pixel.
    """
    weights = np.full(stride + overlap, UNIT, np.uint16)
    if overlap:
        if not is_first:
            weights[:overlap] = ramp(overlap)
        weights[stride:] = UNIT - ramp(overlap)
    weights.flags.writeable = False
    return weights


@dataclass(frozen=True)
class Tails:
    """What a block's tiles add to the blocks after it, with the weights along one axis only, so that it is small.

    below  : uint16 (overlap, block, 3), the rows just under the block: sums over x of weight times value.
    right  : uint16 (block, overlap, 3), the columns just right of it: sums over y.
    corner : uint8 (overlap, overlap, 3), below and right: values.

    The weights along the other axis are those of a tile's trailing band, the same for every tile.
    """

    below: NDArray[np.uint16]
    right: NDArray[np.uint16]
    corner: RGB

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.below.nbytes + self.right.nbytes + self.corner.nbytes

    def __sizeof__(self) -> int:
        """What it holds, for schedulers that weigh what to send where."""
        return object.__sizeof__(self) + self.nbytes


@dataclass(frozen=True)
class Heads:
    """A block's own sums in the bands that it shares with the blocks before it, and where its pixels are final.

    top  : uint32 (overlap, block, 3); left : uint32 (block, overlap, 3). Where both meet they hold the same sums.
    """

    top: Sums
    left: Sums

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.top.nbytes + self.left.nbytes


@dataclass(frozen=True)
class Frame:
    """Geometry of one block: `n` x `n` tiles of `stride` with `overlap`; is it first on the slide's axes?

    channels : of the pixels: three colours, or one more where the generators tell p too. 255 is blank in all of them.
    """

    n: int
    stride: int
    overlap: int
    is_top: bool
    is_left: bool
    channels: int = 3

    @property
    def block(self) -> int:
        return self.n * self.stride


Pieces = Mapping[tuple[int, int], RGB]
"""Generated cores, uint8 (stride + overlap, stride + overlap, 3), by (row, col) within the block; absent is glass."""


def _weigh(piece: RGB, wy: NDArray[np.uint16], wx: NDArray[np.uint16]) -> Sums:
    weights = wy.astype(np.uint32)[:, None] * wx.astype(np.uint32)[None, :]
    return piece.astype(np.uint32) * weights[..., None]


def _glass_sums(wy: NDArray[np.uint16], wx: NDArray[np.uint16], channels: int) -> Sums:
    weights = wy.astype(np.uint32)[:, None] * wx.astype(np.uint32)[None, :] * np.uint32(GLASS)
    return np.broadcast_to(weights[..., None], (*weights.shape, channels))


def _part(pieces: Pieces, frame: Frame, i: int, j: int, rows: slice, cols: slice) -> Sums:
    """Weighted sums of a part of tile (i, j)."""
    wy = axis_weights(frame.stride, frame.overlap, frame.is_top and i == 0)[rows]
    wx = axis_weights(frame.stride, frame.overlap, frame.is_left and j == 0)[cols]
    piece = pieces.get((i, j))
    return _glass_sums(wy, wx, frame.channels) if piece is None else _weigh(piece[rows, cols], wy, wx)


def _band_of_row(pieces: Pieces, frame: Frame, i: int, rows: slice) -> Sums:
    """Sums of tile row `i` in its own `rows` (within the core) over the block's columns: (rows, block, 3)."""
    s, core = frame.stride, frame.stride + frame.overlap
    band = np.zeros((rows.stop - rows.start, frame.block + frame.overlap, frame.channels), np.uint32)
    for j in range(frame.n):
        band[:, j * s : j * s + core] += _part(pieces, frame, i, j, rows, slice(0, core))
    return band[:, : frame.block]


def settle(sums: Sums) -> RGB:
    """Pixels of complete sums (weights summing to 65536): rounded half up, uint8."""
    out: RGB = ((sums + np.uint32(1 << 15)) >> np.uint32(16)).astype(np.uint8)
    return out


def _mix(first: RGB, second: RGB, w_second: NDArray[np.uint16]) -> RGB:
    """Blend of two bands whose other axis counts in full; equal to `settle` of their sums.

    `w_second` broadcasts against the bands as 2-D (rows, columns * channels).
    """
    h, w, c = first.shape
    # In uint16: 255 * 256 and the half fit exactly.
    total = first.reshape(h, w * c) * (UNIT - w_second)
    total += second.reshape(h, w * c) * w_second
    total += UNIT // 2
    total >>= 8
    return total.astype(np.uint8).reshape(h, w, c)


def _glass_piece(pieces: Pieces, key: tuple[int, int], frame: Frame) -> RGB:
    piece, core = pieces.get(key), frame.stride + frame.overlap
    return np.broadcast_to(np.uint8(GLASS), (core, core, frame.channels)) if piece is None else piece


def _tail_below(pieces: Pieces, frame: Frame) -> NDArray[np.uint16]:
    """Trailing rows of the last tile row, weighted along x: uint16 (overlap, block, 3); at most 256 * 255."""
    s, o, last = frame.stride, frame.overlap, frame.n - 1
    band = np.zeros((o, frame.block + o, frame.channels), np.uint16)
    for j in range(frame.n):
        wx = axis_weights(s, o, frame.is_left and j == 0)[None, :, None]
        piece = pieces.get((last, j))
        band[:, j * s : j * s + s + o] += GLASS * wx if piece is None else piece[s:] * wx
    return band[:, : frame.block].copy()


class BlockBlender:
    """Blends the tiles of one block as they come, row by row from the top, holding one row of cores at a time.

    edges_only: nothing but the tails is wanted; the block's pixels are not made.
    """

    def __init__(self, frame: Frame, *, edges_only: bool = False) -> None:
        self._frame = frame
        side = frame.block + frame.overlap
        self._pixels = None if edges_only else np.full((frame.block, frame.block, frame.channels), GLASS, np.uint8)
        self._left = np.zeros((side, frame.overlap, frame.channels), np.uint32)
        self._right = np.zeros((side, frame.overlap, frame.channels), np.uint16)
        self._top: Sums = np.zeros((frame.overlap, frame.block, frame.channels), np.uint32)
        self._above: dict[int, RGB] = {}
        self._next = 0
        self._tails: Tails | None = None

    def add_row(self, cores: Mapping[int, RGB]) -> None:
        """Take the next row of cores, uint8 (stride + overlap, stride + overlap, 3), by column; absent is glass."""
        # The new row and the one above it, by place in the block.
        frame, i = self._frame, self._next
        s, o, last = frame.stride, frame.overlap, frame.n - 1
        core = s + o
        pieces = {(i - 1, j): v for j, v in self._above.items()} | {(i, j): v for j, v in cores.items()}
        rows, head, every = slice(i * s, i * s + core), slice(0, o), slice(0, core)

        # What the row adds to the bands that are shared with other blocks.
        self._left[rows] += _part(pieces, frame, i, 0, every, head)
        wy = axis_weights(s, o, frame.is_top and i == 0)[:, None, None]
        end = pieces.get((i, last))
        self._right[rows] += GLASS * wy if end is None else end[:, s:] * wy
        if i == 0:
            self._top = _band_of_row(pieces, frame, 0, head)
        if i == last:
            self._tails = Tails(
                below=_tail_below(pieces, frame),
                right=self._right[: frame.block].copy(),
                corner=np.full((o, o, frame.channels), GLASS, np.uint8) if end is None else end[s:, s:].copy(),
            )

        # What it completes of the block itself; of its cores only what the next row overlaps is kept.
        if self._pixels is not None:
            _assemble_row(self._pixels, pieces, frame, i)
        self._above = {j: v[s:].copy() for j, v in cores.items()}
        self._next += 1

    @property
    def tails(self) -> Tails:
        """What the block owes to others. ValueError before the last row was added."""
        if self._tails is None:
            raise ValueError(f"{self._next} of {self._frame.n} rows of tiles were added")
        return self._tails

    @property
    def heads(self) -> Heads:
        """The block's own sums in the leading bands that it shares with the blocks above and left of it."""
        return Heads(top=self._top, left=self._left[: self._frame.block])

    @property
    def pixels(self) -> RGB | None:
        """uint8 (block, block, 3), complete except in the leading bands shared with other blocks."""
        return self._pixels


def blend_pieces(pieces: Pieces, frame: Frame, *, edges_only: bool = False) -> BlockBlender:
    """A blender that has taken all of `pieces`."""
    blender = BlockBlender(frame, edges_only=edges_only)
    for i in range(frame.n):
        blender.add_row({j: v for (row, j), v in pieces.items() if row == i})
    return blender


def _assemble_row(out: RGB, pieces: Pieces, frame: Frame, i: int) -> None:
    """Write tile row `i` into the block: a body is a copy, an edge blends two tiles, a corner four.

    Of the pieces above only the last `overlap` rows are read, and need be there.
    """
    s, o = frame.stride, frame.overlap
    wx = np.repeat(ramp(o), frame.channels)[None, :]
    wy = ramp(o)[:, None]
    for j in range(frame.n):
        y, x = i * s, j * s
        piece = pieces.get((i, j))
        # The body, up to the slide's own border where there is nothing to blend with.
        if piece is not None:
            out[y + o : y + s, x + o : x + s] = piece[o:s, o:s]
            if i == 0 and frame.is_top:
                out[:o, x + o : x + s] = piece[:o, o:s]
            if j == 0 and frame.is_left:
                out[y + o : y + s, :o] = piece[o:s, :o]
            if i == 0 and j == 0 and frame.is_top and frame.is_left:
                out[:o, :o] = piece[:o, :o]
        if not o:
            continue
        # The edge to the left, then the one above, then the corner; between two blanks the glass is there already.
        if j and not (piece is None and (i, j - 1) not in pieces):
            left, here = _glass_piece(pieces, (i, j - 1), frame), _glass_piece(pieces, (i, j), frame)
            rows = slice(0 if i == 0 and frame.is_top else o, s)
            band = _mix(np.ascontiguousarray(left[rows, s:]), np.ascontiguousarray(here[rows, :o]), wx)
            out[y + rows.start : y + s, x : x + o] = band
        if i and not (piece is None and (i - 1, j) not in pieces):
            above, here = _glass_piece(pieces, (i - 1, j), frame), _glass_piece(pieces, (i, j), frame)
            cols = slice(0 if j == 0 and frame.is_left else o, s)
            band = _mix(np.ascontiguousarray(above[-o:, cols]), np.ascontiguousarray(here[:o, cols]), wy)
            out[y : y + o, x + cols.start : x + s] = band
        if i and j and not all(k not in pieces for k in ((i, j), (i - 1, j), (i, j - 1), (i - 1, j - 1))):
            head, tail = slice(0, o), slice(-o, None)
            out[y : y + o, x : x + o] = settle(
                _part(pieces, frame, i, j, head, head)
                + _part(pieces, frame, i - 1, j, tail, head)
                + _part(pieces, frame, i, j - 1, head, tail)
                + _part(pieces, frame, i - 1, j - 1, tail, tail)
            )


def join(pixels: RGB, heads: Heads, frame: Frame, above: Tails | None, left: Tails | None, corner: Tails | None) -> RGB:
    """`pixels` with the leading bands completed by the tails of the blocks above, left, and above-left.

    A neighbour is None only where the slide ends on that side. Writes into `pixels` and returns it.
    """
    o = frame.overlap
    if not o:
        return pixels
    top, side = heads.top.copy(), heads.left.copy()
    weights = (UNIT - ramp(o)).astype(np.uint32)
    # A neighbour weighs by its trailing edge along each band. What lies in the corner belongs to both bands.
    if above is not None:
        owed = above.below * weights[:, None, None]
        top += owed
        side[:o] += owed[:, :o]
    if left is not None:
        owed = left.right * weights[None, :, None]
        side += owed
        top[:, :o] += owed[:o]
    if corner is not None:
        owed = corner.corner * (weights[:, None] * weights[None, :])[..., None]
        top[:, :o] += owed
        side[:o] += owed
    pixels[:o] = settle(top)
    pixels[:, :o] = settle(side)
    return pixels
