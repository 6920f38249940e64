"""Patch files as pixels: one pinned decoder, a cheap check of every file, exact resizing.

JPEG and PNG are decoded by imagecodecs (libjpeg-turbo, libpng) and by nothing else, because JPEG decoders differ by
one or two grey levels. Pillow is asked only for the size written in a file's header.
"""

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from wsistain.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TAIL = 1024  # bytes in which a complete file shows its end mark


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be used, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path.name} ({self.why})"


def _end_is_missing(head: bytes, tail: bytes) -> bool:
    """Whether a JPEG or PNG was cut short. libjpeg fills what is missing with grey and says nothing."""
    return (b"\xff\xd9" if head.startswith(_JPEG) else b"IEND") not in tail


def picture_size(path: Path, *, is_mask: bool = False) -> tuple[int, int]:
    """(height, width) from a file's header, pixels not decoded.

    Raises DataError where the file is no JPEG or PNG, is cut short, or does not hold 8-bit RGB (a mask: or grey).
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
            length = file.seek(0, 2)
            file.seek(max(0, length - _TAIL))
            tail = file.read()
        with Image.open(path) as picture:
            width, height = picture.size
            mode = picture.mode
    except UnidentifiedImageError:
        raise DataError(f"{path.name} is not a picture" + (" (it is empty)" if not length else "")) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    if not head.startswith((_JPEG, _PNG)):
        raise DataError(f"{path.name} is neither JPEG nor PNG")
    if _end_is_missing(head, tail):
        raise DataError(f"{path.name} is cut short")
    if mode not in (("RGB", "RGBA", "P", "L", "1") if is_mask else ("RGB", "RGBA", "P")):
        raise DataError(f"{path.name} holds {mode} pixels, wanted 8-bit RGB")
    return height, width


def _decode(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if not data.startswith((_JPEG, _PNG)):
        raise DataError(f"{path.name} is neither JPEG nor PNG")
    if _end_is_missing(data[:16], data[-_TAIL:]):
        raise DataError(f"{path.name} is cut short")
    try:
        pixels = imagecodecs.jpeg8_decode(data) if data.startswith(_JPEG) else imagecodecs.png_decode(data)
    except (imagecodecs.Jpeg8Error, imagecodecs.PngError, ValueError) as error:
        raise DataError(f"{path.name} cannot be decoded: {error}") from None
    if pixels.dtype != np.uint8:
        raise DataError(f"{path.name} holds {pixels.dtype} pixels, wanted 8-bit RGB")
    return pixels


def read_picture(path: Path) -> np.ndarray:
    """The pixels of a JPEG or PNG: uint8 (h, w, 3).

    An alpha channel is dropped where it is opaque. Raises DataError for a file that cannot be decoded, is cut short,
    is not 8-bit RGB, or is transparent somewhere.
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
    """The mask in a JPEG or PNG: bool (h, w), True where any channel is at least 128 (1 for masks of 0 and 1).

    Raises DataError.
    """
    pixels = _decode(path)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)
    return pixels >= (128 if pixels.max(initial=0) > 1 else 1)


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
