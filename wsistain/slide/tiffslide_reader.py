"""Slides behind a URL (http, s3, gs, memory ... whatever fsspec opens), through TiffSlide."""

import hashlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fsspec
import numpy as np
import tifffile
import tiffslide
from fsspec.implementations.local import LocalFileSystem

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, Window, without_levels
from wsistain.slide.mpp import choose_mpp
from wsistain.slide.power import one_power
from wsistain.slide.pyramid import downsamples
from wsistain.slide.tiff_codec import DECODE_ERRORS
from wsistain.slide.tiff_codes import Codec, Photometric
from wsistain.slide.tiff_pages import Choice
from wsistain.slide.tiff_scale import resolution_tags
from wsistain.slide.tiff_structure import PARSE_ERRORS, choose

_CHUNK_PX = 1024
_EDGE_BYTES = 2**20
_READ_ERRORS = (*DECODE_ERRORS, OSError)


class ViaTiffSlide(GridSlide):
    """A slide read by TiffSlide; see `Slide` for what it does."""

    def __init__(
        self,
        url: object,
        *,
        mpp: float | None = None,
        series: int | None = None,
        needs_mpp: bool = True,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Open a path or URL; options as in `open_slide`. SlideError when it cannot be read, is not RGB or has no mpp."""
        # The file, which of its pictures, and the scale; it is closed again when one of them is refused.
        name = str(url)
        self._slide = _opened(name)
        try:
            properties, digest = dict(self._slide.properties), _fingerprint(name)
            choice = choose(self._slide.ts_tifffile, name, series)
            self._numbers = self._levels_of(choice, name)
            sizes = tuple((h, w) for w, h in (self._slide.level_dimensions[k] for k in self._numbers))
            stated = choice.stated
            tags = resolution_tags(choice.first)
            best = stated[0][1] if stated else None
            scale = choose_mpp(name, mpp, best, tags, others=stated[1:], needed=needs_mpp)
        except (*PARSE_ERRORS, *DECODE_ERRORS, ElementTree.ParseError) as error:
            self._slide.close()
            raise _refused(name, error) from None
        except SlideError:
            self._slide.close()
            raise

        # Its levels, and what is known of the slide.
        self._missing = [self._never_written(level) for level in range(len(sizes))]
        grids = tuple(self._grid(level, size) for level, size in enumerate(sizes))
        info = SlideInfo(
            path=name,
            size_l0=sizes[0],
            mpp=scale.mpp,
            mpp_source=scale.source,
            level_sizes=sizes,
            downsamples=downsamples(sizes),
            tile_px=self._native_tile(0),
            vendor=str(properties.get("tiffslide.vendor") or "generic-tiff"),
            reader="tiffslide",
            fingerprint=digest,
            series=choice.series,
            parts=choice.parts,
            notes=(*choice.notes, *scale.notes),
            problem=scale.problem,
            power=one_power(properties.get("tiffslide.objective-power")),
        )

        # Tiles that cannot be read, and levels that show something else, are found now and not in the middle of a run.
        super().__init__(info, grids, cache_bytes)
        self._refuse_if_unreadable()
        self._keep_proved_levels()

    def close(self) -> None:
        """Close the file and forget its chunks."""
        self._slide.close()
        self._cache.clear()

    def _levels_of(self, choice: Choice, name: str) -> list[int]:
        """TiffSlide's numbers of the levels of the slide, which has to be the picture that TiffSlide takes."""
        page = choice.first
        is_raw = int(page.photometric) == Photometric.YCBCR and int(page.compression) != Codec.JPEG
        if is_raw or int(page.compression) == Codec.JP2K_YCBCR:
            raise SlideError(
                f"{name} stores its tiles as YCbCr, which TiffSlide does not turn into RGB; copy it here first"
            )
        offsets = {group[0].offset: rank for rank, group in enumerate(choice.groups) if len(group) == 1}
        found = {
            offsets[level.keyframe.offset]: k
            for k, level in enumerate(self._all_levels())
            if level.keyframe.offset in offsets and len(level.pages) == 1
        }
        if 0 not in found:
            raise SlideError(
                f"{name} holds a slide that TiffSlide does not see: it takes another page or another layout of it; "
                "copy the file here and run it without a URL"
            )
        return [found[rank] for rank in sorted(found)]

    def _all_levels(self) -> list[tifffile.TiffPageSeries]:
        tif = self._slide.ts_tifffile
        return list(tif.series[int(self._slide.properties.get("tiffslide.series-index") or 0)].levels)

    def _keep_proved_levels(self) -> None:
        kept = self._proved_levels()
        self._numbers = [self._numbers[k] for k in kept]
        self._grids = tuple(self._grids[k] for k in kept)
        self._missing = [self._missing[k] for k in kept]
        self.info = without_levels(self.info, kept)

    def _page(self, level: int) -> tifffile.TiffPage:
        return self._all_levels()[self._numbers[level]].keyframe

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
        except _READ_ERRORS as error:
            if _is_timeout(error):  # the next tile would wait as long
                raise _refused(self.info.path, error) from None
            native = self._native_tile(key[0])
            return self._piecewise(window, native if native[0] else window[3:], self._read, _READ_ERRORS)

    def _read(self, window: Window) -> RGB:
        """A window inside a level; raises one of _READ_ERRORS."""
        level, y, x, height, width = window
        number = self._numbers[level]
        location = (self._location(x, number), self._location(y, number))
        pixels = self._slide.read_region(location, number, (width, height), as_array=True)
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


_SECONDS = 30
"""How long a server may be silent before the slide is given up."""

_EXTRA = "install what it needs with: pip install 'wsistain[remote]'"


def _opened(name: str) -> tiffslide.TiffSlide:
    try:
        return tiffslide.TiffSlide(name, storage_options=storage_options(name))
    except ImportError as error:
        raise SlideError(f"{name} needs a package that is not installed ({error}); {_EXTRA}") from None
    except Exception as error:  # noqa: BLE001 - a store's library has errors of its own (credentials, regions, proxies)
        raise _refused(name, error) from None


def _is_timeout(error: BaseException | None) -> bool:
    """Whether a silent server is behind an error; fsspec calls some of these a missing file."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def storage_options(name: str) -> dict[str, Any]:
    """Time limits for the protocols whose clients know such; a stalled server must not hold a run for ever."""
    protocol = name.partition("://")[0].lower()
    if protocol in ("http", "https", "gs", "gcs"):
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS)
        return {"client_kwargs": {"timeout": limit}} if protocol.startswith("http") else {"requests_timeout": limit}
    if protocol in ("s3", "s3a"):
        return {
            "config_kwargs": {"connect_timeout": _SECONDS, "read_timeout": _SECONDS, "retries": {"max_attempts": 2}}
        }
    return {}


def silent_server(name: str, error: Exception) -> SlideError | None:
    """What to say of `error` where a server was silent too long; None where something else is behind it."""
    if _is_timeout(error):
        return SlideError(f"{name} does not answer: the server was silent for {_SECONDS} s; try again later")
    return None


def _refused(name: str, error: Exception) -> SlideError:
    silent = silent_server(name, error)
    if silent is not None:
        return silent
    reason = str(error).strip().splitlines()
    return SlideError(
        f"{name} cannot be opened as a slide by TiffSlide ({reason[0] if reason else type(error).__name__}); "
        "check the address, or that the file is a whole TIFF"
    )


def _fingerprint(url: str) -> str:
    """As `fingerprint`; of a remote file its size, its checksum as the server tells it, and its first and last MiB."""
    filesystem, path = fsspec.core.url_to_fs(url, **storage_options(url))
    if isinstance(filesystem, LocalFileSystem):
        return fingerprint(Path(path))
    info = filesystem.info(path)
    size = int(info.get("size") or 0)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"size {size};{info.get('ETag') or info.get('etag') or info.get('md5Hash') or ''};".encode())
    for start, stop in ((0, min(size, _EDGE_BYTES)), (max(0, size - _EDGE_BYTES), size)):
        digest.update(filesystem.cat_file(path, start=start, end=stop))
    return digest.hexdigest()
