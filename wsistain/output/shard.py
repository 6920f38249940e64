"""The bytes of shards and chunks: TensorStore makes them in memory, we write the files.

So the files stay ours: each appears once, by a rename, and its size and CRC-32C are known without reading it back.
TensorStore makes the same bytes with any number of threads, leaves blank chunks out, and encodes from the metadata that
the finished output will have, for Zarr v3 and v2 alike.

Source: Zarr v3 core specification, codec "sharding_indexed" 1.0; Zarr v2 specification.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import OutputError
from wsistain.output.codec import compress_piece
from wsistain.output.layout import Layer, OutputSpec
from wsistain.output.metadata import level_documents
from wsistain.runtime.ahead import in_order
from wsistain.runtime.files import FileDone, remove_file, write_file

if TYPE_CHECKING:
    from tensorstore import KvStore, TensorStore

_is_forked_off = False


def _forked() -> None:
    global _is_forked_off
    _is_forked_off = "tensorstore" in sys.modules


# TensorStore ends a process that was forked off one that had loaded it: it is asked here, before, in words.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

Planes = NDArray[np.uint8]
"""uint8 (c, h, w): red, green, blue; or one channel."""

T = TypeVar("T")
R = TypeVar("R")


def is_blank(pixels: NDArray[np.uint8], layer: Layer) -> bool:
    """Whether every value is that of `layer` where nothing was written; True for no values."""
    return pixels.size == 0 or bool(pixels.min() == layer.blank == pixels.max())


class Encoder:
    """The levels of a layer as arrays in memory, out of which the bytes of each file are taken.

    threads : that encode, together; the bytes do not depend on it.

    OutputError in a process that was forked off one which had written before: threads do not outlive a fork.
    """

    def __init__(self, spec: OutputSpec, threads: int) -> None:
        if _is_forked_off:
            raise OutputError(
                f"{spec.path}: this process was forked off one that had loaded TensorStore, which does not work in it; "
                "start it by 'spawn' or 'forkserver' (multiprocessing.get_context)"
            )
        import tensorstore as ts  # half a second, for those alone who write

        self._spec = spec
        self._context = ts.Context({"data_copy_concurrency": {"limit": threads}})
        self._memory: KvStore = ts.KvStore.open({"driver": "memory"}, context=self._context).result()
        self._levels: dict[int, TensorStore] = {}

    def begin(self, level: int, row: int, col: int, planes: Planes) -> Callable[[], list[bytes]]:
        """Begins to encode a shard, clipped at its level's edge; what waits for the bytes of each of its files.

        In the order of `OutputSpec.shard_files`; no bytes where a file holds nothing but blank.
        """
        _, height, width = planes.shape
        y, x = row * self._spec.storage.shard, col * self._spec.storage.shard
        begun = self._level(level)[:, y : y + height, x : x + width].write(planes)

        def encoded() -> list[bytes]:
            begun.result()
            return [self._take(name) for name in self._spec.shard_files(level, row, col)]

        return encoded

    def _take(self, name: str) -> bytes:
        key = name.removeprefix(self._spec.inner)
        data = self._memory.read(key).result().value
        self._memory.write(key, None).result()
        return data

    def _level(self, level: int) -> TensorStore:
        if level not in self._levels:
            import tensorstore as ts

            for path, document in level_documents(self._spec, level).items():
                self._memory.write(path, document).result()
            driver = {"0.5": "zarr3", "0.4": "zarr"}[self._spec.storage.ngff]
            place = {"driver": "memory", "path": f"{level}/"}
            self._levels[level] = ts.open({"driver": driver, "kvstore": place}, context=self._context).result()
        return self._levels[level]


@dataclass
class ShardSink:
    """Has shards encoded while the one before is written; `files` and the timings fill as it goes.

    pool, threads : what the caller's own work runs on; how many encode.

    seconds_prepare is summed over threads, seconds_waited is what the caller stood still for it. At most two shards
    are held encoded. `finish` must be called at the end.
    """

    spec: OutputSpec
    pool: Executor
    threads: int
    files: list[FileDone] = field(default_factory=list)
    seconds_prepare: float = 0.0
    seconds_waited: float = 0.0
    seconds_write: float = 0.0
    _pending: deque[tuple[tuple[str, ...], Callable[[], list[bytes]]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._encoder = Encoder(self.spec, self.threads)

    def add(self, level: int, row: int, col: int, planes: Planes | None) -> None:
        """Takes a shard, clipped at the edge of its level; None is blank. `planes` must not change afterwards."""
        names = self.spec.shard_files(level, row, col)
        if planes is None:
            self._store(names, [b""] * len(names))
        else:
            self._begin(names, self._encoder.begin(level, row, col, planes))

    def add_piece(self, row: int, col: int, planes: Planes | None) -> None:
        """Takes the reduced piece of a block; None is blank."""
        name = self.spec.piece_file(row, col)
        if planes is None:
            self._store((name,), [b""])
        else:
            begun = self.pool.submit(compress_piece, planes)
            self._begin((name,), lambda: [begun.result()])

    def ahead(self, work: Callable[[T], tuple[R, float]], items: Iterable[T], depth: int) -> Iterator[R]:
        """Results of `work`, which gives (result, seconds), in the order of `items`, `depth` of them begun ahead."""
        start = perf_counter()
        for result, seconds in in_order(self.pool, work, items, depth + 1):
            self.seconds_prepare += seconds
            self.seconds_waited += perf_counter() - start
            yield result
            start = perf_counter()

    def finish(self) -> None:
        """Writes what is left."""
        while self._pending:
            names, encoded = self._pending.popleft()
            self._store(names, encoded())

    def _begin(self, names: tuple[str, ...], encoded: Callable[[], list[bytes]]) -> None:
        self._pending.append((names, encoded))
        if len(self._pending) > 1:
            names, encoded = self._pending.popleft()
            self._store(names, encoded())

    def _store(self, names: tuple[str, ...], contents: list[bytes]) -> None:
        start = perf_counter()
        for name, data in zip(names, contents, strict=True):
            if data:
                self.files.append(write_file(self.spec.folder, name, [data]))
            else:
                remove_file(self.spec.folder, name)
        self.seconds_write += perf_counter() - start
