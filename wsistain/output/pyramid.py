"""The levels above level 0, by exact 2 x 2 means of the stored values, each shard written once.

A pixel of level l + 1 is the mean, rounded half up, of the pixels of level l that it covers: four, or two at the
last row or column of an odd size, or one at an odd corner. Repeating the last row or column gives the same value
by one formula: (a + b + c + d + 2) // 4.
"""

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import OutputError
from wsistain.output.codec import decompress_piece
from wsistain.output.layout import OutputSpec
from wsistain.output.shard import Planes, ShardSink
from wsistain.runtime.ahead import thread_pool
from wsistain.runtime.files import reporting

_SLAB = 32
"""Rows halved at a time: their intermediate sums stay in the first-level cache."""


def half_plane(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One colour at half the size: uint8 (h, w) -> uint8 (ceil(h / 2), ceil(w / 2)), rounded half up.

    Neighbours in a row are added as the two bytes of one uint16, so that all steps run over contiguous memory.
    """
    height, width = plane.shape
    if height % 2 or width % 2:
        plane = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    # The two bytes of a uint16 must lie side by side.
    if plane.strides[1] != 1:
        plane = np.ascontiguousarray(plane)
    out = np.empty((plane.shape[0] // 2, plane.shape[1] // 2), np.uint8)
    for y in range(0, plane.shape[0], _SLAB):
        pairs = plane[y : y + _SLAB].view(np.uint16)
        # 4 * 255 + 2 fits into the 16 bits.
        sums = pairs >> 8
        sums += pairs & 255
        means = sums[0::2] + sums[1::2]
        means += 2
        means >>= 2
        out[y // 2 : (y + _SLAB) // 2] = means
    return out


def half(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels at half the size: uint8 (h, w, 3) -> uint8 (ceil(h / 2), ceil(w / 2), 3), rounded half up."""
    return np.stack([half_plane(pixels[..., c]) for c in range(pixels.shape[2])], axis=2)


def half_into(out: Planes, planes: Planes) -> None:
    """Fills `out`, uint8 (c, ceil(h / 2), ceil(w / 2)), with the half of `planes`, uint8 (c, h, w)."""
    for channel, plane in enumerate(planes):
        out[channel] = half_plane(plane)


def finish_pyramid(spec: OutputSpec, *, threads: int = 1) -> int:
    """Builds the levels that need more than one block from the blocks' pieces; how many files were written.

    Call it when every block is written; where a block left no piece, it was blank. Depth first: a shard is halved
    into the one above as soon as it is complete, so that nothing stored is read back and memory holds a few
    shards per level. Safe to repeat: the bytes are the same. Raises OutputError.
    """
    if not spec.has_pieces:
        return 0
    with reporting(spec.path), thread_pool(threads, "encode") as pool:
        sink = ShardSink(spec, pool, threads)
        _build(spec, len(spec.levels) - 1, 0, 0, sink)
        sink.finish()
    return len(sink.files)


def _build(spec: OutputSpec, level: int, row: int, col: int, sink: ShardSink) -> Planes | None:
    """Planes of one shard, after it and all below it were handed to the sink; None where it is blank."""
    # This shard's window of its level, clipped at the edge.
    height, width = spec.levels[level]
    y, x = row * spec.storage.shard, col * spec.storage.shard
    size = min(spec.storage.shard, height - y), min(spec.storage.shard, width - x)

    # From what the blocks left, or from the four shards below, each let go once it is halved.
    if level == spec.block_levels:
        planes = window_from_pieces(spec, y, x, size)
    else:
        planes = None
        rows, cols = spec.shard_grid(level - 1)
        for below_row in range(2 * row, min(2 * row + 2, rows)):
            for below_col in range(2 * col, min(2 * col + 2, cols)):
                below = _build(spec, level - 1, below_row, below_col, sink)
                if below is not None:
                    if planes is None:
                        planes = np.full((spec.layer.channels, *size), spec.layer.blank, np.uint8)
                    top, left = (
                        (below_row - 2 * row) * spec.storage.shard // 2,
                        (below_col - 2 * col) * spec.storage.shard // 2,
                    )
                    h, w = (below.shape[1] + 1) // 2, (below.shape[2] + 1) // 2
                    half_into(planes[:, top : top + h, left : left + w], below)
    sink.add(level, row, col, planes)
    return planes


def window_from_pieces(spec: OutputSpec, y: int, x: int, size: tuple[int, int]) -> Planes | None:
    """What the blocks have left so far of level `spec.block_levels`, uint8 (c, *size); None where that is nothing.

    Raises OutputError for a damaged piece.
    """
    # Pieces are on the grid of blocks, the window is on that of shards: a piece may belong to several windows.
    height, width = spec.levels[spec.block_levels]
    edge = spec.block >> spec.block_levels
    planes = None
    for row in range(y // edge, -(-(y + size[0]) // edge)):
        for col in range(x // edge, -(-(x + size[1]) // edge)):
            path = spec.folder / spec.piece_file(row, col)
            if not path.exists():
                continue
            h, w = min(edge, height - row * edge), min(edge, width - col * edge)
            try:
                piece = decompress_piece(path.read_bytes()).reshape(spec.layer.channels, h, w)
            except (RuntimeError, ValueError) as error:
                raise OutputError(f"{path} is damaged ({error}); run again with --overwrite") from error
            if planes is None:
                planes = np.full((spec.layer.channels, *size), spec.layer.blank, np.uint8)
            top, left = max(y, row * edge), max(x, col * edge)
            bottom, right = min(y + size[0], row * edge + h), min(x + size[1], col * edge + w)
            planes[:, top - y : bottom - y, left - x : right - x] = piece[
                :, top - row * edge : bottom - row * edge, left - col * edge : right - col * edge
            ]
    return planes
