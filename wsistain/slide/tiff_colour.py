"""RGB from the YCbCr samples that TIFF stores under codecs that know no colour (TIFF 6.0, section 21)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsistain.slide.base import RGB
from wsistain.slide.tiff_codes import BYTE_CODECS, JP2K_CODECS, Codec, Photometric

_BT601 = (0.299, 0.587, 0.114)
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_SHIFT = 16


@dataclass(frozen=True)
class Chroma:
    """How stored Y, Cb and Cr are read.

    across, down : px that share one Cb and Cr.
    luma         : shares of red, green and blue in Y (YCbCrCoefficients).
    reference    : black and white of Y, Cb and Cr (ReferenceBlackWhite).
    """

    across: int
    down: int
    luma: tuple[float, float, float] = _BT601
    reference: tuple[float, float, float, float, float, float] = _FULL_RANGE


def chroma_of(page: tifffile.TiffPage, planes: int) -> Chroma | None:
    """How the samples of a page become RGB; None where they are RGB or the codec sees to it.

    Planes of their own are decoded one by one, so that no codec can. ValueError for tags that make no sense.
    """
    if int(page.photometric) != Photometric.YCBCR:
        return None
    compression = int(page.compression)
    if compression not in BYTE_CODECS | JP2K_CODECS and planes == 1:
        return None
    if compression in (Codec.JP2K_YCBCR, Codec.JP2K_RGB) and planes == 1:  # Aperio's codes say it themselves
        return None
    across, down = subsampling(page)
    if compression not in BYTE_CODECS:
        across = down = 1
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise ValueError(f"the YCbCr subsampling is {across} x {down}")
    luma = _numbers(page, "YCbCrCoefficients", 3) or _BT601
    reference = _numbers(page, "ReferenceBlackWhite", 6) or _FULL_RANGE
    if min(luma) <= 0:
        raise ValueError(f"the YCbCr coefficients are {luma}")
    return Chroma(across, down, luma, reference)  # type: ignore[arg-type]


def _numbers(page: tifffile.TiffPage, tag: str, n: int) -> tuple[float, ...] | None:
    """A tag of `n` numbers, each a fraction or a number; None where it is missing."""
    if tag not in page.tags:
        return None
    value = page.tags[tag].value
    if len(value) == n:
        return tuple(float(v) for v in value)
    tops, bottoms = value[::2], value[1::2]
    if len(tops) != n or not all(bottoms):
        raise ValueError(f"{tag} is {value}")
    return tuple(a / b for a, b in zip(tops, bottoms, strict=True))


def subsampling(page: tifffile.TiffPage) -> tuple[int, int]:
    """Px across and down that share one Cb and Cr; 2 x 2 where the tag is missing."""
    value = page.tags["YCbCrSubSampling"].value if "YCbCrSubSampling" in page.tags else (2, 2)
    return int(value[0]), int(value[1])


def n_bytes(chroma: Chroma, height: int, width: int) -> int:
    """Bytes of an interleaved tile: units of `down` x `across` Y, then one Cb and one Cr."""
    units = -(-height // chroma.down) * -(-width // chroma.across)
    return units * (chroma.down * chroma.across + 2)


def unpacked(data: NDArray[np.uint8], chroma: Chroma, out: RGB) -> None:
    """Spread the units of a subsampled tile over its px: uint8 (n_bytes,) to Y, Cb, Cr in `out` (h, w, 3)."""
    height, width = out.shape[:2]
    rows, cols = -(-height // chroma.down), -(-width // chroma.across)
    units = data.reshape(rows, cols, chroma.down * chroma.across + 2)
    luma = units[..., :-2].reshape(rows, cols, chroma.down, chroma.across).transpose(0, 2, 1, 3)
    out[..., 0] = luma.reshape(rows * chroma.down, cols * chroma.across)[:height, :width]
    for channel in (1, 2):
        plane = units[..., channel - 3].repeat(chroma.down, axis=0).repeat(chroma.across, axis=1)
        out[..., channel] = plane[:height, :width]


@lru_cache(maxsize=8)
def _tables(luma: tuple[float, ...], reference: tuple[float, ...]) -> tuple[NDArray[np.int32], ...]:
    """Y, red of Cr, blue of Cb, and the two parts of green in 16-bit fixed point, for each of 256 codes.

    Codes are scaled by black and white, cut to whole numbers; products are in fixed point, as libtiff has it, whose
    bytes these are.
    """
    red, green, blue = luma
    code = np.arange(256, dtype=np.float64)

    def scaled(at: NDArray[np.float64], black: float, white: float, full: int) -> NDArray[np.int64]:
        spread = white - black if white != black else 1.0
        return np.trunc(np.clip((at - np.trunc(black)) * full / spread, -4096, 4096)).astype(np.int64)

    def fixed(value: float) -> int:
        return int(np.clip(value, 0, 2) * (1 << _SHIFT) + 0.5)

    y = scaled(code, reference[0], reference[1], 255)
    cb = scaled(code - 128, reference[2] - 128, reference[3] - 128, 127)
    cr = scaled(code - 128, reference[4] - 128, reference[5] - 128, 127)
    half = 1 << (_SHIFT - 1)
    tables = (
        y,
        (fixed(2 - 2 * red) * cr + half) >> _SHIFT,
        (fixed(2 - 2 * blue) * cb + half) >> _SHIFT,
        -fixed(blue * (2 - 2 * blue) / green) * cb + half,
        -fixed(red * (2 - 2 * red) / green) * cr,
    )
    return tuple(table.astype(np.int32) for table in tables)


def to_rgb(tile: RGB, chroma: Chroma) -> None:
    """Turn Y, Cb, Cr into RGB in place: uint8 (h, w, 3)."""
    y_of, red_of, blue_of, green_cb, green_cr = _tables(chroma.luma, chroma.reference)
    luma, cb, cr = y_of[tile[..., 0]], tile[..., 1].copy(), tile[..., 2].copy()
    tile[..., 0] = np.clip(luma + red_of[cr], 0, 255)
    tile[..., 1] = np.clip(luma + ((green_cb[cb] + green_cr[cr]) >> _SHIFT), 0, 255)
    tile[..., 2] = np.clip(luma + blue_of[cb], 0, 255)
