"""Flat pictures (PNG, JPEG, TIFF in strips) as slides of one level; they rarely know their mpp, so it is given."""

import warnings
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import Grid, GridSlide, TileKey
from wsistain.slide.mpp import Found, choose_mpp
from wsistain.slide.openslide_reader import rgb_on_white
from wsistain.slide.tiff_codec import DECODE_ERRORS
from wsistain.slide.tiff_structure import PARSE_ERRORS, RGB_PHOTOMETRIC, YCBCR_PHOTOMETRIC, is_tiff, resolution_tags

MAX_PX = 400_000_000
"""Largest picture that is held in memory as a whole (1.2 GB); larger ones need tiles."""

FORMATS = {"PNG": ".png", "JPEG": ".jpg"}
"""Formats read through Pillow and the usual extension of each."""


class Picture(GridSlide):
    """A picture held in memory; see `Slide` for what it does."""

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        """Read `path`; `mpp` as in `open_slide`. SlideError when it is damaged, not 8-bit RGB, too large, or no mpp."""
        pixels, kind, found = _read_tiff(path) if is_tiff(path) else _read_picture(path)
        reader, tags = (None, found) if kind == "tiff" else (found, None)
        chosen, source = choose_mpp(str(path), mpp, reader, tags)
        height, width = pixels.shape[:2]
        info = SlideInfo(
            path=str(path),
            size_l0=(height, width),
            mpp=chosen,
            mpp_source=source,
            level_sizes=((height, width),),
            downsamples=(1.0,),
            tile_px=(0, 0),
            vendor=kind,
            reader="picture",
            fingerprint=fingerprint(path),
        )
        super().__init__(info, (Grid(height, width, height, width),), cache_bytes=0)
        self._pixels = pixels

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        return self._pixels

    def close(self) -> None:
        """Forget the pixels."""
        self._cache.clear()


def _too_large(path: Path, height: int, width: int) -> SlideError:
    return SlideError(
        f"{path} is a flat picture of {width} x {height} px, over the {MAX_PX // 10**6} MP that are read whole; "
        "convert it to a tiled TIFF, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
    )


def _read_picture(path: Path) -> tuple[RGB, str, Found | None]:
    """Pixels, format and the (y, x) um per px of its density tag of a PNG or JPEG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is MAX_PX
            picture = Image.open(path, formats=list(FORMATS))
        with picture:
            if picture.width * picture.height > MAX_PX:
                raise _too_large(path, picture.height, picture.width)
            kind, dpi = str(picture.format), picture.info.get("dpi")
            if picture.mode not in ("RGB", "RGBA", "P"):
                raise SlideError(
                    f"{path} is a {kind} picture in mode {picture.mode}, not 8-bit RGB; "
                    "wsistain stains brightfield RGB slides"
                )
            turned = ImageOps.exif_transpose(picture)
            pixels = rgb_on_white(np.asarray(turned.convert("RGBA")))
    except UnidentifiedImageError:
        raise SlideError(
            f"{path} is neither a slide nor a picture that can be read; wanted SVS, TIFF, PNG or JPEG"
        ) from None
    except Image.DecompressionBombError as error:
        raise SlideError(
            f"{path} is too large to be read as one picture ({error}); convert it to a tiled TIFF"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise SlideError(f"{path} is a damaged or truncated picture ({error}); copy or export it again") from None
    found = (25400 / dpi[1], 25400 / dpi[0]) if dpi and min(dpi) > 0 else None
    return pixels, kind.lower(), found


def _read_tiff(path: Path) -> tuple[RGB, str, Found | None]:
    """Pixels and resolution tags of the first page of a TIFF in strips or tiles."""
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            if page.dtype != np.uint8 or page.samplesperpixel not in (3, 4):
                raise SlideError(
                    f"{path} has {page.samplesperpixel} channels of {page.dtype}, not 8-bit RGB; "
                    "wsistain stains brightfield RGB slides"
                )
            if int(page.photometric) not in (RGB_PHOTOMETRIC, YCBCR_PHOTOMETRIC):
                raise SlideError(f"{path} is not RGB ({page.photometric!s}); wsistain stains brightfield RGB slides")
            if page.imagelength * page.imagewidth > MAX_PX:
                raise _too_large(path, page.imagelength, page.imagewidth)
            pixels = page.asarray()
            if page.axes.startswith("S"):
                pixels = pixels.transpose(1, 2, 0)
            found = resolution_tags(page)
            orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
    except (*PARSE_ERRORS, *DECODE_ERRORS) as error:
        raise SlideError(f"{path} is a damaged or truncated TIFF ({error}); copy or export it again") from None
    if orientation >= 5:
        pixels, found = pixels.transpose(1, 0, 2), found and (found[1], found[0])
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return rgb_on_white(pixels) if pixels.shape[2] == 4 else np.ascontiguousarray(pixels), "tiff", found
