"""Writing a stained slide, block by block: level 0, the levels that end inside the block, and what is left over."""

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.output.layout import WORK, OutputSpec
from wsistain.output.pyramid import half_into
from wsistain.output.shard import Planes, ShardSink, is_blank
from wsistain.runtime.ahead import thread_pool
from wsistain.runtime.files import FileDone, reporting

__all__ = ["BlockDone", "OutputSpec", "create_output", "write_block"]


@dataclass(frozen=True)
class BlockDone:
    """What the writing of one block left behind.

    row, col       : the block's place in the grid.
    shards_written : shard files of the output (0.4: chunk files); the temporary piece is not counted.
    bytes_written  : their bytes.
    seconds_encode : spent on halving, summed over threads, and on waiting for what compresses.
    seconds_write  : spent on files.
    files          : every file written, the piece among them; a blank block has none.
    """

    row: int
    col: int
    shards_written: int
    bytes_written: int
    seconds_encode: float
    seconds_write: float
    files: tuple[FileDone, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The record as plain values for a line of JSON."""
        return {**asdict(self), "files": [[f.path, f.size, f.crc] for f in self.files]}

    def with_layer(self, other: "BlockDone") -> "BlockDone":
        """The record of this block and of another layer of it."""
        return BlockDone(
            self.row,
            self.col,
            self.shards_written + other.shards_written,
            self.bytes_written + other.bytes_written,
            self.seconds_encode + other.seconds_encode,
            self.seconds_write + other.seconds_write,
            self.files + other.files,
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BlockDone":
        """The record from `to_json`; KeyError, TypeError or ValueError when it is not one."""
        files = tuple(FileDone(str(path), int(size), int(crc)) for path, size, crc in values["files"])
        return cls(**{**values, "files": files})


def create_output(spec: OutputSpec) -> None:
    """Makes the folders of a layer of an output; safe to repeat. Raises OutputError.

    There is no metadata yet, so that no reader takes it for finished.
    """
    with reporting(spec.path):
        for level in range(len(spec.levels)):
            (spec.folder / f"{spec.inner}{level}").mkdir(parents=True, exist_ok=True)
        (spec.folder / spec.piece_file(0, 0)).parent.mkdir(parents=True, exist_ok=True)


def write_block(spec: OutputSpec, row: int, col: int, pixels: NDArray[np.uint8], *, threads: int = 1) -> BlockDone:
    """Writes one block's shards of every level that ends inside it, and its piece for the levels above.

    pixels  : uint8 (h, w, c), the block at level 0, clipped at the slide's edge; c as the spec's layer has it.
    threads : for compression; the bytes do not depend on it.

    Writing a block again replaces its files by the same bytes; what became blank is removed. Raises OutputError
    when a file cannot be written, ValueError for pixels of another shape or type.
    """
    size = (*spec.block_size(row, col), spec.layer.channels)
    if pixels.shape != size or pixels.dtype != np.uint8:
        raise ValueError(f"block ({row}, {col}) takes uint8 {size}, found {pixels.dtype} {pixels.shape}")
    with reporting(spec.path), thread_pool(threads, "encode") as pool:
        sink = ShardSink(spec, pool, threads)
        start = perf_counter()
        above = _level_0(spec, row, col, pixels, sink, threads)
        for level in range(1, spec.block_levels):
            above = _level(spec, level, row, col, above, sink)
        if spec.has_pieces:
            sink.add_piece(row, col, None if is_blank(above, spec.layer) else above)
        sink.finish()
        total = perf_counter() - start
    # A piece lies among the work files and goes with them: it is no part of the result.
    shards = [f for f in sink.files if not f.path.startswith(WORK)]
    return BlockDone(
        row=row,
        col=col,
        shards_written=len(shards),
        bytes_written=sum(f.size for f in shards),
        seconds_encode=round(total - sink.seconds_waited - sink.seconds_write + sink.seconds_prepare, 6),
        seconds_write=round(sink.seconds_write, 6),
        files=tuple(sink.files),
    )


def _empty_above(spec: OutputSpec, level: int, height: int, width: int) -> Planes:
    """Planes for the level above, (c, ceil(h / 2), ceil(w / 2)); nothing where no level is above."""
    if level + 1 == len(spec.levels):
        return np.empty((spec.layer.channels, 0, 0), np.uint8)
    return np.empty((spec.layer.channels, (height + 1) // 2, (width + 1) // 2), np.uint8)


def _level_0(spec: OutputSpec, row: int, col: int, pixels: NDArray[np.uint8], sink: ShardSink, threads: int) -> Planes:
    """Hands the shards of level 0 to the sink; the block's planes of level 1.

    Colours are split and halved on the threads too, a few shards ahead: each shard fills its own part of level 1.
    """
    height, width = pixels.shape[:2]
    above = _empty_above(spec, 0, height, width)
    side, edge = spec.block // spec.storage.shard, spec.storage.shard

    # A shard is laid out by colour and halved while the one before is encoded.
    def prepare(corner: tuple[int, int]) -> tuple[Planes | None, float]:
        start = perf_counter()
        y, x = corner
        window = pixels[y : y + edge, x : x + edge]
        target = above[:, y // 2 : (y + edge) // 2, x // 2 : (x + edge) // 2]
        if is_blank(window, spec.layer):
            target[...] = spec.layer.blank
            return None, perf_counter() - start
        planes = np.ascontiguousarray(window.transpose(2, 0, 1))
        if above.size:
            half_into(target, planes)
        return planes, perf_counter() - start

    corners = [(y, x) for y in range(0, height, edge) for x in range(0, width, edge)]
    prepared = sink.ahead(prepare, corners, min(threads, 4) - 1)
    for (y, x), planes in zip(corners, prepared, strict=True):
        sink.add(0, row * side + y // edge, col * side + x // edge, planes)
    return above


def _level(spec: OutputSpec, level: int, row: int, col: int, planes: Planes, sink: ShardSink) -> Planes:
    """Hands the shards of a higher level of the block to the sink; the block's planes of the level above."""
    _, height, width = planes.shape
    above = _empty_above(spec, level, height, width)
    side, edge = (spec.block >> level) // spec.storage.shard, spec.storage.shard
    for y in range(0, height, edge):
        for x in range(0, width, edge):
            window = planes[:, y : y + edge, x : x + edge]
            place = level, row * side + y // edge, col * side + x // edge
            sink.add(*place, None if is_blank(window, spec.layer) else window)
            if above.size:
                half_into(above[:, y // 2 : (y + edge) // 2, x // 2 : (x + edge) // 2], window)
    return above
