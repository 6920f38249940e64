"""Flat pictures (PNG, JPEG, TIFF in strips) as slides of one level; they rarely know their mpp, so it is given."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, Part, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import Grid, GridSlide, TileKey
from wsistain.slide.mpp import Found, choose_mpp, stated
from wsistain.slide.openslide_reader import rgb_on_white
from wsistain.slide.tiff_codec import DECODE_ERRORS
from wsistain.slide.tiff_codes import Codec, Extra, Photometric
from wsistain.slide.tiff_pages import no_such_series
from wsistain.slide.tiff_scale import resolution_tags
from wsistain.slide.tiff_structure import CONVERT, choose, is_tiff, opened_tiff

MAX_PX = 400_000_000
"""Largest picture that is held in memory as a whole (1.2 GB); larger ones need tiles."""

FORMATS = {"PNG": ".png", "JPEG": ".jpg"}
"""Formats read through Pillow and the usual extension of each."""


class Picture(GridSlide):
    """A picture held in memory; see `Slide` for what it does."""

    def __init__(
        self, path: Path, *, mpp: float | None = None, series: int | None = None, needs_mpp: bool = True
    ) -> None:
        """Read `path`; options as in `open_slide`. SlideError when it is damaged, not 8-bit RGB, too large, or no mpp."""
        held = _read_tiff(path, series) if is_tiff(path) else _read_picture(path, series)
        pixels, kind = held.pixels, held.kind
        best = held.stated[0][1] if held.stated else None
        scale = choose_mpp(str(path), mpp, best, held.tags, others=held.stated[1:], needed=needs_mpp)
        height, width = pixels.shape[:2]
        info = SlideInfo(
            path=str(path),
            size_l0=(height, width),
            mpp=scale.mpp,
            mpp_source=scale.source,
            level_sizes=((height, width),),
            downsamples=(1.0,),
            tile_px=(0, 0),
            vendor=kind,
            reader="picture",
            fingerprint=fingerprint(path),
            series=held.series,
            parts=held.parts,
            notes=(*held.notes, *scale.notes),
            problem=scale.problem,
        )
        super().__init__(info, (Grid(height, width, height, width),), cache_bytes=0)
        self._pixels = pixels

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        return self._pixels

    def close(self) -> None:
        """Forget the pixels."""
        self._cache.clear()


@dataclass(frozen=True)
class _Held:
    """A decoded picture, its format and what its file states of its scale: in words of its own, and in density tags."""

    pixels: RGB
    kind: str
    stated: tuple[tuple[str, Found], ...]
    tags: Found | None
    series: int = 0
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()


def _too_large(path: Path, height: int, width: int) -> SlideError:
    return SlideError(
        f"{path} is a flat picture of {width} x {height} px, over the {MAX_PX // 10**6} MP that are read whole; "
        f"convert it to a tiled TIFF, for example: {CONVERT}"
    )


_BOUND_LOCK = Lock()


@contextmanager
def own_bound() -> Iterator[None]:
    """Pillow's bound on the size of pictures lifted: ours, MAX_PX, is above it and checked before a pixel is read."""
    with _BOUND_LOCK:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _read_picture(path: Path, series: int | None) -> _Held:
    """A PNG or JPEG as it is to be seen (turned, laid on white) and the um per px of its density tag."""
    if series:
        raise no_such_series(str(path), series, 1)
    try:
        with own_bound():
            # Opened only: its size and mode are judged before anything is decoded.
            picture = Image.open(path, formats=list(FORMATS))
        with picture:
            if picture.width * picture.height > MAX_PX:
                raise _too_large(path, picture.height, picture.width)
            kind = str(picture.format)
            if picture.mode not in ("RGB", "RGBA", "P"):
                raise SlideError(
                    f"{path} is a {kind} picture in mode {picture.mode}, not 8-bit RGB; "
                    "wsistain stains brightfield RGB slides"
                )
            found = _density(picture)
            with own_bound():  # some decoders ask once more
                picture.load()
            turned = ImageOps.exif_transpose(picture)
            if turned.mode == "RGB" and "transparency" not in turned.info:
                pixels = np.asarray(turned)
            else:
                pixels = rgb_on_white(np.asarray(turned.convert("RGBA")))
    except UnidentifiedImageError:
        raise SlideError(
            f"{path} is neither a slide nor a picture that can be read; wanted SVS, TIFF, PNG or JPEG"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise SlideError(f"{path} is a damaged or truncated picture ({error}); copy or export it again") from None
    return _Held(pixels, kind.lower(), () if found is None else (("its density tag", found),), None)


def _density(picture: Image.Image) -> Found | None:
    """(y, x) um per px of the density of a PNG or JPEG; numbers of that shape, no um, where only a shape is stated."""
    dpi, shape = picture.info.get("dpi"), picture.info.get("aspect")
    if picture.info.get("jfif_unit") == 0:
        dpi, shape = None, picture.info.get("jfif_density")
    try:
        if dpi:
            return stated(25400 / float(dpi[1]), 25400 / float(dpi[0]))
        if shape and not math.isclose(shape[0], shape[1], rel_tol=0.02):
            return stated(1e6 * shape[0] / shape[1], 1e6)
    except (ZeroDivisionError, TypeError, ValueError, IndexError):
        return None
    return None


def _read_tiff(path: Path, series: int | None) -> _Held:
    """The slide of a TIFF in strips or tiles, decoded whole, and what the file states of its scale."""
    try:
        with opened_tiff(path) as tif:
            choice = choose(tif, str(path), series, alpha=True)
            page = choice.first
            if page.imagelength * page.imagewidth > MAX_PX:
                raise _too_large(path, page.imagelength, page.imagewidth)
            _refuse_stored_ycbcr(page, path)
            if any(o + n > tif.filehandle.size for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)):
                raise SlideError(
                    f"{path} is truncated: its picture lies past the end of the file; copy or export it again"
                )
            if len(choice.groups[0]) == 3:
                pixels = np.stack([plane.asarray() for plane in choice.groups[0]], axis=-1)
            else:
                pixels = page.asarray()
                if page.axes.startswith("S"):
                    pixels = pixels.transpose(1, 2, 0)
            found, tags = choice.stated, resolution_tags(page)
            orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
    except DECODE_ERRORS as error:
        raise SlideError(f"{path} is a damaged or truncated TIFF ({error}); copy or export it again") from None
    # Turned as it is to be seen; with the picture turned by a quarter its two scales change places.
    if orientation >= 5:
        pixels, tags = pixels.transpose(1, 0, 2), tags and (tags[1], tags[0])
        found = tuple((where, (x, y)) for where, (y, x) in found)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if pixels.shape[2] == 4:
        pixels = rgb_on_white(pixels, premultiplied=Extra.PREMULTIPLIED in page.extrasamples)
    else:
        pixels = np.ascontiguousarray(pixels)
    return _Held(pixels, "tiff", found, tags, choice.series, choice.parts, choice.notes)


def _refuse_stored_ycbcr(page: tifffile.TiffPage, path: Path) -> None:
    """tifffile gives YCbCr strips as they are stored, unless JPEG turns them into RGB."""
    if int(page.photometric) == Photometric.YCBCR and int(page.compression) != Codec.JPEG:
        raise SlideError(
            f"{path} stores its picture as YCbCr in strips, which cannot be read; convert it with: {CONVERT}"
        )
