"""Maps laid over a stain: where it is positive, where it differs from a real IHC, where there is tissue."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

from wsistain.markers import Marker
from wsistain.optics.scoring import stain_od
from wsistain.slide.base import RGB
from wsistain.slide.tissue import TissueMask
from wsistain.viewing.frame import Frame
from wsistain.viewing.pictures import MapPicture, Pixels, SlidePicture, Windowed

GRADES = (("1+", (246, 201, 69)), ("2+", (238, 119, 51)), ("3+", (170, 34, 34)))
"""Grade of a pixel or cell, and the colour in which it is shown."""

TISSUE_COLOUR = (0, 158, 142)
MORE, LESS = (204, 51, 17), (0, 119, 187)
"""Where the virtual stain is stronger than the real one, and where it is weaker."""

FINER = 2
"""Positivity is judged on pixels this many halvings finer than what is shown, as far as there are any."""

SMOOTH_UM = 16.0
"""Sections next to each other share areas, not cells: they are compared after smoothing by about two cells."""

FULL_OD = 0.3
"""Difference in optical density that is shown in full colour."""

_STRENGTH = 190


class PositivityPicture:
    """Grades of the pixels of a stain by the marker's cut-offs; the same tiles as the stain's.

    Down to two halvings the grades are those of full-size pixels; further out those of means of 2 to the k - 2 px.
    """

    form = "png"

    def __init__(self, stain: SlidePicture, marker: Marker) -> None:
        self.frame, self._stain, self._marker = stain.frame, stain, marker

    def version(self, k: int, row: int, col: int) -> str:
        return self._stain.version(k, row, col)

    def tile(self, k: int, row: int, col: int) -> Pixels:
        window = self.frame.window(k, row, col)
        if window is None:
            raise ValueError(f"there is no tile ({row}, {col})")
        y, x, height, width = window
        step = 1 << (k - max(k - FINER, 0))
        od = self._density(k, y, x, height, width, step)
        grades = np.zeros(od.shape, np.uint8)
        for cutoff in self._marker.cutoffs:
            grades += od >= cutoff
        table = np.array([(0, 0, 0, 0), *((*colour, _STRENGTH) for _, colour in GRADES)], np.float32)
        if step == 1:
            return table.astype(np.uint8)[grades]
        # Colours are means of those that have one; opacity is the share of them.
        shown = table[grades].reshape(height, step, width, step, 4)
        weight = shown[..., 3].sum(axis=(1, 3))
        colour = (shown[..., :3] * shown[..., 3:]).sum(axis=(1, 3)) / np.maximum(weight, 1)[..., None]
        return np.dstack([colour, weight / step**2]).round().astype(np.uint8)

    def _density(self, k: int, y: int, x: int, height: int, width: int, step: int) -> NDArray[np.float32]:
        finer = max(k - FINER, 0)
        return stain_od(
            self._stain.read(finer, y * step, x * step, height * step, width * step), self._marker.chromogen
        )


@dataclass(frozen=True)
class Affine:
    """Where a point of the common frame lies on another slide: (y, x) um there = matrix @ (y, x) um + shift_um."""

    matrix: NDArray[np.float64]
    shift_um: NDArray[np.float64]


class WarpedPicture:
    """Another slide, a real IHC, laid over a stain by an affine map; read linearly at about the fineness that is shown."""

    form = "jpg"

    def __init__(self, other: SlidePicture, frame: Frame, affine: Affine) -> None:
        self.frame, self._other, self._affine = frame, other, affine

    def version(self, k: int, row: int, col: int) -> str:
        return f"{self._other.version(0, 0, 0)}-{self._affine.shift_um.round(2).tolist()}"

    def tile(self, k: int, row: int, col: int) -> RGB:
        window = self.frame.window(k, row, col)
        if window is None:
            raise ValueError(f"there is no tile ({row}, {col})")
        return self.read(k, *window)

    def read(self, k: int, y: int, x: int, height: int, width: int) -> RGB:
        """A window after `k` halvings; 255 where the other slide has nothing."""
        # Pixel centres in the common frame, then on the other slide, um.
        frame, (matrix, shift) = self.frame, (self._affine.matrix, self._affine.shift_um)
        mpp = frame.mpp * (1 << k)
        rows = frame.y_um + (np.arange(y, y + height) + 0.5) * mpp
        cols = frame.x_um + (np.arange(x, x + width) + 0.5) * mpp
        um = [matrix[i, 0] * rows[:, None] + matrix[i, 1] * cols[None, :] + shift[i] for i in range(2)]

        # The window of the other slide that holds them, at a halving no coarser than what is shown.
        other = self._other.frame
        wanted = mpp * float(np.sqrt(abs(np.linalg.det(matrix)))) / other.mpp
        finer = int(np.clip(np.floor(np.log2(max(wanted, 1.0)) + 1e-6), 0, other.halvings))
        at = [v / (other.mpp * (1 << finer)) - 0.5 for v in um]
        size = other.size(finer)
        low = [int(np.clip(np.floor(v.min()) - 1, 0, n)) for v, n in zip(at, size, strict=True)]
        high = [int(np.clip(np.ceil(v.max()) + 2, 0, n)) for v, n in zip(at, size, strict=True)]
        out: RGB = np.full((height, width, 3), 255, np.uint8)
        if high[0] <= low[0] or high[1] <= low[1]:
            return out
        source = self._other.read(finer, low[0], low[1], high[0] - low[0], high[1] - low[1])
        places = np.stack([at[0] - low[0], at[1] - low[1]])
        for channel in range(3):
            values = map_coordinates(source[..., channel].astype(np.float32), places, order=1, cval=255.0)
            out[..., channel] = np.rint(values).clip(0, 255)
        return out


class DifferencePicture:
    """Density of a virtual stain less that of a real one, smoothed by `SMOOTH_UM`; clear where they agree."""

    form = "png"

    def __init__(self, stain: SlidePicture, real: Windowed, marker: Marker) -> None:
        self.frame, self._stain, self._real, self._marker = stain.frame, stain, real, marker

    def version(self, k: int, row: int, col: int) -> str:
        return f"{self._stain.version(k, row, col)}-{self._real.version(k, row, col)}"

    def tile(self, k: int, row: int, col: int) -> Pixels:
        window = self.frame.window(k, row, col)
        if window is None:
            raise ValueError(f"there is no tile ({row}, {col})")
        y, x, height, width = window
        sigma = SMOOTH_UM / (self.frame.mpp * (1 << k))
        margin = int(np.ceil(3 * sigma)) if sigma > 0.3 else 0
        wide = (y - margin, x - margin, height + 2 * margin, width + 2 * margin)
        virtual, real = (stain_od(p.read(k, *wide), self._marker.chromogen) for p in (self._stain, self._real))
        difference = virtual - real
        if margin:
            difference = gaussian_filter(difference, sigma, truncate=3.0)[margin:-margin, margin:-margin]
        out = np.zeros((height, width, 4), np.uint8)
        out[difference >= 0, :3] = MORE
        out[difference < 0, :3] = LESS
        out[..., 3] = np.rint(np.clip(np.abs(difference) / FULL_OD, 0, 1) * 220)
        return out


def tissue_picture(tissue: TissueMask, slide: Frame, version: str) -> MapPicture:
    """The outline of a slide's tissue; inside it the stain keeps its colours."""
    mask = tissue.mask
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask & ~binary_erosion(mask)] = (*TISSUE_COLOUR, 255)
    height, width = mask.shape
    frame = Frame(height, width, slide.mpp * tissue.downsample, slide.y_um, slide.x_um)
    return MapPicture(pixels, frame, version)
