"""Nuclei of another package's detector as a source of cells: each once, whatever the blocks.

The detector sees tiles of one grid and size with a margin, never blocks, and is asked once for each. A nucleus belongs to the
tile that holds its centre and is taken as that tile saw it. Where neighbouring tiles disagree about one on their border, it
may come twice: one that lies to more than half on nuclei of an earlier tile is left out.
"""

import threading
import zlib
from collections import OrderedDict

import numpy as np

from wsistain.errors import ConfigError
from wsistain.reading.cells import I32
from wsistain.reading.detectors import MPP, Detector
from wsistain.reading.grid import FINE, Box, Grid
from wsistain.reading.nuclei import largest_pieces
from wsistain.slide.base import Slide
from wsistain.slide.resample import choose_sampling, read_window
from wsistain.slide.tissue import TissueMask

TILE_PX = 896
"""Edge of a tile, px of `MPP`; it is shown with `MARGIN_PX` more on each side."""

MARGIN_PX = 64
"""32 um: no nucleus reaches further beyond its centre."""

COARSEST_MPP = 1.0
_KEPT_TILES = 4096
_EARLIER = ((-1, -1), (-1, 0), (-1, 1), (0, -1))


class Detected:
    """What a detector finds, as labels of any window; safe to ask from several threads, in bounded memory.

    slide, grid, tissue : tiles that touch no tissue are not looked at. Raises ConfigError where the slide is too coarse.
    """

    def __init__(self, detector: Detector, slide: Slide, grid: Grid, tissue: TissueMask) -> None:
        if slide.info.mpp > COARSEST_MPP * 1.02:
            raise ConfigError(
                f"{slide.info.path} has {slide.info.mpp:.3g} um per px, too coarse for {detector.told}, which is shown "
                f"{MPP} um per px; leave --cells out, or find the nuclei elsewhere and give the file"
            )
        self._detector, self._slide, self._grid, self._tissue = detector, slide, grid, tissue
        self._sampling = choose_sampling(slide.info, MPP)
        self._tiles: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def labels(self, box: Box) -> I32:
        """int32 (2h, 2w) of a grid window."""
        step = self._grid.label_mpp / self._sampling.mpp
        rows, cols = (
            np.floor((FINE * start + np.arange(FINE * n) + 0.5) * step).astype(np.int64)
            for start, n in ((box.y, box.height), (box.x, box.width))
        )
        y, x = int(rows[0]), int(cols[0])
        window = self._window(y, x, int(rows[-1]) - y + 1, int(cols[-1]) - x + 1)
        return largest_pieces(window[np.ix_(rows - y, cols - x)])

    def _window(self, y: int, x: int, height: int, width: int) -> I32:
        """Labels of a window, px of the sampling; of nuclei that overlap the earlier tile's keeps its pixels."""
        out = np.zeros((height, width), np.int32)
        last = 0
        for row in range((y - MARGIN_PX) // TILE_PX, (y + height + MARGIN_PX) // TILE_PX + 1):
            for col in range((x - MARGIN_PX) // TILE_PX, (x + width + MARGIN_PX) // TILE_PX + 1):
                tile = self._single(row, col)
                top, left = row * TILE_PX - MARGIN_PX, col * TILE_PX - MARGIN_PX
                y0, x0 = max(y, top), max(x, left)
                y1, x1 = min(y + height, top + tile.shape[0]), min(x + width, left + tile.shape[1])
                if y1 <= y0 or x1 <= x0 or not tile.any():
                    continue
                part, place = tile[y0 - top : y1 - top, x0 - left : x1 - left], out[y0 - y : y1 - y, x0 - x : x1 - x]
                free = (part > 0) & (place == 0)
                place[free] = part[free] + last
                last += int(tile.max())
        return out

    def _single(self, row: int, col: int) -> I32:
        """The nuclei of a tile less those that earlier tiles have found too."""
        own = self._tile(row, col)
        if not own.any():
            return own
        taken = np.zeros(own.shape, bool)
        overlap = 2 * MARGIN_PX
        for dy, dx in _EARLIER:
            other = self._tile(row + dy, col + dx)
            mine, theirs = (_shared(own.shape, (s * dy, s * dx), overlap) for s in (1, -1))
            taken[mine] |= other[theirs] > 0
        n = int(own.max())
        area, covered = (np.bincount(values, minlength=n + 1) for values in (own.ravel(), own[taken]))
        again = 2 * covered > area
        again[0] = False
        return np.where(again[own], 0, own).astype(np.int32)

    def _tile(self, row: int, col: int) -> I32:
        """int32 (edge, edge): nuclei whose centre lies in the tile, as the detector sees them there."""
        edge = TILE_PX + 2 * MARGIN_PX
        with self._lock:  # one at a time: the packages do not say that they may be called from several threads
            kept = self._tiles.get((row, col))
            if kept is None:
                kept = zlib.compress(self._answer(row, col, edge).astype(np.int32).tobytes(), 1)
                self._tiles[row, col] = kept
                if len(self._tiles) > _KEPT_TILES:
                    self._tiles.popitem(last=False)
            else:
                self._tiles.move_to_end((row, col))
        return np.frombuffer(zlib.decompress(kept), np.int32).reshape(edge, edge)

    def _answer(self, row: int, col: int, edge: int) -> I32:
        y, x = row * TILE_PX, col * TILE_PX
        px_l0 = self._sampling.mpp / self._slide.info.mpp
        height, width = self._sampling.shape
        outside = row < 0 or col < 0 or y >= height or x >= width
        if outside or not self._tissue.covers(y * px_l0, x * px_l0, TILE_PX * px_l0, TILE_PX * px_l0):
            return np.zeros((edge, edge), np.int32)
        labels = self._detector(read_window(self._slide, self._sampling, y - MARGIN_PX, x - MARGIN_PX, edge, edge))
        _, numbers = np.unique(labels, return_inverse=True)
        numbers = numbers.reshape(labels.shape) + (labels.min() > 0)
        n = int(numbers.max())
        rows, cols = np.nonzero(numbers)
        of = numbers[rows, cols]
        count = np.maximum(np.bincount(of, minlength=n + 1), 1)
        centre = np.stack([np.bincount(of, weights=place, minlength=n + 1) / count for place in (rows, cols)])
        own = np.all((centre >= MARGIN_PX - 0.5) & (centre < MARGIN_PX + TILE_PX - 0.5), axis=0, keepdims=True)[0]
        own[0] = False
        return np.where(own[numbers], numbers, 0).astype(np.int32)


def _shared(shape: tuple[int, ...], towards: tuple[int, int], overlap: int) -> tuple[slice, slice]:
    """What a tile shares with its neighbour in a direction of -1, 0, 1 along each axis."""
    parts: list[slice] = []
    for n, side in zip(shape, towards, strict=True):
        parts.append(slice(0, overlap) if side < 0 else slice(n - overlap, n) if side > 0 else slice(0, n))
    return parts[0], parts[1]
