"""Slides behind a URL (http, s3, gs, memory ... whatever fsspec opens), through TiffSlide."""

import hashlib
from pathlib import Path

import fsspec
import numpy as np
import tifffile
import tiffslide
from fsspec.implementations.local import LocalFileSystem

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, Window
from wsistain.slide.mpp import Found, choose_mpp
from wsistain.slide.pyramid import downsamples
from wsistain.slide.tiff_codec import DECODE_ERRORS
from wsistain.slide.tiff_structure import PARSE_ERRORS

_CHUNK_PX = 1024
_EDGE_BYTES = 2**20
_READ_ERRORS = (*DECODE_ERRORS, OSError)


class ViaTiffSlide(GridSlide):
    """A slide read by TiffSlide; see `Slide` for what it does."""

    def __init__(self, url: object, *, mpp: float | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Open a path or URL; `mpp` as in `open_slide`. SlideError when it cannot be read, is not RGB or has no mpp."""
        name = str(url)
        try:
            self._slide = tiffslide.TiffSlide(name)
        except ImportError as error:
            raise SlideError(f"{name} needs a package that is not installed ({error})") from None
        except (*PARSE_ERRORS, *DECODE_ERRORS) as error:
            raise _refused(name, error) from None
        try:
            properties, digest = dict(self._slide.properties), _fingerprint(name)
            sizes = tuple((h, w) for w, h in self._slide.level_dimensions)
            self._refuse_other_pixels(name)
            plain = properties.get("tiffslide.vendor") is None  # then it asks the resolution tags alone
            found = _mpp(properties)
            chosen, source = choose_mpp(name, mpp, None if plain else found, found if plain else None)
        except (*PARSE_ERRORS, *DECODE_ERRORS) as error:
            self._slide.close()
            raise _refused(name, error) from None
        except SlideError:
            self._slide.close()
            raise
        self._missing = [self._never_written(level) for level in range(len(sizes))]
        grids = tuple(self._grid(level, size) for level, size in enumerate(sizes))
        info = SlideInfo(
            path=name,
            size_l0=sizes[0],
            mpp=chosen,
            mpp_source=source,
            level_sizes=sizes,
            downsamples=downsamples(sizes),
            tile_px=self._native_tile(0),
            vendor=str(properties.get("tiffslide.vendor") or "generic-tiff"),
            reader="tiffslide",
            fingerprint=digest,
        )
        super().__init__(info, grids, cache_bytes)
        self._refuse_if_unreadable()

    def close(self) -> None:
        """Close the file and forget its chunks."""
        self._slide.close()
        self._cache.clear()

    def _series(self, level: int) -> tifffile.TiffPageSeries:
        tif = self._slide.ts_tifffile
        return tif.series[int(self._slide.properties.get("tiffslide.series-index") or 0)].levels[level]

    def _page(self, level: int) -> tifffile.TiffPage:
        return self._series(level).keyframe

    def _refuse_other_pixels(self, name: str) -> None:
        series = self._series(0)
        axis = max(series.axes.find("S"), series.axes.find("C"))
        n = series.shape[axis] if axis >= 0 else 1
        if n != 3 or series.dtype != np.uint8:
            channels = f"{n} channel{'s' if n > 1 else ''}"
            raise SlideError(f"{name} has {channels} of {series.dtype}, not 8-bit RGB; wsistain stains brightfield RGB")

    def _native_tile(self, level: int) -> tuple[int, int]:
        page = self._page(level)
        return (int(page.tilelength), int(page.tilewidth)) if page.is_tiled else (0, 0)

    def _never_written(self, level: int) -> np.ndarray | None:
        """bool (rows, cols) of tiles without bytes, which TiffSlide shows black; None when there are none."""
        page = self._page(level)
        counts = np.asarray(page.databytecounts)
        height, width = self._native_tile(level)
        if height == 0 or counts.all():
            return None
        rows, cols = -(-page.imagelength // height), -(-page.imagewidth // width)
        return (counts == 0).reshape(-1, rows, cols).any(axis=0)

    def _grid(self, level: int, size: tuple[int, int]) -> Grid:
        height, width = self._native_tile(level)
        if height == 0:
            return Grid(*size, _CHUNK_PX, _CHUNK_PX)
        return Grid(*size, height * max(1, _CHUNK_PX // height), width * max(1, _CHUNK_PX // width))

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        window = self._window_of(key)
        try:
            return self._read(window)
        except _READ_ERRORS:
            native = self._native_tile(key[0])
            return self._piecewise(window, native if native[0] else window[3:], self._read, _READ_ERRORS)

    def _read(self, window: Window) -> RGB:
        """A window inside a level; raises one of _READ_ERRORS."""
        level, y, x, height, width = window
        location = (self._location(x, level), self._location(y, level))
        pixels = self._slide.read_region(location, level, (width, height), as_array=True)
        tile: RGB = np.array(pixels, np.uint8, order="C")
        missing = self._missing[level]
        if missing is not None:
            th, tw = self._native_tile(level)
            for i, j in np.argwhere(missing[y // th : -(-(y + height) // th), x // tw : -(-(x + width) // tw)]):
                tile[i * th : (i + 1) * th, j * tw : (j + 1) * tw] = 255
        return tile

    def _location(self, px: int, level: int) -> int:
        """The level-0 coordinate that TiffSlide maps to `px` of the level (it divides and cuts the fraction)."""
        downsample = self._slide.level_downsamples[level]
        location = int(np.ceil(px * downsample))
        while int(location / downsample) < px:
            location += 1
        return location


def _refused(name: str, error: Exception) -> SlideError:
    reason = str(error).strip().splitlines()
    return SlideError(
        f"{name} cannot be opened as a slide by TiffSlide ({reason[0] if reason else type(error).__name__}); "
        "check the address, or that the file is a whole TIFF"
    )


def _mpp(properties: dict[str, object]) -> Found | None:
    x, y = properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")
    try:
        return None if x is None or y is None else (float(str(y)), float(str(x)))
    except ValueError:
        return None


def _fingerprint(url: str) -> str:
    """As `fingerprint`; of a remote file its size, its checksum as the server tells it, and its first and last MiB."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if isinstance(filesystem, LocalFileSystem):
        return fingerprint(Path(path))
    info = filesystem.info(path)
    size = int(info.get("size") or 0)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"size {size};{info.get('ETag') or info.get('etag') or info.get('md5Hash') or ''};".encode())
    for start, stop in ((0, min(size, _EDGE_BYTES)), (max(0, size - _EDGE_BYTES), size)):
        digest.update(filesystem.cat_file(path, start=start, end=stop))
    return digest.hexdigest()
