"""The slide at the generator's mpp, on one global grid: a pixel depends on its own place, never on the window read."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, Slide, SlideInfo

COPY_TOLERANCE = 0.02
"""A level this close to the wanted mpp is copied; generators do not notice 2 % of scale, resampling costs sharpness."""

MAX_ENLARGE = 2.0
"""Larger gaps than this factor between slide and generator cannot be filled by interpolation."""

Pixel = TypeVar("Pixel", bound=np.generic)

_SHAPE_SLACK = 1e-3
_ROW_BITS, _COL_BITS = 12, 12
_KEPT_BITS = 4
_SOURCE_PX = 1152  # edge of the source blocks worked on at once: 16 MB as float32


@dataclass(frozen=True)
class Sampling:
    """How output pixels come from the pixels of a level.

    level : level that is read.
    scale : level px per output px; exactly 1.0 is a copy.
    mpp   : um per px of the output.
    shape : (height, width) of the whole slide, output px.
    """

    level: int
    scale: float
    mpp: float
    shape: tuple[int, int]


def choose_sampling(info: SlideInfo, mpp: float | None) -> Sampling:
    """How to read a slide at `mpp` um per px; None: level 0 as it is.

    The coarsest level that is at least as fine as `mpp` is read and shrunk by exact area weights. A level whose mpp
    lies within 2 % of the wanted one is copied as it is, and `Sampling.mpp` is then that level's own mpp. A slide
    coarser than `mpp` is enlarged linearly, up to a factor of 2; beyond that SlideError.
    """
    if mpp is None:
        return Sampling(0, 1.0, info.mpp, info.size_l0)
    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp must be positive, found {mpp}")
    level_mpp = [info.mpp * downsample for downsample in info.downsamples]
    nearest = min(range(len(level_mpp)), key=lambda i: abs(math.log(level_mpp[i] / mpp)))
    if abs(level_mpp[nearest] / mpp - 1) <= COPY_TOLERANCE:
        return Sampling(nearest, 1.0, level_mpp[nearest], info.level_sizes[nearest])
    level = max((i for i, value in enumerate(level_mpp) if value <= mpp), key=lambda i: level_mpp[i], default=0)
    scale = mpp / level_mpp[level]
    if scale * MAX_ENLARGE < 1 - COPY_TOLERANCE:
        raise SlideError(
            f"{info.path} has {info.mpp:.4g} um per px, too coarse for {mpp:.4g}: it would be enlarged "
            f"{1 / scale:.1f} times; use a slide scanned at a higher magnification, or weights for a coarser mpp"
        )
    height, width = info.level_sizes[level]
    shape = (_length(height, scale), _length(width, scale))
    return Sampling(level, scale, mpp, shape)


def _length(n: int, scale: float) -> int:
    return max(1, math.ceil(n / scale - _SHAPE_SLACK))


def read_window(slide: Slide, sampling: Sampling, y: int, x: int, height: int, width: int) -> RGB:
    """Pixels of a window in output px: uint8 (height, width, 3), the caller's own; outside the slide 255.

    Equal, byte for byte, to the same crop of any larger window. Memory stays bounded by the window and a few blocks of
    source pixels, however strong the reduction.
    """
    if sampling.scale == 1.0:
        return slide.read_level(sampling.level, y, x, height, width)
    out: RGB = np.full((height, width, 3), 255, np.uint8)
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + height, sampling.shape[0]), min(x + width, sampling.shape[1])
    step_y, step_x = (_step(n, sampling.scale) for n in (bottom - top, right - left))
    size = slide.info.level_sizes[sampling.level]
    for y0 in range(top, bottom, step_y):
        y1 = min(y0 + step_y, bottom)
        for x0 in range(left, right, step_x):
            x1 = min(x0 + step_x, right)
            rows, first_row, n_rows = _weights(y0, y1, sampling.scale, size[0], _ROW_BITS)
            cols, first_col, n_cols = _weights(x0, x1, sampling.scale, size[1], _COL_BITS)
            source = slide.read_level(sampling.level, first_row, first_col, n_rows, n_cols)
            out[y0 - y : y1 - y, x0 - x : x1 - x] = _apply(rows, cols, source)
    return out


def _step(n: int, scale: float) -> int:
    """Output px per block of source pixels: about equal blocks, none with an edge over _SOURCE_PX."""
    blocks = max(1, math.ceil(n * scale / _SOURCE_PX))
    return max(1, -(-n // blocks))


@lru_cache(maxsize=512)
def _weights(start: int, stop: int, scale: float, size: int, bits: int) -> tuple[sparse.csr_array, int, int]:
    """Weights of output pixels start..stop as a matrix over source pixels first..first + n, and first and n.

    Each row holds whole numbers that sum to 2**bits, a function of the output pixel's index alone. Shrinking: the
    area of each source pixel under the output pixel; enlarging: linear between the two nearest pixel centres. Beyond
    the slide its last pixel is repeated.
    """
    index = np.arange(start, stop, dtype=np.float64)
    if scale > 1:
        lower, upper = index * scale, (index + 1) * scale
        begin = np.floor(lower).astype(np.int64)
        taps = math.ceil(scale) + 1
        source = begin[:, None] + np.arange(taps)
        share = np.minimum(source + 1, upper[:, None]) - np.maximum(source, lower[:, None])
        edges = np.cumsum(np.clip(share, 0, None), axis=1) / scale
    else:
        centre = (index + 0.5) * scale - 0.5
        begin = np.floor(centre).astype(np.int64)
        taps = 2
        source = begin[:, None] + np.arange(2)
        fraction = centre - begin
        edges = np.stack([1 - fraction, np.ones_like(fraction)], axis=1)
    # In whole numbers: sums are rounded, not each weight, so that they add up to exactly one.
    whole = np.rint(edges * 2**bits)
    whole[:, -1] = 2**bits
    weights = np.diff(whole, axis=1, prepend=0).astype(np.float32)
    source = np.clip(source, 0, size - 1)
    first = int(source.min())
    n = int(source.max()) + 1 - first
    rows = np.arange(0, weights.size + 1, taps)
    matrix = sparse.csr_array((weights.ravel(), (source - first).ravel(), rows), shape=(stop - start, n))
    matrix.eliminate_zeros()
    return matrix, first, n


def _apply(rows: sparse.csr_array, cols: sparse.csr_array, source: RGB) -> RGB:
    """Both weightings of a block: sums of whole numbers below 2**24, so float32 is exact in any order."""
    height, width = source.shape[:2]
    n_rows, n_cols = rows.shape[0], cols.shape[0]
    down = rows @ source.reshape(height, width * 3).astype(np.float32)  # 8 + _ROW_BITS bits
    down *= np.float32(2.0 ** (_KEPT_BITS - _ROW_BITS))
    np.rint(down, out=down)  # 8 + _KEPT_BITS bits
    across: NDArray[np.float32] = cols @ _turned(down, n_rows, width)  # 8 + _KEPT_BITS + _COL_BITS = 24 bits
    across *= np.float32(2.0 ** -(_KEPT_BITS + _COL_BITS))
    np.rint(across, out=across)
    return _turned(across.astype(np.uint8), n_cols, n_rows).reshape(n_rows, n_cols, 3)


def _turned(pixels: NDArray[Pixel], height: int, width: int) -> NDArray[Pixel]:
    """(height, width * 3) as (width, height * 3): pixels move as one item of three channels, twice as fast."""
    whole = pixels.reshape(height, width, 3).view(np.dtype((np.void, 3 * pixels.itemsize))).reshape(height, width)
    return np.ascontiguousarray(whole.T).view(pixels.dtype).reshape(width, height * 3)
