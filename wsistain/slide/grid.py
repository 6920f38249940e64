"""Slides whose levels are grids of tiles: decoded tiles are kept, shared and handed out as any window.

Neighbouring windows overlap, so a reader that remembers decoded tiles decodes each one about once. The cache is
bounded in bytes, shared by all levels and threads, and two threads never decode the same tile at the same time.
Tiles are decoded into memory that earlier tiles have left: fresh memory costs nearly as much as decoding, because the
system clears every page of it.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Event, Lock
from types import TracebackType
from typing import Self

import numpy as np

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.proof import show_the_same

DEFAULT_CACHE_BYTES = 32 * 2**20
"""Decoded tiles kept per slide: about 680 tiles of 256 px, more than two rows of a 60,000 px wide slide."""

TileKey = tuple[int, int, int]
"""(level, row, column) of a native tile."""

Window = tuple[int, int, int, int, int]
"""(level, y, x, height, width) in px of the level."""

Decode = Callable[[TileKey, RGB | None], RGB | None]
"""(tile, memory for it or None) -> its pixels, in that memory or elsewhere; None where there is nothing."""

_ENTRY_BYTES = 200  # what an entry costs beside its pixels; keeps a cache of empty tiles bounded too
_SLAB_BYTES = 16 * 2**20  # memory is asked for in pieces that the system can give as huge pages


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


class _Entry:
    """A tile that is held, or that one thread is decoding while others wait."""

    __slots__ = ("done", "failed", "kept", "n_readers", "slot", "tile")

    def __init__(self) -> None:
        self.tile: RGB | None = None
        self.slot: RGB | None = None
        self.done: Event | None = Event()  # None once decoded
        self.failed = False
        self.kept = True
        self.n_readers = 1


class TileCache:
    """Least recently used tiles, bounded in bytes; safe for threads; each miss is decoded by one thread only.

    slot_shape : (height, width) of the tiles whose memory is used again; tiles of other sizes get fresh memory.
    """

    def __init__(self, max_bytes: int, slot_shape: tuple[int, int] | None = None) -> None:
        self._max_bytes = max_bytes
        self._slot_shape = slot_shape
        self._bytes = 0
        self._entries: OrderedDict[TileKey, _Entry] = OrderedDict()
        self._free: list[RGB] = []
        self._lock = Lock()
        self.decoded = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the tiles held now, with what keeping them costs."""
        return self._bytes

    def claim(self, key: TileKey) -> tuple[_Entry, bool]:
        """The entry of a tile, and whether the caller is the one who must `fill` it; `release` it in the end."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
                return entry, True
            entry.n_readers += 1
            self._entries.move_to_end(key)
            return entry, False

    def fill(self, key: TileKey, entry: _Entry, decode: Decode) -> None:
        """Decode a tile that this thread has claimed, keep it, and wake those who wait for it."""
        # Decoded outside the lock: others read and decode other tiles meanwhile.
        slot = self._take_slot()
        finished = False
        try:
            entry.tile = decode(key, slot)
            finished = True
        finally:
            with self._lock:
                # The slot goes with the tile that lies in it; unused (another size, an error) it goes back.
                if slot is not None and entry.tile is slot:
                    entry.slot = slot
                elif slot is not None:
                    self._free.append(slot)
                # `failed` is set before the waiting threads wake: one of them then decodes the tile itself.
                done, entry.done, entry.failed = entry.done, None, not finished
                if finished:
                    self.decoded += entry.tile is not None
                    self._bytes += _size(entry) if entry.kept else 0
                    self._shrink()
                # Nothing failed stays in the cache.
                elif entry.kept:
                    self._drop(key, entry)
            if done is not None:
                done.set()

    def release(self, entries: Sequence[_Entry]) -> None:
        """Say that the tiles of these entries have been read."""
        with self._lock:
            for entry in entries:
                entry.n_readers -= 1
                self._recycle(entry)

    def clear(self) -> None:
        """Forget every tile and give its memory back."""
        with self._lock:
            for item in list(self._entries.items()):
                self._drop(*item)
            self._free.clear()
            self._bytes = 0

    def _take_slot(self) -> RGB | None:
        """Memory for a tile: what another has left, or a part of a new slab."""
        if self._slot_shape is None:
            return None
        with self._lock:
            if not self._free:
                size = self._slot_shape[0] * self._slot_shape[1] * 3
                n = max(1, min(_SLAB_BYTES, self._max_bytes) // size)
                self._free.extend(np.empty((n, *self._slot_shape, 3), np.uint8))
            return self._free.pop()

    def _shrink(self) -> None:
        """Drop the tiles longest unread until the rest fits; those being decoded stay, they are not counted yet."""
        while self._bytes > self._max_bytes:
            oldest = next((item for item in self._entries.items() if item[1].done is None), None)
            if oldest is None:
                return
            self._bytes -= _size(oldest[1])
            self._drop(*oldest)

    def _drop(self, key: TileKey, entry: _Entry) -> None:
        entry.kept = False
        del self._entries[key]
        self._recycle(entry)

    def _recycle(self, entry: _Entry) -> None:
        """Take back the memory of a dropped tile that nobody reads any more."""
        if not entry.kept and entry.n_readers <= 0 and entry.slot is not None:
            self._free.append(entry.slot)
            entry.slot = entry.tile = None


def _size(entry: _Entry) -> int:
    return _ENTRY_BYTES + (entry.tile.nbytes if entry.tile is not None else 0)


class GridSlide(ABC):
    """A slide made of tile grids; children say how one tile is decoded."""

    info: SlideInfo

    def __init__(
        self,
        info: SlideInfo,
        grids: tuple[Grid, ...],
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        *,
        reuse_memory: bool = False,
    ) -> None:
        """`reuse_memory`: children decode into the memory they are given, tiles of the size of level 0's."""
        self.info = info
        self._grids = grids
        self._cache_options = (cache_bytes, (grids[0].tile_h, grids[0].tile_w) if reuse_memory else None)
        self._cache = TileCache(*self._cache_options)
        self._unreadable: set[tuple[int, ...]] = set()
        self._unreadable_lock = Lock()

    @abstractmethod
    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        """The pixels of a tile, in `out` where it is given and fits, else in memory of their own; None where nothing
        is stored or nothing can be decoded (which it counts)."""

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

    def _window_of(self, key: TileKey) -> Window:
        """(level, y, x, height, width) of a tile, cut to the slide."""
        level, row, col = key
        grid = self._grids[level]
        y, x = grid.origin_y + row * grid.tile_h, grid.origin_x + col * grid.tile_w
        return level, y, x, min(grid.tile_h, grid.height - y), min(grid.tile_w, grid.width - x)

    def _piecewise(
        self, window: Window, piece: tuple[int, int], read: Callable[[Window], RGB], errors: tuple[type[Exception], ...]
    ) -> RGB | None:
        """A window that cannot be read at once, by pieces of (height, width); those that fail are 255 and counted.

        None when every piece fails. `errors` are what `read` raises on damage.
        """
        level, y, x, height, width = window
        pixels: RGB = np.full((height, width, 3), 255, np.uint8)
        n_read = 0
        for top in range(0, height, piece[0]):
            for left in range(0, width, piece[1]):
                h, w = min(piece[0], height - top), min(piece[1], width - left)
                try:
                    pixels[top : top + h, left : left + w] = read((level, y + top, x + left, h, w))
                    n_read += 1
                except errors:
                    self._count_unreadable(level, y + top, x + left)
        return pixels if n_read else None

    def _proved_levels(self) -> list[int]:
        """Level 0 and those that show the same picture, each proved on the next finer one; the cache is empty after it.

        A level on which nothing can be read is kept: its tiles count as unreadable where they are needed.
        """
        kept = [0]
        for level in range(1, len(self._grids)):
            fine = kept[-1]
            same = show_the_same(
                partial(self.read_level, fine),
                (self._grids[fine].height, self._grids[fine].width),
                partial(self.read_level, level),
                (self._grids[level].height, self._grids[level].width),
            )
            if same or self._unreadable:
                kept.append(level)
            # What the proof could not read is no fact about a run's windows yet.
            self._unreadable.clear()
        # Levels are about to be numbered anew, and the tiles held are under their old numbers.
        self._cache = TileCache(*self._cache_options)
        return kept

    def _refuse_if_unreadable(self) -> None:
        """SlideError when none of a few tiles spread over level 0 can be decoded."""
        grid = self._grids[0]
        rows = -(-(grid.height - grid.origin_y) // grid.tile_h)
        cols = -(-(grid.width - grid.origin_x) // grid.tile_w)
        # The middle first: one tile that can be decoded ends the search.
        for part in (0.5, 0.0, 1.0, 0.25, 0.75):
            key = (0, round(part * (rows - 1)), round(part * (cols - 1)))
            if self._decode(key, None) is not None or not self._unreadable:
                self._unreadable.clear()
                return
        self.close()
        raise SlideError(f"{self.info.path} cannot be decoded: every tile tried failed; copy or export it again")

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> RGB:
        """Pixels of a window in the frame of `level`: uint8 (height, width, 3), C-contiguous, the caller's own.

        The window may reach outside the slide: 255 there, as where nothing was scanned or nothing can be decoded.
        ValueError for a level that does not exist or a negative size.
        """
        if not 0 <= level < len(self._grids) or height < 0 or width < 0:
            raise ValueError(f"no window of {height} x {width} px at level {level}; levels 0..{len(self._grids) - 1}")
        # The part of the window that lies on the slide; 255 beyond.
        grid = self._grids[level]
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, grid.height), min(x + width, grid.width)
        out: RGB = np.empty((height, width, 3), np.uint8)
        if (top, left, bottom, right) != (y, x, y + height, x + width):
            out.fill(255)
        if bottom <= top or right <= left:
            return out

        # The tiles under it: those that no thread has begun are decoded here, those under way are waited for last.
        rows = range((top - grid.origin_y) // grid.tile_h, (bottom - 1 - grid.origin_y) // grid.tile_h + 1)
        cols = range((left - grid.origin_x) // grid.tile_w, (right - 1 - grid.origin_x) // grid.tile_w + 1)
        entries: list[_Entry] = []
        later: list[tuple[TileKey, _Entry]] = []
        try:
            for row in rows:
                for col in cols:
                    key = (level, row, col)
                    entry, is_mine = self._cache.claim(key)
                    entries.append(entry)
                    if is_mine:
                        self._cache.fill(key, entry, self._decode)
                    elif entry.done is not None:  # another thread is at it: do ours first
                        later.append((key, entry))
                        continue
                    _paste(out, (y, x), grid, key, entry.tile)
            for key, entry in later:
                _paste(out, (y, x), grid, key, self._finished(key, entry, entries).tile)
        finally:
            self._cache.release(entries)
        return out

    def _finished(self, key: TileKey, entry: _Entry, entries: list[_Entry]) -> _Entry:
        """The entry once it is decoded; decoded here when the thread that was at it has failed."""
        while True:
            done = entry.done
            if done is not None:
                done.wait()
            if not entry.failed:
                return entry
            entry, is_mine = self._cache.claim(key)
            entries.append(entry)
            if is_mine:
                self._cache.fill(key, entry, self._decode)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def without_levels(info: SlideInfo, kept: Sequence[int]) -> SlideInfo:
    """The facts about a slide of which only the levels `kept` show the same picture."""
    if len(kept) == len(info.level_sizes):
        return info
    gone = {size for level, size in enumerate(info.level_sizes) if level not in kept}
    parts = tuple(
        replace(part, used=False, what=f"called {part.what}, but shows another picture")
        if part.used and part.size in gone and not part.what.startswith("level 0")
        else part
        for part in info.parts
    )
    return replace(
        info,
        level_sizes=tuple(info.level_sizes[k] for k in kept),
        downsamples=tuple(info.downsamples[k] for k in kept),
        parts=parts,
    )


def _paste(out: RGB, corner: tuple[int, int], grid: Grid, key: TileKey, tile: RGB | None) -> None:
    """Copy what a tile shares with the window `out`, whose first pixel is (y, x) of the level."""
    y, x = grid.origin_y + key[1] * grid.tile_h - corner[0], grid.origin_x + key[2] * grid.tile_w - corner[1]
    y0, x0 = max(y, -corner[0], 0), max(x, -corner[1], 0)
    y1 = min(y + grid.tile_h, grid.height - corner[0], out.shape[0])
    x1 = min(x + grid.tile_w, grid.width - corner[1], out.shape[1])
    if tile is None:
        out[y0:y1, x0:x1] = 255
    else:
        out[y0:y1, x0:x1] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
