"""The membrane of each cell: how dense its densest pixel is in each direction, looked for inside the cell's own territory.

A ring of fixed radius round a nucleus holds the membranes of the neighbours too, and of a strongly stained neighbour all the more. So a
ray ends where another nucleus is nearer: half of a membrane that two cells share belongs to each.

Source: completeness and intensity of membranes as Wolff et al., J Clin Oncol 2018, class the cells of HER2; the territory is that of
cell expansion (as in QuPath), with the nuclei as discs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsistain.reading.cells import Nuclei

DIRECTIONS = 24

MEMBRANES = ((0.046, 8), (0.076, 12), (0.391, 4))
"""Of HER2's 1+, 2+ and 3+: the density that a membrane reaches, and in how many of `DIRECTIONS`: faint in a third of them; in half of
them, complete as far as a section shows it; complete, and strong in a sixth. Set where as many cells of the phantom's aligned truth are
called as are so, slides 8100 to 8119.
"""

MEMBRANES_SOURCE = (
    "wsistain's own: slides 8100 to 8119 of the phantom, aligned truth; not validated on patients' slides"
)

INSIDE_UM, BEYOND_UM, OVER_UM = 0.5, 7.5, 1.0
"""A membrane lies from so far inside the edge of the nucleus to so far beyond it, and so far beyond the middle between two cells."""

RAYS_UM = np.arange(2.0, 11.01, 0.5)
"""Places along a ray, um from the centre."""

NEIGHBOURS, NEAR_UM = 10, 24.0
_AT_ONCE = 1024

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


def membrane_od(
    od: NDArray[np.float32],
    corner: tuple[int, int],
    origin_um: tuple[float, float],
    mpp: float,
    cells: Nuclei,
    every: Nuclei,
) -> F32:
    """Density of the membrane of each of n cells in each direction, float32 (n, DIRECTIONS), densest direction last.

    od        : optical density of the dye, float32 (h, w), a window of the stain; nothing is stained outside of it.
    corner    : (y, x) of the window in the stain, px. origin_um: (y, x) of the stain on the slide. mpp: um per px of the stain.
    cells     : whose membranes are wanted. every: all nuclei within `NEAR_UM` of them, themselves among them.
    """  # fmt: skip
    found = np.zeros((len(cells), DIRECTIONS), np.float32)
    if not len(cells):
        return found
    angle = (np.arange(DIRECTIONS) + 0.5) * 2 * np.pi / DIRECTIONS
    dy, dx = (RAYS_UM[None, :] * part[:, None] for part in (np.sin(angle), np.cos(angle)))
    centres, radius = np.stack([every.y, every.x], axis=1), np.sqrt(every.area_um2 / np.pi)
    mine = np.sqrt(cells.area_um2 / np.pi)
    k = min(NEIGHBOURS + 1, len(every))
    near = cKDTree(centres).query(
        np.stack([cells.y, cells.x], axis=1), k=[*range(1, k + 1)], distance_upper_bound=NEAR_UM
    )[1]
    for first in range(0, len(cells), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        y, x = cells.y[part, None, None] + dy, cells.x[part, None, None] + dx
        beyond = RAYS_UM - mine[part, None, None]
        own = np.broadcast_to((beyond >= -INSIDE_UM) & (beyond <= BEYOND_UM), y.shape).copy()
        for other in near[part].T:
            there = other < len(every)  # of itself it says nothing: the ray is as far from its own edge
            n = np.where(there, other, 0)
            theirs = np.hypot(y - centres[n, 0, None, None], x - centres[n, 1, None, None]) - radius[n, None, None]
            own &= (beyond <= theirs + OVER_UM) | ~there[:, None, None]
        # The px of the whole stain, so that a place is the same one in every window.
        rows, cols = (
            np.floor((v - o) / mpp).astype(np.int64) - c for v, o, c in zip((y, x), origin_um, corner, strict=True)
        )
        own &= (rows >= 0) & (rows < od.shape[0]) & (cols >= 0) & (cols < od.shape[1])
        values = od[rows.clip(0, od.shape[0] - 1), cols.clip(0, od.shape[1] - 1)]
        found[part] = np.where(own, values, 0).max(axis=2)
    found.sort(axis=1)
    return found


def reached_od(directions: F32, n: int) -> F64:
    """The density that `n` directions or more of each cell reach; directions: as `membrane_od` gives them."""
    return directions[:, DIRECTIONS - n].astype(np.float64)


def membrane_grades(directions: F32) -> NDArray[np.int8]:
    """0, 1, 2 or 3 for each cell, by `MEMBRANES`; int8 (n,)."""
    faint, complete, strong = (reached_od(directions, n) >= density for density, n in MEMBRANES)
    return np.select([complete & strong, complete, faint], [3, 2, 1], 0).astype(np.int8)
