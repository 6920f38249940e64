"""Where there is tissue on a slide: a mask from a thumbnail of about 8 um per px."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide.base import RGB, Slide, SlideInfo
from wsistain.slide.resample import choose_sampling, read_window
from wsistain.slide.segment import segment

THUMBNAIL_MPP = 8.0
"""um per px of the thumbnail: a cell is one pixel, a fat cell six to twelve."""

MAX_THUMBNAIL_PX = 12_000_000
"""The thumbnail is coarser than 8 um on slides over 770 mm2, so that it never has more pixels than this."""


@dataclass(frozen=True)
class TissueMask:
    """Tissue as a mask over the whole slide.

    mask       : bool (h, w), True where there is tissue.
    downsample : level-0 px per mask px; mask px (i, j) covers level-0 rows i * downsample .. (i + 1) * downsample.
    """

    mask: NDArray[np.bool_]
    downsample: float

    @cached_property
    def _integral(self) -> NDArray[np.int64]:
        table = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(np.cumsum(self.mask, axis=0), axis=1, out=table[1:, 1:])
        return table

    @property
    def share(self) -> float:
        """Part of the slide that is tissue, 0..1."""
        return float(self.mask.mean()) if self.mask.size else 0.0

    def covers(self, y0: float, x0: float, height: float, width: float) -> bool:
        """Whether any tissue pixel touches a window in level-0 px; what lies outside the slide is glass."""
        h, w = self.mask.shape
        top, left = (max(0, int(np.floor(v / self.downsample))) for v in (y0, x0))
        bottom = min(h, int(np.ceil((y0 + height) / self.downsample)))
        right = min(w, int(np.ceil((x0 + width) / self.downsample)))
        if bottom <= top or right <= left:
            return False
        t = self._integral
        return bool(t[bottom, right] - t[top, right] - t[bottom, left] + t[top, left] > 0)

    def window(self, y: int, x: int, height: int, width: int, *, px_l0: float = 1.0) -> NDArray[np.bool_]:
        """The mask at every pixel of a window, bool (height, width); `px_l0`: level-0 px of a pixel of the window's frame."""
        h, w = self.mask.shape
        rows = np.clip(((np.arange(y, y + height) + 0.5) * px_l0 / self.downsample).astype(int), 0, h - 1)
        cols = np.clip(((np.arange(x, x + width) + 0.5) * px_l0 / self.downsample).astype(int), 0, w - 1)
        return self.mask[np.ix_(rows, cols)]

    def dilated(self, px_l0: float) -> "TissueMask":
        """The mask grown by `px_l0` level-0 px in every direction (rounded up to whole mask px)."""
        n = int(np.ceil(px_l0 / self.downsample))
        if n <= 0:
            return self
        return TissueMask(ndimage.maximum_filter(self.mask, size=2 * n + 1, mode="constant", cval=0), self.downsample)

    @classmethod
    def everywhere(cls, info: SlideInfo) -> "TissueMask":
        """A mask that takes the whole slide for tissue (`--all-tiles`)."""
        downsample = max(1.0, THUMBNAIL_MPP / info.mpp)
        height, width = (int(np.ceil(n / downsample)) for n in info.size_l0)
        return cls(np.ones((height, width), bool), downsample)


def find_tissue(slide: Slide) -> TissueMask:
    """Where a slide has tissue, at about 8 um per px; pen, dust, coverslip edges, black and empty glass are left out.

    Fat, very pale tissue, holes below 0.5 mm2 enclosed by tissue and tissue under pen count as tissue. Slides coarser
    than 8 um are judged at their own mpp. Memory is bounded by a thumbnail of at most 12 MP.
    """
    thumbnail, mpp = read_thumbnail(slide)
    return TissueMask(segment(thumbnail, mpp), mpp / slide.info.mpp)


def read_thumbnail(slide: Slide) -> tuple[RGB, float]:
    """The whole slide as uint8 (h, w, 3), and its um per px: 8, or more on coarser and on very large slides."""
    info = slide.info
    area_um2 = float(info.size_l0[0]) * info.size_l0[1] * info.mpp**2
    mpp = max(THUMBNAIL_MPP, info.mpp, float(np.sqrt(area_um2 / MAX_THUMBNAIL_PX)))
    sampling = choose_sampling(info, mpp)
    return read_window(slide, sampling, 0, 0, *sampling.shape), sampling.mpp
