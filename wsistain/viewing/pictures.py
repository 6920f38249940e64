"""Pictures that can be cut into tiles: a slide or finished stain, a stain in the making, and maps laid over them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsistain.output.pyramid import half
from wsistain.output.unfinished import Begun, read_begun_window
from wsistain.slide.base import RGB, Slide, SlideInfo
from wsistain.slide.resample import Sampling, read_window
from wsistain.viewing.frame import TILE_PX, Frame

Pixels = NDArray[np.uint8]
"""uint8 (h, w, 3), or (h, w, 4) with opacity."""

MOST_SHRUNK = 8.0
"""A tile shrunk more than this from what is stored is made from four tiles instead, each kept for its neighbours."""

KEPT_TILES = 160
"""Of 512 px: 126 MB at most, for pictures without a pyramid."""


class Picture(Protocol):
    """Something that is shown.

    form : "jpg" or "png", as its tiles are sent.
    """

    frame: Frame
    form: str

    def version(self, k: int, row: int, col: int) -> str:
        """Changes when the tile's pixels do."""
        ...

    def tile(self, k: int, row: int, col: int) -> Pixels:
        """The pixels of a tile that `frame.window` has. SlideError or OutputError where they cannot be read."""
        ...


class Windowed(Picture, Protocol):
    """A picture of which any window can be read at any halving, uint8 (h, w, 3); 255 outside it."""

    def read(self, k: int, y: int, x: int, height: int, width: int) -> RGB: ...


def exact_sampling(info: SlideInfo, frame: Frame, k: int) -> Sampling:
    """How the level after `k` halvings comes from the slide's own levels.

    A level is copied where its scale is so near that no pixel of it lies half a pixel off; else the coarsest finer one
    is shrunk by exact areas, so that tiles of every halving lie over each other.
    """
    wanted = float(1 << k)
    drift = [abs(d / wanted - 1) * max(size) for d, size in zip(info.downsamples, info.level_sizes, strict=True)]
    nearest = min(range(len(drift)), key=drift.__getitem__)
    shape = frame.size(k)
    if drift[nearest] < 0.5:
        return Sampling(nearest, 1.0, frame.mpp * wanted, shape)
    level = max((i for i, d in enumerate(info.downsamples) if d <= wanted), key=info.downsamples.__getitem__)
    return Sampling(level, wanted / info.downsamples[level], frame.mpp * wanted, shape)


class SlidePicture:
    """A slide, or a finished stain, through our readers; (y_um, x_um) is where it lies."""

    form = "jpg"

    def __init__(self, slide: Slide, y_um: float = 0.0, x_um: float = 0.0) -> None:
        self.slide = slide
        info = slide.info
        self.frame = Frame(*info.size_l0, info.mpp, y_um, x_um)
        self._version = info.fingerprint[:16]
        self._kept: OrderedDict[tuple[str, int, int, int], RGB] = OrderedDict()
        self._lock = threading.Lock()

    def version(self, k: int, row: int, col: int) -> str:
        return self._version

    def read(self, k: int, y: int, x: int, height: int, width: int) -> RGB:
        """A window after `k` halvings; 255 outside."""
        return read_window(self.slide, exact_sampling(self.slide.info, self.frame, k), y, x, height, width)

    def tile(self, k: int, row: int, col: int) -> RGB:
        window = _window(self.frame, k, row, col)
        if exact_sampling(self.slide.info, self.frame, k).scale <= MOST_SHRUNK:
            return self.read(k, *window)
        key = (self.version(k, row, col), k, row, col)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pixels = half(_four(self, k, row, col))
        with self._lock:
            self._kept[key] = pixels
            while len(self._kept) > KEPT_TILES:
                self._kept.popitem(last=False)
        return pixels


def _window(frame: Frame, k: int, row: int, col: int) -> tuple[int, int, int, int]:
    window = frame.window(k, row, col)
    if window is None:
        raise ValueError(f"there is no tile ({row}, {col}) after {k} halvings")
    return window


def _four(picture: SlidePicture, k: int, row: int, col: int) -> RGB:
    """The four tiles, or those of them that there are, which halved are one tile."""
    rows, cols = picture.frame.grid(k - 1)
    lines = [
        np.concatenate([picture.tile(k - 1, r, c) for c in range(2 * col, min(2 * col + 2, cols))], axis=1)
        for r in range(2 * row, min(2 * row + 2, rows))
    ]
    return np.concatenate(lines, axis=0)


@dataclass
class _BegunSlide:
    """An unfinished stain read like a slide: the levels that its blocks have left so far."""

    info: SlideInfo
    begun: Begun

    unreadable_tiles = 0
    unreadable_keys: frozenset[tuple[int, ...]] = frozenset()

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> RGB:
        out: RGB = np.full((height, width, 3), 255, np.uint8)
        h, w = self.info.level_sizes[level]
        top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, h), min(x + width, w)
        if bottom > top and right > left:
            found = read_begun_window(self.begun, level, top, left, bottom - top, right - left)
            out[top - y : bottom - y, left - x : right - x] = found
        return out

    def close(self) -> None:
        """Nothing is held open."""


class BegunPicture(SlidePicture):
    """A stain in the making: what its finished blocks show. `refresh` tells it of new ones."""

    def __init__(self, begun: Begun) -> None:
        spec = begun.spec
        count = spec.block_levels + (1 if spec.has_pieces else 0)
        info = SlideInfo(
            path=spec.path,
            size_l0=spec.levels[0],
            mpp=spec.mpp,
            mpp_source="reader",
            level_sizes=spec.levels[:count],
            downsamples=tuple(float(1 << level) for level in range(count)),
            tile_px=(spec.stored_chunk, spec.stored_chunk),
            vendor="ome-zarr",
            reader="zarr",
            fingerprint="begun",
        )
        super().__init__(_BegunSlide(info, begun), *spec.origin_um)
        self.begun = begun
        self.done: frozenset[tuple[int, int]] = frozenset()
        self.refresh()

    def refresh(self) -> None:
        """Look which blocks are done."""
        self.done = self.begun.blocks_done()

    def version(self, k: int, row: int, col: int) -> str:
        """Counts the finished blocks under the tile, so that a tile stays the same while others are written."""
        block = self.begun.spec.block / (1 << k)
        y0, x0 = row * TILE_PX / block, col * TILE_PX / block
        y1, x1 = (row + 1) * TILE_PX / block, (col + 1) * TILE_PX / block
        under = sum(y0 < r + 1 and r < y1 and x0 < c + 1 and c < x1 for r, c in self.done)
        return f"begun-{under}"


class MapPicture:
    """A map held in memory, uint8 (h, w, 4) with opacity, nearest pixel when shrunk; it lies as its frame says."""

    form = "png"

    def __init__(self, pixels: Pixels, frame: Frame, version: str) -> None:
        if pixels.shape != (frame.height, frame.width, 4):
            raise ValueError(f"a map of shape {pixels.shape} in a frame of {(frame.height, frame.width)}")
        self.frame, self.pixels, self._version = frame, pixels, version

    def version(self, k: int, row: int, col: int) -> str:
        return self._version

    def tile(self, k: int, row: int, col: int) -> Pixels:
        y, x, height, width = _window(self.frame, k, row, col)
        step = 1 << k
        rows = np.minimum((np.arange(y, y + height) * step) + step // 2, self.frame.height - 1)
        cols = np.minimum((np.arange(x, x + width) * step) + step // 2, self.frame.width - 1)
        return np.ascontiguousarray(self.pixels[np.ix_(rows, cols)])


def thumbnail(picture: Picture, longest_px: int) -> Pixels:
    """The whole picture, its longest side between half of `longest_px` (at most 512) and `longest_px`."""
    k = next(k for k in range(picture.frame.halvings + 1) if max(picture.frame.size(k)) <= min(longest_px, TILE_PX))
    return picture.tile(k, 0, 0)
