"""Glass away from tissue: what a generator paints there fades to blank over a short distance, and is not cut.

A generator shows glass in a tint of its own, which would outline every tile that holds some tissue. A lattice of one
bit every 64 output px says whether there is tissue near; between its nodes a pixel's share of stain is interpolated in
integers, so it depends on the pixel's own place alone.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsistain.slide.tissue import TissueMask

RGB = NDArray[np.uint8]
Lattice = NDArray[np.bool_]

STEP = 64
"""Output px between nodes. A node is set where tissue lies within one step; every tissue pixel keeps its full stain."""

GLASS = 255


def touches(tissue: TissueMask, ys: NDArray[np.floating], xs: NDArray[np.floating], size: float) -> Lattice:
    """Whether tissue touches the square windows of edge `size` at each (y, x), level-0 px: bool (len(ys), len(xs))."""
    h, w = tissue.mask.shape
    table = np.zeros((h + 1, w + 1), np.int64)
    np.cumsum(np.cumsum(tissue.mask, axis=0), axis=1, out=table[1:, 1:])
    top, left = (np.clip(np.floor(v / tissue.downsample), 0, n).astype(int) for v, n in ((ys, h), (xs, w)))
    bottom = np.clip(np.ceil((ys + size) / tissue.downsample), top, h).astype(int)
    right = np.clip(np.ceil((xs + size) / tissue.downsample), left, w).astype(int)
    rows = table[bottom] - table[top]
    found: Lattice = rows[:, right] - rows[:, left] > 0
    return found


def fade_lattice(tissue: TissueMask, shape: tuple[int, int], per_px: float) -> Lattice:
    """The lattice of a slide: bool (rows, cols), node (i, j) at output px (64 i, 64 j).

    shape : (height, width) of the whole slide, output px. per_px: level-0 px per output px.
    """
    ys, xs = (np.arange(-(-n // STEP) + 1) * float(STEP) for n in shape)
    return touches(tissue, (ys - STEP) * per_px, (xs - STEP) * per_px, 2 * STEP * per_px)


def fade(pixels: RGB, lattice: Lattice, y: int, x: int) -> RGB:
    """`pixels` uint8 (h, w, 3) with what lies away from tissue faded to 255, in place; returns them.

    y, x : output px of the first pixel in the slide's frame.
    """
    h, w = pixels.shape[:2]
    for i in range(y // STEP, (y + h - 1) // STEP + 1):
        corners = lattice[i : i + 2]
        for first, last, state in _runs(corners, x // STEP, (x + w - 1) // STEP):
            if state == _FULL:
                continue
            rows = slice(max(i * STEP - y, 0), min((i + 1) * STEP - y, h))
            cols = slice(max(first * STEP - x, 0), min((last + 1) * STEP - x, w))
            if state == _NONE:
                pixels[rows, cols] = GLASS
                continue
            share = _share(corners, first, last)
            cut = share[
                rows.start + y - i * STEP : rows.stop + y - i * STEP,
                cols.start + x - first * STEP : cols.stop + x - first * STEP,
            ]
            part = pixels[rows, cols].astype(np.int32)
            mixed = part * cut[..., None] + (GLASS * STEP * STEP - GLASS * cut[..., None]) + STEP * STEP // 2
            pixels[rows, cols] = mixed // (STEP * STEP)
    return pixels


_NONE, _MIXED, _FULL = 0, 1, 2


def _runs(corners: Lattice, first: int, last: int) -> list[tuple[int, int, int]]:
    """Runs of cells of one state between columns `first` and `last` of a row of cells: (first, last, state)."""
    n = corners[:, first : last + 1].sum(axis=0) + corners[:, first + 1 : last + 2].sum(axis=0)
    states = np.where(n == 0, _NONE, np.where(n == 4, _FULL, _MIXED))
    cuts = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
    return [(first + a, first + b - 1, int(states[a])) for a, b in pairwise(cuts)]


def _share(corners: Lattice, first: int, last: int) -> NDArray[np.int32]:
    """Share of stain in 4096ths over a run of cells: int32 (64, 64 * cells)."""
    nodes = corners[:, first : last + 2].astype(np.int32)
    t = np.arange(STEP, dtype=np.int32)
    along = nodes[:, :-1, None] * (STEP - t) + nodes[:, 1:, None] * t  # (2, cells, 64)
    rows = along.reshape(2, -1)
    share: NDArray[np.int32] = rows[0][None, :] * (STEP - t)[:, None] + rows[1][None, :] * t[:, None]
    return share
