"""Slides through OpenSlide: DICOM, MRXS, NDPI, VMS, Ventana, Philips and whatever is odd about a TIFF.

Windows are cut from chunks of whole native tiles at fixed places, so a pixel has one value whatever window asks for
it, also at levels whose downsample is not a whole number.
"""

from pathlib import Path
from threading import Lock

import numpy as np
import openslide

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, Window
from wsistain.slide.mpp import Found, choose_mpp
from wsistain.slide.pyramid import downsamples

_CHUNK_PX = 512
"""Chunks are whole native tiles up to about this edge: wide enough that OpenSlide's cost per call vanishes."""


class ViaOpenSlide(GridSlide):
    """A slide read by OpenSlide, scanned bounds applied; see `Slide` for what it does."""

    def __init__(self, path: Path, *, mpp: float | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Open `path`; `mpp` as in `open_slide`. SlideError when OpenSlide cannot read it or it has no usable mpp."""
        self._path = path
        self._handle = _open(path)
        self._repair = Lock()
        properties = self._handle.properties
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        reader = _mpp(properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y))
        from_tags = vendor == "generic-tiff"  # OpenSlide takes these from the resolution tags alone
        try:
            chosen, source = choose_mpp(str(path), mpp, None if from_tags else reader, reader if from_tags else None)
        except SlideError:
            self._handle.close()
            raise
        y, x, sizes = _bounds(self._handle)
        self._origin = (y, x)
        self._native = [_native_tile(self._handle, level) for level in range(len(sizes))]
        grids = tuple(self._grid(level, size) for level, size in enumerate(sizes))
        info = SlideInfo(
            path=str(path),
            size_l0=sizes[0],
            mpp=chosen,
            mpp_source=source,
            level_sizes=sizes,
            downsamples=downsamples(sizes) if (y, x) == (0, 0) else self._handle.level_downsamples,
            tile_px=self._native[0] or (0, 0),
            vendor=vendor,
            reader="openslide",
            fingerprint=fingerprint(path),
        )
        super().__init__(info, grids, cache_bytes)
        self._refuse_if_unreadable()

    def close(self) -> None:
        """Close the file and forget its chunks."""
        self._handle.close()
        self._cache.clear()

    def _grid(self, level: int, size: tuple[int, int]) -> Grid:
        tile_h, tile_w = self._native[level] or (_CHUNK_PX, _CHUNK_PX)
        return Grid(*size, tile_h * max(1, _CHUNK_PX // tile_h), tile_w * max(1, _CHUNK_PX // tile_w))

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        window = self._window_of(key)
        try:
            return self._read(self._handle, window)
        except openslide.OpenSlideError:
            return self._read_around(window)

    def _read(self, handle: openslide.OpenSlide, window: Window) -> RGB:
        level, y, x, height, width = window
        downsample = handle.level_downsamples[level]
        location = (self._origin[1] + round(x * downsample), self._origin[0] + round(y * downsample))
        return rgb_on_white(np.asarray(handle.read_region(location, level, (width, height))))

    def _read_around(self, window: Window) -> RGB | None:
        """A window by native tiles. After an error OpenSlide answers nothing more, so each failure costs a new handle."""
        with self._repair:
            self._handle = _open(self._path)

            def read(piece: Window) -> RGB:
                try:
                    return self._read(self._handle, piece)
                except openslide.OpenSlideError:
                    self._handle = _open(self._path)
                    raise

            return self._piecewise(window, self._native[window[0]] or window[3:], read, (openslide.OpenSlideError,))


def rgb_on_white(rgba: np.ndarray) -> RGB:
    """RGB of an RGBA picture laid on white glass: uint8 (h, w, 4) not premultiplied -> uint8 (h, w, 3)."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    part = alpha.astype(np.uint32)
    return ((rgba[..., :3] * part + 255 * (255 - part) + 127) // 255).astype(np.uint8)


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideError(
            f"{path} is not a slide that OpenSlide can read; wanted SVS, TIFF, DICOM, MRXS, NDPI ..."
        ) from None
    except openslide.OpenSlideError as error:
        if "pyramid levels" in str(error):
            raise SlideError(
                f"{path} is DICOM but no whole-slide volume image (a label, an overview or another object); "
                "name an instance of the slide itself"
            ) from None
        raise SlideError(f"{path} cannot be opened as a slide ({error}); copy or export it again") from None
    except OSError as error:
        raise SlideError(f"{path} cannot be opened as a slide ({error}); copy or export it again") from None


def _mpp(x: str | None, y: str | None) -> Found | None:
    try:
        return None if x is None or y is None else (float(y), float(x))
    except ValueError:
        return None


def _native_tile(handle: openslide.OpenSlide, level: int) -> tuple[int, int] | None:
    """(height, width) of the stored tiles of a level, or None where OpenSlide does not say."""
    height, width = (handle.properties.get(f"openslide.level[{level}].tile-{side}") for side in ("height", "width"))
    if height is None or width is None or int(height) <= 0 or int(width) <= 0:
        return None
    return int(height), int(width)


def _bounds(handle: openslide.OpenSlide) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """(y, x) of the scanned area at level 0 and its (height, width) at every level; the whole slide without bounds."""
    names = ("bounds-y", "bounds-x", "bounds-height", "bounds-width")
    values = [handle.properties.get(f"openslide.{name}") for name in names]
    full = tuple((h, w) for w, h in handle.level_dimensions)
    if any(value is None for value in values):
        return 0, 0, full
    y, x, height, width = (int(value) for value in values if value is not None)
    if height <= 0 or width <= 0:
        return 0, 0, full
    sizes = tuple((max(1, int(height / d)), max(1, int(width / d))) for d in handle.level_downsamples)
    return y, x, sizes
