"""Which cell a pixel belongs to: distances to the nearest of many centres, exact at every pixel and cheap."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsistain.phantom.noise import F32

COARSE_PX = 4
Places = NDArray[np.floating]


def nearest_centres(
    centres: NDArray[np.floating],
    less: F32,
    py: Places,
    px: Places,
    y: int,
    x: int,
    where: NDArray[np.intp],
    k: int,
    keep: int,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """(distance less `less`, index), each (keep, n), of the centres nearest to the pixels `where`, nearest first.

    centres : (n, 2) (y, x); less: (n,) what is taken off the distance to each, in the same unit.
    py, px  : (h, w) places of the window's pixels; y, x: the window's place on the slide, px.
    where   : (n,) flat indices into the window.
    k       : the k centres nearest to the middle of each square of `COARSE_PX` are looked at.
    """
    # Squares of the slide, not of the window, with a middle each.
    h, w = py.shape
    row = (np.arange(y, y + h) // COARSE_PX) - y // COARSE_PX
    col = (np.arange(x, x + w) // COARSE_PX) - x // COARSE_PX
    mid_r = np.clip((np.arange(row[-1] + 1) + y // COARSE_PX) * COARSE_PX + COARSE_PX // 2 - y, 0, h - 1)
    mid_c = np.clip((np.arange(col[-1] + 1) + x // COARSE_PX) * COARSE_PX + COARSE_PX // 2 - x, 0, w - 1)
    at = np.ix_(mid_r, mid_c)

    # The tree is asked once for each square that holds a pixel that is wanted.
    pr, pc = where // w, where % w
    n_cols = int(col[-1]) + 1
    coarse = row[pr] * n_cols + col[pc]
    used = np.zeros((int(row[-1]) + 1) * n_cols, bool)
    used[coarse] = True
    needed = np.flatnonzero(used)
    coarse = (np.cumsum(used) - 1)[coarse]
    middle = np.stack([py[at].ravel()[needed], px[at].ravel()[needed]], -1)
    near: NDArray[np.intp] = np.asarray(cKDTree(centres).query(middle, k=k)[1])

    # Relative to the first centre: places on a large slide have too many digits for float32.
    origin = centres[0]
    qy, qx = (centres[:, 0] - origin[0]).astype(np.float32), (centres[:, 1] - origin[1]).astype(np.float32)
    sy = (py.ravel()[where] - origin[0]).astype(np.float32)
    sx = (px.ravel()[where] - origin[1]).astype(np.float32)
    ny, nx, nl = qy[near], qx[near], less[near]

    # The nearest `keep` of the `k` candidates, each inserted into a sorted list of a few places.
    far = np.float32(1e9)
    best = np.full((keep, len(where)), far, np.float32)
    which = np.zeros((keep, len(where)), np.intp)
    for j in range(k):
        d = np.sqrt((sy - ny[coarse, j]) ** 2 + (sx - nx[coarse, j]) ** 2) - nl[coarse, j]
        index = near[coarse, j]
        for place in range(keep):
            closer = d < best[place]
            d, best[place] = np.where(closer, best[place], d), np.where(closer, d, best[place])
            if place < keep - 1:
                index, which[place] = np.where(closer, which[place], index), np.where(closer, index, which[place])
            else:
                which[place] = np.where(closer, index, which[place])
    return best, which
