"""A slide's stain as a map: how much of the tissue in each small square is positive, and how strongly.

Streamed over bands of rows, so that memory does not depend on the slide's height. No torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsistain.markers import Marker
from wsistain.optics.scoring import StainCounts, stain_od
from wsistain.slide.base import RGB, Slide
from wsistain.slide.resample import Sampling, choose_sampling, read_window
from wsistain.slide.tissue import TissueMask
from wsistain.tiling.seams import SeamCounter

CELL_UM = 64.0
_WINDOW_PX = 4096

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class StainMap:
    """Counts of pixels in squares of `cell_um`; square (i, j) begins at (i, j) * cell_um from the slide's corner.

    tissue : float (h, w), tissue pixels as a share of a full square, 0..1.
    counts : float (3, h, w), pixels that reach 1+, 2+ and 3+, as a share of a full square.
    cell_um: edge of a square, um.
    total  : pixels of all the tissue.
    """

    tissue: F64
    counts: F64
    cell_um: float
    total: StainCounts

    @property
    def tissue_mm2(self) -> float:
        """Area of tissue, mm2."""
        return float(self.tissue.sum()) * (self.cell_um / 1000) ** 2

    def positive_map(self, least_tissue: float = 0.1) -> F64:
        """Positive share of the tissue in each square, float (h, w), NaN where less than `least_tissue` is tissue."""
        return self._map(self.counts[0], least_tissue)

    def h_score_map(self, least_tissue: float = 0.1) -> F64:
        """H-score of each square, 0..300, NaN where less than `least_tissue` is tissue."""
        return 100 * self._map(self.counts.sum(axis=0), least_tissue)

    def _map(self, counts: F64, least: float) -> F64:
        seen = self.tissue >= max(least, 1e-9)
        return np.where(seen, counts / np.where(seen, self.tissue, 1.0), np.nan)


def _bands(slide: Slide, sampling: Sampling, rows: int) -> Iterator[tuple[int, RGB]]:
    height, width = sampling.shape
    for y in range(0, height, rows):
        yield y, read_window(slide, sampling, y, 0, min(rows, height - y), width)


def _cell_sums(values: NDArray[np.bool_], px: int) -> NDArray[np.int64]:
    """How many pixels of each px x px square are true, int (h', w'); squares cut by the edge count what they have."""
    h, w = values.shape
    sums = np.add.reduceat(values, np.arange(0, h, px), axis=0, dtype=np.int32)
    counts: NDArray[np.int64] = np.add.reduceat(sums, np.arange(0, w, px), axis=1, dtype=np.int64)
    return counts


def map_stain(
    slide: Slide,
    tissue: TissueMask,
    marker: Marker,
    *,
    mpp: float | None = None,
    seams: SeamCounter | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StainMap:
    """The map of a marker's stain on a slide read at `mpp` um per px (None: level 0).

    seams    : is fed every band, where given; its width must be that of the slide at `mpp`.
    progress : called with (rows done, of how many).
    """
    # Squares of about `CELL_UM`, read in bands of whole squares.
    sampling = choose_sampling(slide.info, mpp)
    height, width = sampling.shape
    px = max(1, round(CELL_UM / sampling.mpp))
    scale = sampling.mpp / slide.info.mpp
    shape = (-(-height // px), -(-width // px))
    area, counts = np.zeros(shape, np.int64), np.zeros((len(marker.cutoffs), *shape), np.int64)
    cells_per_band = max(1, 512 // px)
    window = max(1, _WINDOW_PX // px) * px

    # Band by band: the whole band for the seams, windows of it with tissue for the stain.
    for y, band in _bands(slide, sampling, cells_per_band * px):
        if seams is not None:
            seams.add(band)
        for x in range(0, width, window):
            part = band[:, x : x + window]
            inside = tissue.window(y, x, *part.shape[:2], px_l0=scale)
            if not inside.any():
                continue
            od = stain_od(part, marker.chromogen)
            rows, cols = (
                slice(y // px, y // px + -(-part.shape[0] // px)),
                slice(x // px, x // px + -(-part.shape[1] // px)),
            )
            area[rows, cols] = _cell_sums(inside, px)
            for k, cutoff in enumerate(marker.cutoffs):
                counts[k, rows, cols] = _cell_sums(inside & (od >= cutoff), px)
        if progress is not None:
            progress(min(y + band.shape[0], height), height)

    # Totals are sums of whole pixels.
    weak, moderate, strong = (int(reached.sum()) for reached in counts)
    total = StainCounts(int(area.sum()), (weak, moderate, strong))
    return StainMap(area / (px * px), counts / (px * px), px * sampling.mpp, total)
