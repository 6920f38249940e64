"""Scores of a stain in numpy: density of its dye, what counts as positive, H-score, integrated density.

**Positive** means one thing everywhere: a pixel whose `stain_od` is at least the marker's 1+ cut-off
(`Marker.cutoffs`). The positive fraction and the H-score are those of pixels at the picture's own um per px: of a patch
all of them, of a slide those of its tissue (`find_tissue`). A cell is positive by the mean over its nucleus, ring of
membrane or cytoplasm, from the marker's own grade on (`Marker.positive_cell_od`).

Two separations live here. `stain_od` uses the matrix of Ruifrok and Johnston in scikit-image's form (the same maths
as the differentiable one of `wsistain.optics.stains`). `integrated_density` uses the "H DAB" vectors of Fiji's
Colour Deconvolution plugin, 8-bit rounding included, because published IoD and R_p values were made with it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.markers import DAB, HED, Chromogen

RGB = NDArray[np.uint8]
Vector = tuple[float, float, float]

GRAY_709 = (0.2125, 0.7154, 0.0721)
"""Weights of R, G, B in scikit-image's gray."""

FIJI_H, FIJI_DAB = (0.650, 0.704, 0.286), (0.268, 0.570, 0.776)
"""Haematoxylin and DAB of Fiji's "H DAB" vectors."""

MAX_OD = 3.0
_SMALLEST_LIGHT = 1e-6
_TABLE = 1 << 18


@lru_cache(maxsize=8)
def _stain_tables(vector: Vector) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Amount of the dye that each channel value adds, float32 (3, 256); optical density by amount; steps an amount."""
    inverse = np.linalg.inv(np.array((*HED[:2], vector)))
    light = np.maximum(np.arange(256) / 255, _SMALLEST_LIGHT)
    amount = (np.log(light) / np.log(_SMALLEST_LIGHT))[None, :] * inverse[:, 2:3]
    largest = float(amount.max(axis=1).sum())
    amounts = np.linspace(0, largest, _TABLE)
    alone = np.exp(np.log(_SMALLEST_LIGHT) * amounts[:, None] * np.array(vector))
    od = np.minimum(-np.log10(alone @ np.array(GRAY_709) / sum(GRAY_709)), MAX_OD)
    return amount.astype(np.float32), od.astype(np.float32), (_TABLE - 1) / largest


def stain_od(rgb: RGB, chromogen: Chromogen = DAB) -> NDArray[np.float32]:
    """Optical density of the chromogen alone at each pixel, float32 (h, w), 0 where there is none, at most 3.

    rgb : uint8 (h, w, 3).

    The pixel is separated into haematoxylin, eosin and the chromogen (scikit-image's `rgb2hed`), recombined from the
    chromogen alone (`hed2rgb`) and turned to gray; the result is -log10 of that gray. Table look-up; error below 1e-4.

    >>> white, brown = np.full((1, 1, 3), 255, np.uint8), np.array([[[120, 75, 45]]], np.uint8)
    >>> float(stain_od(white)[0, 0]), bool(stain_od(brown)[0, 0] > 0.3)
    (0.0, True)
    """
    amount, od, steps = _stain_tables(chromogen.od)
    total = amount[0][rgb[..., 0]]
    total += amount[1][rgb[..., 1]]
    total += amount[2][rgb[..., 2]]
    total *= np.float32(steps)
    np.clip(total, 0, _TABLE - 1, out=total)
    density: NDArray[np.float32] = od[np.rint(total, out=total).astype(np.int32)]
    return density


@dataclass(frozen=True)
class StainCounts:
    """How many pixels or cells there are, and how many of them reach 1+, 2+ and 3+."""

    n: int
    reached: tuple[int, int, int]

    def __add__(self, other: "StainCounts") -> "StainCounts":
        a, b = self.reached, other.reached
        return StainCounts(self.n + other.n, (a[0] + b[0], a[1] + b[1], a[2] + b[2]))

    @property
    def positive_fraction(self) -> float:
        """Share that is positive, 0..1; NaN when there are none."""
        return self.reached[0] / self.n if self.n else float("nan")

    @property
    def h_score(self) -> float:
        """H-score: 1 x % of 1+ and 2 x % of 2+ and 3 x % of 3+, 0..300; NaN when there are none.

        Source: McCarty et al. 1985.
        """
        return 100 * sum(self.reached) / self.n if self.n else float("nan")


NONE = StainCounts(0, (0, 0, 0))


def count_stain(od: NDArray[Any], cutoffs: Vector, where: NDArray[np.bool_] | None = None) -> StainCounts:
    """Pixels or cells by strength of stain.

    od      : densities (see `stain_od`), any shape.
    cutoffs : of a marker: `Marker.cutoffs` for pixels, `Marker.at_cells` for cells.
    where   : bool, of the same shape: what counts; None: everything.

    >>> count_stain(np.array([0.0, 0.2, 0.4, 0.9]), (0.15, 0.35, 0.60)).h_score
    150.0
    """
    values = np.asarray(od) if where is None else np.asarray(od)[where]
    weak, moderate, strong = (int(np.count_nonzero(values >= cutoff)) for cutoff in cutoffs)
    return StainCounts(int(values.size), (weak, moderate, strong))


@lru_cache(maxsize=8)
def _fiji_tables(vector: Vector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each channel value adds to the amount of the dye, float64 (3, 256), and OD by 8-bit value, float64 (256,)."""
    rows = np.array((FIJI_H, vector))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    third = np.sqrt(np.maximum(0, 1 - (rows**2).sum(axis=0)))
    inverse = np.linalg.inv(np.vstack([rows, third / np.linalg.norm(third)]))
    values = np.arange(256)
    amount = -255 * np.log((values + 1) / 255) / np.log(255)
    od = np.log10(255 / np.maximum(values, 0.5))
    return amount[None, :] * inverse[:, 1:2], od


def fiji_dab(rgb: RGB, chromogen: Chromogen = DAB) -> NDArray[np.uint8]:
    """The 8-bit DAB picture of Fiji's Colour Deconvolution "H DAB" (window "Colour_2"), uint8 (h, w), 255 = none.

    rgb : uint8 (h, w, 3). Another chromogen takes DAB's place.

    The two stain vectors are brought to unit length, the third is sqrt(max(0, 1 - h^2 - d^2)) a channel, as the
    plugin (G. Landini) does; amounts are L = -255 ln((v + 1) / 255) / ln 255 times the inverse matrix, and the value
    is min(255, exp(-(c - 255) ln 255 / 255)) rounded half up.
    """
    amount, _ = _fiji_tables(FIJI_DAB if chromogen == DAB else chromogen.od)
    c = amount[0][rgb[..., 0]]
    c += amount[1][rgb[..., 1]]
    c += amount[2][rgb[..., 2]]
    c -= 255
    c *= -np.log(255) / 255
    np.minimum(np.exp(c, out=c), 255, out=c)
    c += 0.5
    picture: NDArray[np.uint8] = c.astype(np.uint8)
    return picture


def integrated_density(rgb: RGB, chromogen: Chromogen = DAB, where: NDArray[np.bool_] | None = None) -> float:
    """Integrated DAB density of a whole picture as USIGAN's Fiji macro measures it: sum over pixels of OD, >= 0.

    rgb   : uint8 (h, w, 3).
    where : bool (h, w), the pixels that are summed; None: all of them, as the macro does.

    Fiji: Colour Deconvolution "H DAB", Colour_2, "Uncalibrated OD" (log10(255 / v), v = 0 counted as 0.5), Measure
    without "Limit to threshold"; one pixel is one unit of area. 0 for a white picture.
    """
    values = fiji_dab(rgb, chromogen)
    counts = np.bincount((values if where is None else values[where]).ravel(), minlength=256)
    return float(counts @ _fiji_tables(FIJI_DAB)[1])
