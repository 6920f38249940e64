"""Slides whose levels are grids of tiles: decoded tiles are kept, shared and handed out as any window.

Neighbouring windows overlap, so a reader that remembers decoded tiles decodes each one about once. The cache is
bounded in bytes, shared by all levels and threads, and two threads never decode the same tile at the same time.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from types import TracebackType
from typing import Self

import numpy as np

from wsistain.slide.base import RGB, SlideInfo

DEFAULT_CACHE_BYTES = 128 * 2**20
"""Decoded tiles kept per slide: about 680 tiles of 256 px, more than two rows of a 60,000 px wide slide."""

TileKey = tuple[int, int, int]
"""(level, row, column) of a native tile."""

_ENTRY_BYTES = 200  # what an entry costs beside its pixels; keeps a cache of empty tiles bounded too


@dataclass(frozen=True)
class Grid:
    """How one level is cut into tiles, px of the level.

    The tile (0, 0) starts at (`origin_y`, `origin_x`), which is at or before (0, 0): a turned picture has its
    incomplete tiles at the top or left.
    """

    height: int
    width: int
    tile_h: int
    tile_w: int
    origin_y: int = 0
    origin_x: int = 0


class _Decoding:
    """A tile that one thread is decoding and others may wait for."""

    __slots__ = ("done", "failed", "tile")

    def __init__(self) -> None:
        self.done = Event()
        self.tile: RGB | None = None
        self.failed = False


class TileCache:
    """Least recently used tiles, bounded in bytes; safe for threads; each miss is decoded by one thread only."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[TileKey, RGB | None] = OrderedDict()
        self._decoding: dict[TileKey, _Decoding] = {}
        self._lock = Lock()
        self.decoded = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now (pixels and bookkeeping)."""
        return self._bytes

    def get(self, key: TileKey, decode: Callable[[TileKey], RGB | None]) -> RGB | None:
        """The tile of `key`, decoded now unless it is held or another thread is at it; None: nothing there."""
        while True:
            found, tile, work = self.claim(key)
            if found:
                return tile
            if work is None:
                return self.fill(key, decode)
            work.done.wait()
            if not work.failed:
                return work.tile

    def claim(self, key: TileKey) -> tuple[bool, RGB | None, _Decoding | None]:
        """(True, tile, None) when held; (False, None, work) when another thread is decoding it; otherwise
        (False, None, None), and the caller must call `fill`."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return True, self._tiles[key], None
            work = self._decoding.get(key)
            if work is None:
                self._decoding[key] = _Decoding()
            return False, None, work

    def fill(self, key: TileKey, decode: Callable[[TileKey], RGB | None]) -> RGB | None:
        """Decode a tile that this thread has claimed, keep it, and wake those who wait for it."""
        work = self._decoding[key]
        try:
            tile = decode(key)
            if tile is not None:
                tile.flags.writeable = False
            work.tile = tile
        except BaseException:
            work.failed = True
            with self._lock:
                del self._decoding[key]
            work.done.set()
            raise
        with self._lock:
            self.decoded += tile is not None
            self._tiles[key] = tile
            self._bytes += _ENTRY_BYTES + (tile.nbytes if tile is not None else 0)
            while self._bytes > self._max_bytes and len(self._tiles) > 1:
                _, old = self._tiles.popitem(last=False)
                self._bytes -= _ENTRY_BYTES + (old.nbytes if old is not None else 0)
            del self._decoding[key]
        work.done.set()
        return tile

    def clear(self) -> None:
        """Forget every tile."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


class GridSlide(ABC):
    """A slide made of tile grids; children say how one tile is decoded."""

    info: SlideInfo

    def __init__(self, info: SlideInfo, grids: tuple[Grid, ...], cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.info = info
        self._grids = grids
        self._cache = TileCache(cache_bytes)
        self._unreadable: set[tuple[int, ...]] = set()
        self._unreadable_lock = Lock()

    @abstractmethod
    def _decode(self, key: TileKey) -> RGB | None:
        """The pixels of a tile; None where nothing is stored or nothing can be decoded (which it counts)."""

    @abstractmethod
    def close(self) -> None:
        """Give back the file. Reading afterwards is an error."""

    @property
    def decoded_tiles(self) -> int:
        """How often a tile was decoded so far; each tile about once while the cache is large enough."""
        return self._cache.decoded

    @property
    def unreadable_tiles(self) -> int:
        """How many distinct tiles could not be decoded so far; they are 255 in every window."""
        return len(self._unreadable)

    @property
    def unreadable_keys(self) -> frozenset[tuple[int, ...]]:
        """The native tiles (or reads) behind `unreadable_tiles`, so that several processes can be added up."""
        with self._unreadable_lock:
            return frozenset(self._unreadable)

    def _count_unreadable(self, *key: int) -> None:
        with self._unreadable_lock:
            self._unreadable.add(key)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> RGB:
        """Pixels of a window in the frame of `level`: uint8 (height, width, 3), C-contiguous, the caller's own.

        The window may reach outside the slide: 255 there, as where nothing was scanned or nothing can be decoded.
        ValueError for a level that does not exist or a negative size.
        """
        if not 0 <= level < len(self._grids) or height < 0 or width < 0:
            raise ValueError(f"no window of {height} x {width} px at level {level}; levels 0..{len(self._grids) - 1}")
        grid = self._grids[level]
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, grid.height), min(x + width, grid.width)
        inside = top == y and left == x and bottom == y + height and right == x + width
        out: RGB = np.empty((height, width, 3), np.uint8)
        if not inside:
            out.fill(255)
        if bottom <= top or right <= left:
            return out
        waiting = []
        rows = range((top - grid.origin_y) // grid.tile_h, (bottom - 1 - grid.origin_y) // grid.tile_h + 1)
        cols = range((left - grid.origin_x) // grid.tile_w, (right - 1 - grid.origin_x) // grid.tile_w + 1)
        for row in rows:
            tile_y = grid.origin_y + row * grid.tile_h
            y0, y1 = max(tile_y, top), min(tile_y + grid.tile_h, bottom)
            for col in cols:
                tile_x = grid.origin_x + col * grid.tile_w
                x0, x1 = max(tile_x, left), min(tile_x + grid.tile_w, right)
                target = out[y0 - y : y1 - y, x0 - x : x1 - x]
                part = (slice(y0 - tile_y, y1 - tile_y), slice(x0 - tile_x, x1 - tile_x))
                key = (level, row, col)
                found, tile, work = self._cache.claim(key)
                if not found and work is not None:
                    waiting.append((key, target, part))  # another thread is at it: do ours first
                    continue
                if not found:
                    tile = self._cache.fill(key, self._decode)
                _paste(target, tile, part)
        for key, target, part in waiting:
            _paste(target, self._cache.get(key, self._decode), part)
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _paste(target: RGB, tile: RGB | None, part: tuple[slice, slice]) -> None:
    if tile is None:
        target.fill(255)
    else:
        target[...] = tile[part]
