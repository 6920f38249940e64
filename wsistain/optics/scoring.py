"""Scores of a brown (DAB) stain in numpy: DAB optical density, positive fraction, integrated density, H-score.

Two separations live here. `dab_od` uses the matrix of Ruifrok and Johnston in scikit-image's form (the same maths
as the differentiable one of `wsistain.optics.stains`). `integrated_density` uses the "H DAB" vectors of Fiji's
Colour Deconvolution plugin, 8-bit rounding included, because published IoD and R_p values were made with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]

HED_FROM_RGB_ROWS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Haematoxylin, eosin, DAB in optical densities of R, G, B (Ruifrok and Johnston 2001; as in scikit-image)."""

GRAY_709 = (0.2125, 0.7154, 0.0721)
"""Weights of R, G, B in scikit-image's gray."""

FIJI_H_DAB = ((0.650, 0.704, 0.286), (0.268, 0.570, 0.776))
"""Haematoxylin and DAB of Fiji's "H DAB" vectors."""

POSITIVE_OD = 0.15
"""DAB optical density from which a pixel or cell counts as positive."""

H_SCORE_OD = (POSITIVE_OD, 0.35, 0.60)
"""DAB optical densities at which weak, moderate and strong staining begin."""

MAX_OD = 3.0
_SMALLEST_LIGHT = 1e-6
_TABLE = 1 << 18


@lru_cache(maxsize=1)
def _dab_tables() -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Amount of DAB that each channel value adds, float32 (3, 256); optical density by amount; steps an amount."""
    inverse = np.linalg.inv(np.array(HED_FROM_RGB_ROWS))
    light = np.maximum(np.arange(256) / 255, _SMALLEST_LIGHT)
    amount = (np.log(light) / np.log(_SMALLEST_LIGHT))[None, :] * inverse[:, 2:3]
    largest = float(amount.max(axis=1).sum())
    amounts = np.linspace(0, largest, _TABLE)
    dab = np.exp(np.log(_SMALLEST_LIGHT) * amounts[:, None] * np.array(HED_FROM_RGB_ROWS[2]))
    od = np.minimum(-np.log10(dab @ np.array(GRAY_709) / sum(GRAY_709)), MAX_OD)
    return amount.astype(np.float32), od.astype(np.float32), (_TABLE - 1) / largest


def dab_od(rgb: RGB) -> NDArray[np.float32]:
    """DAB optical density of each pixel, float32 (h, w), 0 where there is no brown, at most 3.

    rgb : uint8 (h, w, 3).

    The pixel is separated into haematoxylin, eosin and DAB (scikit-image's `rgb2hed`), recombined from DAB alone
    (`hed2rgb`) and turned to gray; the result is -log10 of that gray. Table look-up; error below 1e-4.

    >>> white, brown = np.full((1, 1, 3), 255, np.uint8), np.array([[[120, 75, 45]]], np.uint8)
    >>> float(dab_od(white)[0, 0]), bool(dab_od(brown)[0, 0] > 0.3)
    (0.0, True)
    """
    amount, od, steps = _dab_tables()
    total = amount[0][rgb[..., 0]]
    total += amount[1][rgb[..., 1]]
    total += amount[2][rgb[..., 2]]
    total *= np.float32(steps)
    np.clip(total, 0, _TABLE - 1, out=total)
    density: NDArray[np.float32] = od[np.rint(total, out=total).astype(np.int32)]
    return density


def positive_fraction(od: NDArray[Any], cutoff: float = POSITIVE_OD) -> float:
    """Share of pixels or cells whose optical density is at least `cutoff`, 0..1; NaN when there are none."""
    return float(np.mean(np.asarray(od) >= cutoff)) if np.size(od) else float("nan")


def h_score(od: NDArray[Any], cutoffs: Sequence[float] = H_SCORE_OD) -> float:
    """H-score of pixels or cells by their optical density: 1 x % weak + 2 x % moderate + 3 x % strong, 0..300.

    cutoffs : optical densities at which weak, moderate and strong begin, rising.

    NaN when there are none. Source: McCarty et al. 1985; the cut-offs are ours.

    >>> h_score(np.array([0.0, 0.2, 0.4, 0.9]))
    150.0
    """
    values = np.asarray(od)
    if not values.size:
        return float("nan")
    return float(100 * sum(np.mean(values >= cutoff) for cutoff in cutoffs))


@lru_cache(maxsize=1)
def _fiji_tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each channel value adds to the DAB amount, float64 (3, 256), and OD by 8-bit value, float64 (256,)."""
    rows = np.array(FIJI_H_DAB)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    third = np.sqrt(np.maximum(0, 1 - (rows**2).sum(axis=0)))
    inverse = np.linalg.inv(np.vstack([rows, third / np.linalg.norm(third)]))
    values = np.arange(256)
    amount = -255 * np.log((values + 1) / 255) / np.log(255)
    od = np.log10(255 / np.maximum(values, 0.5))
    return amount[None, :] * inverse[:, 1:2], od


def fiji_dab(rgb: RGB) -> NDArray[np.uint8]:
    """The 8-bit DAB picture of Fiji's Colour Deconvolution "H DAB" (window "Colour_2"), uint8 (h, w), 255 = none.

    rgb : uint8 (h, w, 3).

    The two stain vectors are brought to unit length, the third is sqrt(max(0, 1 - h^2 - d^2)) a channel, as the
    plugin (G. Landini) does; amounts are L = -255 ln((v + 1) / 255) / ln 255 times the inverse matrix, and the value
    is min(255, exp(-(c - 255) ln 255 / 255)) rounded half up.
    """
    amount, _ = _fiji_tables()
    c = amount[0][rgb[..., 0]]
    c += amount[1][rgb[..., 1]]
    c += amount[2][rgb[..., 2]]
    c -= 255
    c *= -np.log(255) / 255
    np.minimum(np.exp(c, out=c), 255, out=c)
    c += 0.5
    picture: NDArray[np.uint8] = c.astype(np.uint8)
    return picture


def integrated_density(rgb: RGB) -> float:
    """Integrated DAB density of a whole picture as USIGAN's Fiji macro measures it: sum over pixels of OD, >= 0.

    rgb : uint8 (h, w, 3).

    Fiji: Colour Deconvolution "H DAB", Colour_2, "Uncalibrated OD" (log10(255 / v), v = 0 counted as 0.5), Measure
    without "Limit to threshold"; one pixel is one unit of area. 0 for a white picture.
    """
    counts = np.bincount(fiji_dab(rgb).ravel(), minlength=256)
    return float(counts @ _fiji_tables()[1])
