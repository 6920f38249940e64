"""What lies behind the tissue: the colour of empty glass, optical density against it, and what was never scanned."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide.base import RGB

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

WHITE = 240.0
"""Glass where a picture shows none, every channel."""

_GLASS_CHROMA = 0.08  # (max - min) / max of a colour that may be glass; scanners tint it by up to 0.04
_GLASS_STEP = 8.0  # grey levels within 3 x 3 px on flat glass
_GLASS_SHARE = 0.004  # less flat neutral area than this is not taken for glass
_FREQUENT = 0.2  # of the most frequent light: glass is bright, but may be rarer than a grey border
_BRIGHTER, _BRIGHTER_STEP = 0.1, 6  # glass has at most this share of what was scanned so many levels brighter than it

NEARLY_BLACK = 32
"""In an unscanned area whatever is no lighter than this in any channel: black, and its edge where it was resampled."""

_BLACK, _PURE = 12, 4  # no dye is as dark in every channel; a compressed black canvas is nearly 0
_PURE_SHARE, _BLACK_MIN_UM2, _BLACK_MIN_SHARE = 0.8, 10_000.0, 0.01


def glass_colour(rgb: RGB) -> F32:
    """float (3,): the colour of empty glass, the brightest frequent colour that is flat and nearly neutral.

    Unscanned white (255) is glass only where there is no other, and a grey bar darker than the tissue is none. Where a
    picture shows no glass, 240 in every channel.
    """
    # Pixels that may be glass: flat, nearly neutral, neither black nor the white that nobody scanned.
    light = rgb.mean(axis=2, dtype=np.float32)
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    flat = ndimage.maximum_filter(light, 3) - ndimage.minimum_filter(light, 3) < _GLASS_STEP
    neutral = (high - low) < _GLASS_CHROMA * high
    maybe = flat & neutral & (low < 255) & (high > _BLACK)
    scanned = np.bincount(light[(low < 255) & (high > _BLACK)].astype(np.intp), minlength=256)
    # Their brightest frequent level.
    peak = None
    if np.count_nonzero(maybe) >= max(_GLASS_SHARE * scanned.sum(), 4):
        peak = _bright_peak(np.bincount(light[maybe].astype(np.intp), minlength=256), scanned)
    if peak is None:
        return np.full(3, 255.0 if (low == 255).mean() > _GLASS_SHARE else WHITE, np.float32)
    near = maybe & (np.abs(light - peak) < 5)
    colour: F32 = rgb[near].mean(axis=0, dtype=np.float64).astype(np.float32)
    return colour


def _bright_peak(maybe: NDArray[np.integer], scanned: NDArray[np.integer]) -> int | None:
    """The brightest frequent light of what may be glass that little of what was scanned outshines; both by light."""
    counts = np.convolve(maybe, np.ones(5), "same")
    brighter = scanned.sum() - np.cumsum(scanned)
    while counts.max() > max(_GLASS_SHARE * scanned.sum(), 4) / 2:
        brightest = int(np.flatnonzero(counts > _FREQUENT * counts.max())[-1])
        start = max(brightest - 4, 0)
        peak = start + int(np.argmax(counts[start : brightest + 1]))
        above = min(peak + _BRIGHTER_STEP, 255)
        if brighter[above] <= _BRIGHTER * scanned.sum():
            return peak
        counts[: above + 1] = 0
    return None


def optical_density(rgb: RGB, glass: F32) -> F32:
    """float32 (h, w, 3): -log10(light / glass) of a lightly smoothed thumbnail; 0 on glass."""
    od: F32 = ndimage.gaussian_filter(rgb.astype(np.float32), (0.7, 0.7, 0), mode="nearest", truncate=4)
    np.log10(np.maximum(od, 1) / glass, out=od)
    np.negative(od, out=od)
    return od


def unscanned(rgb: RGB, mpp: float) -> Mask:
    """bool (h, w): pure black that no scanner saw, and the pixels beside it: large and black throughout, unlike ink."""
    high = rgb.max(axis=2)
    black = high <= _BLACK
    if not black.any():
        return black
    labels, n = ndimage.label(black, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    pure = np.bincount(labels.ravel(), weights=(high <= _PURE).ravel(), minlength=n + 1)
    large = (sizes * mpp**2 >= _BLACK_MIN_UM2) | (sizes >= _BLACK_MIN_SHARE * black.size)
    canvas = large & (pure >= _PURE_SHARE * sizes)
    canvas[0] = False
    if not canvas.any():
        return np.zeros_like(black)
    found: Mask = ndimage.binary_dilation(canvas[labels], np.ones((3, 3)))
    return found
