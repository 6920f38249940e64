"""Nuclei found on the H&E, each once, whatever the blocks: a small network, its maxima, and the pixels nearest to each.

Exact at block borders by construction. The network runs on tiles of one grid and size, never on blocks, and its answer is
kept as whole numbers; a maximum is judged by what lies within `APART_UM`, a pixel belongs to the nearest maximum within
`REACH_UM`; so a window with a margin of twice that gives every nucleus of its middle as any other window does.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from wsistain.networks.nucleus_finder import RADIUS_PX, haematoxylin_weights, load_finder
from wsistain.reading.grid import FINE, Box, Grid
from wsistain.slide.base import RGB, Slide
from wsistain.slide.resample import read_window
from wsistain.slide.tissue import TissueMask

TILE_PX = 448
"""What the network answers for at once, grid px; it sees `RADIUS_PX` more on each side."""

APART_UM = 2.5
"""Two nuclei whose centres lie closer are one."""

REACH_UM = 10.0
"""No pixel of a nucleus lies further from its centre."""

CENTRE = 0.40
"""Least answer of the network at the centre of a nucleus, 0..1. On phantom slides 6000 to 6002 what is found changes little
from 0.3 to 0.6: recall 0.96 to 0.93, and 0.97 to 0.98 of what is found is a nucleus, thin slices of one among them.
"""

NUCLEUS = 0.5
LEAST_UM2 = 8.0
"""Smaller nuclei are debris, or slices that nobody would count."""

_KEPT_TILES = 96
_LIGHT = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)

U16 = NDArray[np.uint16]
I32 = NDArray[np.int32]


def haematoxylin(rgb: RGB) -> NDArray[np.float32]:
    """Amount of haematoxylin at each pixel of an H&E, float32 (h, w), optical density, 0 on glass."""
    weights = haematoxylin_weights()
    amount: NDArray[np.float32]
    amount = _LIGHT[rgb[..., 0]] * weights[0] + _LIGHT[rgb[..., 1]] * weights[1] + _LIGHT[rgb[..., 2]] * weights[2]
    np.maximum(amount, 0, out=amount)
    return amount


class NucleusMaps:
    """The network's answer anywhere on a slide, in bounded memory; safe to ask from several threads.

    slide, grid, tissue : tiles of the grid that touch no tissue are not looked at and hold no nucleus.
    """

    def __init__(self, slide: Slide, grid: Grid, tissue: TissueMask) -> None:
        self._slide, self._grid, self._tissue = slide, grid, tissue
        self._tiles: OrderedDict[tuple[int, int], Future[U16]] = OrderedDict()
        self._lock = threading.Lock()
        self._network = load_finder()

    def window(self, box: Box) -> U16:
        """uint16 (2, h, w): centre and nucleus, 0..65535; 0 outside the slide."""
        out = np.zeros((2, box.height, box.width), np.uint16)
        for row in range(box.y // TILE_PX, -(-(box.y + box.height) // TILE_PX)):
            for col in range(box.x // TILE_PX, -(-(box.x + box.width) // TILE_PX)):
                tile = self._tile(row, col)
                y0, x0 = max(box.y, row * TILE_PX), max(box.x, col * TILE_PX)
                y1, x1 = min(box.y + box.height, (row + 1) * TILE_PX), min(box.x + box.width, (col + 1) * TILE_PX)
                out[:, y0 - box.y : y1 - box.y, x0 - box.x : x1 - box.x] = tile[
                    :, y0 - row * TILE_PX : y1 - row * TILE_PX, x0 - col * TILE_PX : x1 - col * TILE_PX
                ]
        return out

    def _tile(self, row: int, col: int) -> U16:
        with self._lock:
            kept = self._tiles.get((row, col))
            if kept is not None:
                self._tiles.move_to_end((row, col))
            else:
                mine: Future[U16] = Future()
                self._tiles[row, col] = mine
                if len(self._tiles) > _KEPT_TILES:
                    self._tiles.popitem(last=False)
        if kept is not None:
            return kept.result()
        try:
            mine.set_result(self._answer(row, col))
        except BaseException as error:
            mine.set_exception(error)
            raise
        return mine.result()

    def _answer(self, row: int, col: int) -> U16:
        """The network over one tile: always the same size and one thread, so always the same bits."""
        import torch

        per_px = self._grid.mpp / self._grid.um_l0
        y, x = row * TILE_PX, col * TILE_PX
        height, width = self._grid.sampling.shape
        outside = y >= height or x >= width or row < 0 or col < 0
        if outside or not self._tissue.covers(y * per_px, x * per_px, TILE_PX * per_px, TILE_PX * per_px):
            return np.zeros((2, TILE_PX, TILE_PX), np.uint16)
        edge = TILE_PX + 2 * RADIUS_PX
        rgb = read_window(self._slide, self._grid.sampling, y - RADIUS_PX, x - RADIUS_PX, edge, edge)
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        with torch.no_grad():
            logits = self._network(torch.from_numpy(haematoxylin(rgb))[None, None])[0]
            inner = logits[:, RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX].sigmoid()
        answer: U16 = (inner * 65535).round().numpy().astype(np.uint16)
        return answer


def find_centres(centre: U16, mpp: float, box: Box) -> NDArray[np.float64]:
    """Centres of nuclei in a window, float (n, 2) of (y, x) in grid px of the slide (middle of px 0 at 0.5).

    Right where `APART_UM` lies inside the window.
    """
    reach = max(1, int(np.floor(APART_UM / mpp)))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    highest = ndimage.maximum_filter(centre, footprint=np.hypot(dy, dx) <= APART_UM / mpp, mode="constant")
    y, x = np.nonzero((centre == highest) & (centre >= round(CENTRE * 65535)))
    # Of equal neighbours the first in reading order stays.
    pairs = cKDTree(np.stack([y, x], axis=1)).query_pairs(APART_UM / mpp, output_type="ndarray")
    first = np.ones(len(y), bool)
    first[pairs.max(axis=1) if len(pairs) else []] = False
    y, x = y[first], x[first]
    # Between pixels: the top of a parabola through each maximum and its neighbours.
    padded = np.pad(centre, 1).astype(np.float64)

    def top(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
        bend = 2 * padded[y + 1, x + 1] - before - after
        shift: NDArray[np.float64] = np.where(bend > 0, (after - before) / np.maximum(2 * bend, 1), 0)
        return shift.clip(-0.5, 0.5)

    place_y = y + box.y + 0.5 + top(padded[y, x + 1], padded[y + 2, x + 1])
    place_x = x + box.x + 0.5 + top(padded[y + 1, x], padded[y + 1, x + 2])
    return np.stack([place_y, place_x], axis=1)


def twice_as_fine(values: U16) -> NDArray[np.uint32]:
    """A map (h, w) at half its pixel size, uint32 (2h, 2w), linear between pixel centres, times 16; exact."""
    padded = np.pad(values.astype(np.uint32), 1, mode="edge")
    rows = np.empty((2 * values.shape[0], padded.shape[1]), np.uint32)
    rows[0::2] = 3 * padded[1:-1] + padded[:-2]
    rows[1::2] = 3 * padded[1:-1] + padded[2:]
    fine = np.empty((rows.shape[0], 2 * values.shape[1]), np.uint32)
    fine[:, 0::2] = 3 * rows[:, 1:-1] + rows[:, :-2]
    fine[:, 1::2] = 3 * rows[:, 1:-1] + rows[:, 2:]
    return fine


def label_nuclei(nucleus: U16, centres: NDArray[np.float64], mpp: float, box: Box) -> I32:
    """Labels int32 (2h, 2w) of a window: k + 1 on the nucleus of centre k, 0 elsewhere.

    A pixel of nucleus belongs to the nearest centre within `REACH_UM`; of a label in pieces the largest is kept.
    """
    is_nucleus = twice_as_fine(nucleus) >= round(NUCLEUS * 65535) * 16
    labels = np.zeros(is_nucleus.shape, np.int32)
    if not len(centres):
        return labels
    y, x = np.nonzero(is_nucleus)
    # Places of the whole slide, so that distances are the same numbers in every window.
    places = np.stack([box.y + (y + 0.5) / FINE, box.x + (x + 0.5) / FINE], axis=1)
    _, nearest = cKDTree(centres).query(places, distance_upper_bound=REACH_UM / mpp)
    near = nearest < len(centres)
    labels[y[near], x[near]] = nearest[near] + 1
    return largest_pieces(labels)


def largest_pieces(labels: I32) -> I32:
    """Labels of which only the largest connected piece is left; of equal ones the first in reading order."""
    from skimage.measure import label as connected

    pieces = connected(labels, connectivity=1)
    n = int(pieces.max())
    if not n:
        return labels
    area = np.bincount(pieces.ravel(), minlength=n + 1)[1:]
    flat, first = np.unique(pieces.ravel(), return_index=True)
    of = labels.ravel()[first[flat > 0]]
    order = np.lexsort((first[flat > 0], -area, of))
    best = np.zeros(n + 1, bool)
    best[1 + order[np.r_[True, of[order][1:] != of[order][:-1]]]] = True
    return np.where(best[pieces], labels, 0).astype(np.int32)
