"""Patch files as pixels: one pinned decoder, a cheap check of every file, exact resizing.

JPEG, PNG, BMP and WebP are decoded by imagecodecs (libjpeg-turbo, libpng, libwebp), TIFF by tifffile, and by nothing
else, because JPEG decoders differ by one or two grey levels. Pillow is asked only for the size written in a file's
header. simplejpeg (libjpeg-turbo too) tells what it had to make up in a damaged JPEG, of which imagecodecs says nothing.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from wsistain.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_TAIL = 1024  # bytes in which a complete file shows its end mark
_HEAD = 32
_ORIENTATION = 274  # the same tag in TIFF and Exif; 1 is upright
_UPRIGHT = "save it upright, for example with: mogrify -auto-orient"
_COLOURS = {"minisblack": 1, "rgb": 2, "ycbcr": 6}  # photometric interpretations of TIFF whose samples are RGB or grey
_TIFF_JPEG = 7  # the compression whose decoder turns YCbCr into RGB
_WANTED = "JPEG, PNG, TIFF, BMP or WebP"


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be used, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path.name} ({self.why})"


def _kind(head: bytes) -> str | None:
    """What a file is by its first bytes: "jpeg", "png", "tiff", "bmp" or "webp"; None for anything else."""
    if head.startswith(_JPEG):
        return "jpeg"
    if head.startswith(_PNG):
        return "png"
    if head.startswith(_TIFF):
        return "tiff"
    if head.startswith(b"BM"):
        return "bmp"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def _end_is_missing(kind: str, head: bytes, tail: bytes, length: int) -> bool:
    """Whether a picture was cut short. libjpeg fills what is missing with grey and says nothing."""
    if kind == "jpeg":
        return b"\xff\xd9" not in tail
    if kind == "png":
        return b"IEND" not in tail
    if kind == "bmp":
        return int.from_bytes(head[2:6], "little") > length
    return kind == "webp" and int.from_bytes(head[4:8], "little") + 8 > length


def picture_size(path: Path, *, is_mask: bool = False) -> tuple[int, int]:
    """(height, width) from a file's header, pixels not decoded.

    Raises DataError where the file is none of the kinds that are read, is cut short, does not hold 8-bit RGB (a mask:
    or grey), or is stored turned or mirrored.
    """
    length = 0
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            length = file.seek(0, 2)
            file.seek(max(0, length - _TAIL))
            tail = file.read()
        kind = _kind(head)
        if kind == "tiff":
            return _tiff_size(path, is_mask=is_mask)
        with Image.open(path) as picture:
            width, height = picture.size
            mode = picture.mode
            turned = _orientation(picture.info.get("exif"))
    except UnidentifiedImageError:
        raise DataError(f"{path.name} is not a picture" + (" (it is empty)" if not length else "")) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    if kind is None:
        raise DataError(f"{path.name} is none of {_WANTED}")
    if _end_is_missing(kind, head, tail, length):
        raise DataError(f"{path.name} is cut short")
    if kind == "png" and head[24] > 8:
        raise DataError(f"{path.name} holds {head[24]}-bit pixels, wanted 8-bit RGB")
    if mode not in (("RGB", "RGBA", "P", "L", "1") if is_mask else ("RGB", "RGBA", "P")):
        raise DataError(f"{path.name} holds {mode} pixels, wanted 8-bit RGB")
    _refuse_turned(path, turned)
    return height, width


def _orientation(exif: bytes | None) -> int:
    """What a block of Exif says of how a picture is to be turned to be seen; 1, upright, where it says nothing."""
    if not exif:
        return 1
    found = Image.Exif()
    try:
        found.load(exif)
        return int(found.get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, OSError, KeyError, struct.error):
        return 1  # what cannot be read turns nothing, in viewers too


def _refuse_turned(path: Path, orientation: int) -> None:
    """DataError where viewers turn or mirror what is stored: such a picture would not lie on its partner, or its cells."""
    if 2 <= orientation <= 8:
        raise DataError(f"{path.name} is stored turned or mirrored (orientation {orientation}); {_UPRIGHT} {path.name}")


def _stored_orientation(data: bytes) -> int:
    """The orientation that an encoded picture states, wherever in the file."""
    if b"Exif" not in data and b"eXIf" not in data and b"EXIF" not in data:
        return 1
    with Image.open(io.BytesIO(data)) as picture:
        if "exif" not in picture.info:
            picture.load()  # a PNG may say it after its pixels
        return _orientation(picture.info.get("exif"))


def _tiff_size(path: Path, *, is_mask: bool) -> tuple[int, int]:
    with _opened_tiff(path) as page:
        samples, bits = page.samplesperpixel, page.bitspersample
        if bits != 8 and not (is_mask and bits == 1):
            raise DataError(f"{path.name} holds {bits}-bit pixels, wanted 8-bit RGB")
        if samples not in ((1, 3, 4) if is_mask else (3, 4)):
            raise DataError(f"{path.name} holds {samples} channels, wanted 8-bit RGB")
        if int(page.photometric) not in _COLOURS.values() and not (is_mask and samples == 1):
            raise DataError(f"{path.name} holds {page.photometric.name} pixels, wanted 8-bit RGB")
        if int(page.photometric) == _COLOURS["ycbcr"] and int(page.compression) != _TIFF_JPEG:
            raise DataError(f"{path.name} stores YCbCr without JPEG, wanted 8-bit RGB")
        _refuse_turned(path, int(page.tags[_ORIENTATION].value) if _ORIENTATION in page.tags else 1)
        ends = [start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if max(ends, default=0) > path.stat().st_size:
            raise DataError(f"{path.name} is cut short")
        return int(page.imagelength), int(page.imagewidth)


@contextmanager
def _opened_tiff(path: Path) -> Iterator[Any]:
    """The only page of a TIFF, as tifffile has it (reduced copies of it do not count); DataError for what is none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in map(_whole, file.pages) if not page.is_reduced]
            if len(pages) != 1:
                raise DataError(f"{path.name} holds {len(pages)} pictures, wanted one")
            yield pages[0]
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - what tifffile raises on damaged files is of every kind
        raise DataError(f"{path.name} cannot be decoded: {type(error).__name__}: {error}") from None


def _whole(page: Any) -> Any:
    return page.aspage()


def _decode(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None
    kind = _kind(data[:_HEAD])
    if kind is None:
        raise DataError(f"{path.name} is none of {_WANTED}")
    if _end_is_missing(kind, data[:_HEAD], data[-_TAIL:], len(data)):
        raise DataError(f"{path.name} is cut short")
    try:
        if kind == "tiff":
            _tiff_size(path, is_mask=True)  # one picture, whole, of 8 bits
            with _opened_tiff(path) as page:
                pixels = page.asarray()
                if page.planarconfig == 2:
                    pixels = np.moveaxis(pixels, 0, -1)
        elif kind == "jpeg":
            _check_jpeg(data, path)
            _refuse_turned(path, _stored_orientation(data))
            pixels = imagecodecs.jpeg8_decode(data)
        else:
            _refuse_turned(path, _stored_orientation(data))
            pixels = {"png": imagecodecs.png_decode, "bmp": imagecodecs.bmp_decode, "webp": imagecodecs.webp_decode}[
                kind
            ](data)
    except (RuntimeError, ValueError, OSError, SyntaxError) as error:  # imagecodecs' own errors are RuntimeErrors
        raise DataError(f"{path.name} cannot be decoded: {error}") from None
    if pixels.dtype not in (np.uint8, np.bool_):
        raise DataError(f"{path.name} holds {pixels.dtype} pixels, wanted 8-bit RGB")
    return np.asarray(pixels).astype(np.uint8, copy=False)


def _check_jpeg(data: bytes, path: Path) -> None:
    """DataError where libjpeg had to make up a part of the picture; at an eighth of its size, which costs half as much."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, strict=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        raise DataError(f"{path.name} cannot be decoded: {error}") from None


def read_picture(path: Path) -> np.ndarray:
    """The pixels of a JPEG, PNG, TIFF, BMP or WebP: uint8 (h, w, 3).

    An alpha channel is dropped where it is opaque. Raises DataError for a file that cannot be decoded, is cut short,
    is not 8-bit RGB, is transparent somewhere, or is stored turned or mirrored (Exif, Orientation of TIFF).
    """
    pixels = _decode(path)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if pixels[..., 3].min() < 255:
            raise DataError(f"{path.name} is partly transparent, wanted opaque RGB")
        pixels = pixels[..., :3]
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(f"{path.name} has shape {pixels.shape}, wanted RGB (h, w, 3)")
    return np.ascontiguousarray(pixels)


def read_mask(path: Path) -> np.ndarray:
    """The mask in a picture: bool (h, w), True where any channel is at least 128 (1 for masks of 0 and 1).

    Raises DataError.
    """
    pixels = _decode(path)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)
    return pixels >= (128 if pixels.max(initial=0) > 1 else 1)


def read_grey(path: Path) -> np.ndarray:
    """The values of a grey picture (one channel, or three alike), uint8 (h, w): a map of shares, 0 to 255 for 0 to 1.

    Raises DataError for colours, a transparent picture, and what `read_mask` refuses.
    """
    pixels = _decode(path)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and pixels[..., 3].min() == 255:
        pixels = pixels[..., :3]
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3) and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise DataError(f"{path.name} has shape {pixels.shape} of {pixels.dtype}, wanted grey of 8 bits")
    return np.ascontiguousarray(pixels)


def resize(pixels: np.ndarray, height: int, width: int, *, nearest: bool = False) -> np.ndarray:
    """`pixels` uint8 (h, w, c) or bool (h, w) at another size, bicubic with antialiasing or nearest (masks).

    The bicubic rule is Pillow's (a = -0.5 and a support that grows with the shrinkage).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    is_flat = pixels.ndim == 2
    planes = torch.from_numpy(np.ascontiguousarray(pixels[..., None] if is_flat else pixels)).permute(2, 0, 1)[None]
    if nearest:
        out = F.interpolate(planes.to(torch.uint8), size=(height, width), mode="nearest-exact")
    else:
        out = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    result = out[0].permute(1, 2, 0).contiguous().numpy().astype(pixels.dtype)
    return result[..., 0] if is_flat else result


def resize_short(pixels: np.ndarray, edge: int, *, nearest: bool = False) -> np.ndarray:
    """`pixels` so large that their shorter side is `edge`, their form kept; see `resize`."""
    height, width = pixels.shape[:2]
    scale = edge / min(height, width)
    return resize(pixels, max(edge, round(height * scale)), max(edge, round(width * scale)), nearest=nearest)
