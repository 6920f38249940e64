"""The one JPEG encoder: which library, and how much is lost where.

Everything that people look at or measure keeps the colour of every pixel (4:4:4): at 4:2:0, the default of most programs,
four pixels share a colour, and brown spreads from nuclei over what surrounds them. Only the phantom halves colours, since
it imitates scanners and data sets that do.

libjpeg-turbo by way of imagecodecs: Pillow gives the same bytes and is a tenth slower, and cannot keep red, green and blue
as components, which DICOM wants; simplejpeg is about as fast, by a transform that loses 0.17 dB (tiles of 512 px, quality 90).

Source: ITU-T T.81 (JPEG), annex B; Exif 2.32, 4.5.4.
"""

import struct
from typing import Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsistain.errors import OutputError

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

VIEWED = 90
"""Quality of what is looked at and measured: exports, tiles of the viewer, previews, sheets of training samples."""

ON_PAGES = 85
"""Quality of pictures inside HTML pages, which carry many."""

LEARNT_FROM = 95
"""Quality of patches that networks are trained on: what they see twice compressed should not be seen at all."""

SHARED: dict[str, tuple[int, int]] = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}
"""Columns and rows that share their colour."""

_START, _COMMENT, _APP1 = b"\xff\xd8", b"\xff\xfe", b"\xff\xe1"
_MOST_IN_SEGMENT = 0xFFFF - 2


def check_quality(quality: int) -> None:
    """OutputError where a quality that the user gave is not in 1 to 100."""
    if not 1 <= quality <= 100:
        raise OutputError(f"JPEG quality {quality} is not in 1 to 100; try {VIEWED}")


def encode_jpeg(
    pixels: NDArray[np.uint8],
    quality: int = VIEWED,
    *,
    subsampling: str = "4:4:4",
    as_rgb: bool = False,
    small: bool = False,
    comment: bytes = b"",
    exif: bytes = b"",
) -> bytes:
    """A baseline JPEG of `pixels`; the same pixels give the same bytes.

    pixels      : uint8 (h, w, 3), red, green, blue; or (h, w), grey.
    quality     : 1 to 100, in libjpeg's scale.
    subsampling : a key of `SHARED`.
    as_rgb      : red, green and blue as the components, in place of YCbCr.
    small       : Huffman tables of the picture's own: the same pixels, an eighth smaller, at twice the time.
    comment     : put into the file as its comment.
    exif        : the bytes of an Exif block, "Exif\\0\\0" included.

    ValueError where comment or Exif are longer than a segment (65,533 bytes). Safe on threads; nothing else is checked.
    """
    in_colour = pixels.ndim == 3
    data = bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels),
            level=quality,
            subsampling=subsampling.replace(":", ""),
            optimize=small,
            colorspace="RGB" if in_colour else None,
            outcolorspace=None if not in_colour else "RGB" if as_rgb else "YCBCR",
        )
    )
    told = _segment(_APP1, exif) + _segment(_COMMENT, comment)
    return _with_segments(data, told) if told else data


def _segment(marker: bytes, content: bytes) -> bytes:
    """A segment of a JPEG: marker, length (its own two bytes counted), content; nothing where there is no content."""
    if not content:
        return b""
    if len(content) > _MOST_IN_SEGMENT:
        raise ValueError(f"{len(content)} bytes do not fit into a segment of JPEG; at most {_MOST_IN_SEGMENT} do")
    return marker + struct.pack(">H", len(content) + 2) + content


def _with_segments(data: bytes, segments: bytes) -> bytes:
    """The segments behind the JFIF header, which must come first where there is one."""
    at = len(_START)
    if data[at : at + 2] == b"\xff\xe0":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + segments + data[at:]
