"""The bytes of chunks and shards, made on our own threads.

Why not a library (benchmarks/write.py, a real stain, two threads, per CPU second, ours = 1):

- zarr-python, 0.6: each inner chunk takes its own trip through an event loop.
- zarrs, 1.2 to 1.3: writes a shard in place, so a crash leaves a torn one under its name, and lays inner chunks down as they
  become ready, so the bytes differ from run to run; a resume must end in the bytes of an unbroken run.
- TensorStore, 1.2 to 1.35: renames, and its bytes are the same again. But it does not say what it wrote (the journal's
  CRC-32C must be read back), lays the three colours of a place far apart in the file where a viewer asks for all
  three, has no part in the pieces (ours are in its figure, its are not) nor in OME-Zarr 0.4, and takes a tenth more memory.

Writing is not what a run waits for: with any network it is beside the point, and it runs on threads beside it. The formats
are small, so we write them ourselves and check them with foreign readers:

- Zarr v3 `sharding_indexed`: inner chunks one after another, then the index: for each inner chunk in C order of
  (c, y, x) its offset and size as little-endian uint64, both 2^64 - 1 where it is absent, then CRC-32C of the index.
- Zarr v2: one chunk per file.

Source: Zarr v3 core specification, codec "sharding_indexed" 1.0.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsistain.errors import OutputError
from wsistain.output.codec import compress_piece, compressor, decompress_piece
from wsistain.output.layout import STAIN, Layer, OutputSpec
from wsistain.runtime.ahead import in_order
from wsistain.runtime.files import FileDone, remove_file, write_file

Planes = NDArray[np.uint8]
"""uint8 (c, h, w): red, green, blue; or one channel."""

Mapper = Callable[..., Iterable[Any]]
"""`map`, or `map` of a thread pool, which begins all calls at once."""

MISSING = 2**64 - 1

T = TypeVar("T")
R = TypeVar("R")


def is_blank(pixels: NDArray[np.uint8], layer: Layer) -> bool:
    """Whether every value is that of `layer` where nothing was written; True for no values."""
    return pixels.size == 0 or bool(pixels.min() == layer.blank == pixels.max())


def _chunk_at(planes: Planes, edge: int, channel: int, y: int, x: int, blank: int) -> NDArray[np.uint8]:
    """Contiguous (edge, edge) copy from (y, x) of one channel; `blank` beyond the planes."""
    window = planes[channel, y : y + edge, x : x + edge]
    if window.shape == (edge, edge):
        return np.ascontiguousarray(window)
    chunk = np.full((edge, edge), blank, np.uint8)
    chunk[: window.shape[0], : window.shape[1]] = window
    return chunk


def encode_chunks(
    planes: Planes, edge: int, compress: Callable[[Any], bytes], run: Mapper, layer: Layer = STAIN
) -> Iterable[tuple[bytes, float]]:
    """(compressed bytes, seconds) of each chunk of `planes`, in the order (y, x, c); no bytes for a blank chunk.

    The colours of a place lie side by side in the file, because a viewer asks for all three.
    """

    def encode(place: tuple[int, int, int]) -> tuple[bytes, float]:
        start = perf_counter()
        y, x, channel = place
        chunk = _chunk_at(planes, edge, channel, y, x, layer.blank)
        data = b"" if is_blank(chunk, layer) else compress(chunk)
        return data, perf_counter() - start

    channels, height, width = planes.shape
    corners = [(y, x) for y in range(0, height, edge) for x in range(0, width, edge)]
    return run(encode, [(y, x, c) for y, x in corners for c in range(channels)])


def shard_buffers(chunks: list[bytes], rows: int, cols: int, side: int, channels: int = 3) -> list[bytes]:
    """The buffers of a shard file: chunks in the order given (y, x, c over `rows` x `cols` x channels), then the index.

    side : inner chunks along an edge of the shard; chunks beyond `rows` and `cols` are absent.
    """
    index = np.full((channels, side, side, 2), MISSING, np.uint64)
    offset = 0
    for number, chunk in enumerate(chunks):
        if chunk:
            place, channel = divmod(number, channels)
            y, x = divmod(place, cols)
            index[channel, y, x] = offset, len(chunk)
            offset += len(chunk)
    if len(chunks) != channels * rows * cols:
        raise ValueError(f"{len(chunks)} chunks for {rows} x {cols} x {channels} places")
    table = index.astype("<u8").tobytes()
    return [*(c for c in chunks if c), table, struct.pack("<I", google_crc32c.value(table))]


def decode_shard(
    data: bytes, height: int, width: int, edge: int, side: int, run: Mapper = map, layer: Layer = STAIN
) -> Planes:
    """Planes uint8 (c, height, width) of a shard file; blank where chunks are absent.

    Raises OutputError when the index is damaged. Used for the pieces; readers of the output have zarr.
    """
    channels = layer.channels
    table_size = channels * side * side * 16
    table, check = data[-table_size - 4 : -4], data[-4:]
    if len(table) != table_size or struct.pack("<I", google_crc32c.value(table)) != check:
        raise OutputError(f"a shard of {len(data)} bytes has a damaged index; run again with --overwrite")
    index = np.frombuffer(table, "<u8").reshape(channels, side, side, 2)
    planes = np.full((channels, height, width), layer.blank, np.uint8)

    def decode(place: tuple[int, int, int]) -> None:
        channel, row, col = place
        offset, size = (int(v) for v in index[channel, row, col])
        if offset != MISSING:
            chunk = decompress_piece(data[offset : offset + size]).reshape(edge, edge)
            target = planes[channel, row * edge : (row + 1) * edge, col * edge : (col + 1) * edge]
            target[...] = chunk[: target.shape[0], : target.shape[1]]

    rows, cols = -(-height // edge), -(-width // edge)
    for _ in run(decode, [(c, y, x) for y in range(rows) for x in range(cols) for c in range(channels)]):
        continue
    return planes


@dataclass
class ShardSink:
    """Encodes shards on threads while the one before is written; `files` and the timings fill as it goes.

    seconds_encode is summed over threads, seconds_waited is what the caller stood still for it. At most two shards
    are held encoded. `finish` must be called at the end.
    """

    spec: OutputSpec
    pool: Executor
    files: list[FileDone] = field(default_factory=list)
    seconds_encode: float = 0.0
    seconds_waited: float = 0.0
    seconds_write: float = 0.0
    _pending: deque[tuple[Callable[[list[bytes]], None], Iterable[tuple[bytes, float]]]] = field(default_factory=deque)

    def add(self, level: int, row: int, col: int, planes: Planes | None) -> None:
        """Takes a shard, clipped at the edge of its level; None is blank. `planes` must not change afterwards."""
        names = self.spec.shard_files(level, row, col)
        if planes is None:
            for name in names:
                remove_file(self.spec.folder, name)
        elif self.spec.storage.ngff == "0.5":
            self._begin(
                lambda chunks: self._shard(names[0], planes, self.spec.storage.shard, chunks),
                planes,
                self.spec.storage.chunk,
            )
        else:
            self._begin(lambda chunks: self._chunk_files(names, chunks), planes, self.spec.stored_chunk)

    def ahead(self, work: Callable[[T], tuple[R, float]], items: Iterable[T], depth: int) -> Iterator[R]:
        """Results of `work`, which gives (result, seconds), in the order of `items`, `depth` of them begun ahead."""
        start = perf_counter()
        for result, seconds in in_order(self.pool, work, items, depth + 1):
            self.seconds_encode += seconds
            self.seconds_waited += perf_counter() - start
            yield result
            start = perf_counter()

    def add_piece(self, row: int, col: int, planes: Planes | None) -> None:
        """Takes the reduced piece of a block, to be stored like a shard; None is blank."""
        name = self.spec.piece_file(row, col)
        if planes is None:
            remove_file(self.spec.folder, name)
        else:
            edge = max(planes.shape[1:])
            self._begin(
                lambda chunks: self._shard(name, planes, edge, chunks), planes, self.spec.storage.chunk, piece=True
            )

    def finish(self) -> None:
        """Writes what is left."""
        while self._pending:
            self._store()

    def _begin(self, store: Callable[[list[bytes]], None], planes: Planes, edge: int, *, piece: bool = False) -> None:
        compress = compress_piece if piece else compressor(self.spec.storage)
        self._pending.append((store, encode_chunks(planes, edge, compress, self.pool.map, self.spec.layer)))
        if len(self._pending) > 1:
            self._store()

    def _store(self) -> None:
        store, encoded = self._pending.popleft()
        start = perf_counter()
        chunks = []
        for data, seconds in encoded:
            chunks.append(data)
            self.seconds_encode += seconds
        ready = perf_counter()
        store(chunks)
        self.seconds_waited += ready - start
        self.seconds_write += perf_counter() - ready

    def _shard(self, name: str, planes: Planes, edge: int, chunks: list[bytes]) -> None:
        if not any(chunks):
            remove_file(self.spec.folder, name)
            return
        rows, cols = (-(-n // self.spec.storage.chunk) for n in planes.shape[1:])
        buffers = shard_buffers(chunks, rows, cols, -(-edge // self.spec.storage.chunk), self.spec.layer.channels)
        self.files.append(write_file(self.spec.folder, name, buffers))

    def _chunk_files(self, names: tuple[str, ...], chunks: list[bytes]) -> None:
        for name, chunk in zip(names, chunks, strict=True):
            if chunk:
                self.files.append(write_file(self.spec.folder, name, [chunk]))
            else:
                remove_file(self.spec.folder, name)
