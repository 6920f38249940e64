"""The stain at each cell: density of the dye in the marker's compartment, the cell's class, how complete its membrane is.

**One definition.** The class of a cell comes from the marker's cut-offs of cells (`Marker.at_cells`) and nothing else;
a cell is positive from the marker's own grade on (`Marker.positive_cell_od`). What is compared with them is what
`wsistain.evaluation.pathology.cell_od` reads at its centre: the core of a nucleus, since its rim is thin and pale, or the ring
round it for which the cut-offs of the other compartments were measured.

**HER2 is the exception**, as it is for people: its cells are classed by how complete and how strong their membranes are
(`wsistain.reading.membranes`), which a mean over a ring does not tell: it holds the membranes of the neighbours.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsistain.evaluation.pathology import cell_od
from wsistain.markers import MARKERS, Marker
from wsistain.optics.scoring import stain_od
from wsistain.output.layout import PROBABILITY
from wsistain.output.reading import StoredStain, open_level, read_window
from wsistain.reading.cells import I32, Nuclei
from wsistain.reading.grid import FINE, Box, Grid
from wsistain.reading.membranes import DIRECTIONS, MEMBRANES, membrane_grades, membrane_od, reached_od

NOT_READ = -1
"""Class of a cell over which nothing was stained."""

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Readings:
    """The stain at n cells.

    od         : optical density of the marker's dye in its compartment, NaN where the stain does not reach.
    grade      : int8, 0 negative, 1, 2, 3, and `NOT_READ`.
    complete   : share of the directions in which a membrane is stained, 0..1; None for other compartments.
    probability: what the generator itself says that the cell is positive, 0..1; None where it says nothing.
    membrane   : density that half of the directions of a membrane reach, and `dense` a sixth; None for other compartments.
    deciding   : the density by which a cell is positive (`positive_from`): `od`, and of HER2 `membrane`.
    """

    od: F64
    grade: NDArray[np.int8]
    complete: F64 | None
    probability: F64 | None
    membrane: F64 | None = None
    dense: F64 | None = None
    deciding: F64 | None = None


class StainReader:
    """A finished stain, to be read at the cells of any window. Memory is that of the window.

    stain : as `read_stain` tells it; marker: of the stain; grid: of its H&E.
    """

    def __init__(self, stain: StoredStain, marker: Marker, grid: Grid) -> None:
        self.stain, self.marker, self.grid = stain, marker, grid
        self._array: zarr.Array[Any] = open_level(stain.path, 0)
        self._origin = stain.origin_um
        layers = stain.provenance.get("layers")
        has_p = isinstance(layers, list) and PROBABILITY.folder in layers
        self._p: zarr.Array[Any] | None = open_level(Path(stain.path) / PROBABILITY.folder, 0) if has_p else None

    def read(self, nuclei: Nuclei, labels: I32, box: Box, every: Nuclei | None = None) -> Readings:
        """The stain at `nuclei`, whose labels int32 (2h, 2w) lie in the grid window `box`. every: all nuclei of the window, whose
        territories end theirs; None: there are no others.
        """
        mpp, (height, width) = self.stain.mpp, self.stain.levels[0]
        oy, ox = self._origin
        # The window of the stain under the box, cut at the stain's edge.
        y0, x0 = (int(np.floor((n * self.grid.mpp - o) / mpp)) for n, o in ((box.y, oy), (box.x, ox)))
        y1, x1 = (
            int(np.ceil((n * self.grid.mpp - o) / mpp)) for n, o in ((box.y + box.height, oy), (box.x + box.width, ox))
        )
        y0, x0, y1, x1 = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
        if not len(nuclei) or y1 <= y0 or x1 <= x0:
            return self._nothing(len(nuclei))
        rgb = read_window(self._array, y0, x0, y1 - y0, x1 - x0)
        # Clear glass over a nucleus is no negative cell: nothing was stained there.
        density = stain_od(rgb, self.marker.chromogen)
        blank = (rgb == 255).all(axis=2)
        centre_y = np.floor((nuclei.y - oy) / mpp).astype(np.int64) - y0
        centre_x = np.floor((nuclei.x - ox) / mpp).astype(np.int64) - x0
        at, compartment = (centre_y, centre_x), self.marker.compartment
        reached = self._is_stained(labels, box, y0, x0, ~blank, nuclei)
        od = np.where(reached, cell_od(density, *at, compartment=compartment, mpp=mpp), np.nan)
        probability = None
        if self._p is not None:
            p = (read_window(self._p, y0, x0, *blank.shape)[..., 0] / 255).astype(np.float32)
            probability = np.where(reached, cell_od(p, *at, compartment=compartment, mpp=mpp), np.nan)
        if compartment != "membranous":
            return Readings(od, grades(od, self.marker), None, probability, deciding=od)
        directions = membrane_od(density, (y0, x0), self._origin, mpp, nuclei, nuclei if every is None else every)
        return self._ringed(od, directions, probability)

    def _ringed(self, od: F64, directions: NDArray[np.float32], probability: F64 | None) -> Readings:
        """Readings of a membranous marker. od: mean of the ring, NaN where nothing was stained."""
        known = np.isfinite(od)
        (_, (complete_od, n_complete), (_, n_dense)) = MEMBRANES
        complete = (directions >= complete_od).sum(axis=1) / DIRECTIONS
        membrane, dense = (np.where(known, reached_od(directions, n), np.nan) for n in (n_complete, n_dense))
        if not classed_by_membranes(self.marker):
            return Readings(od, grades(od, self.marker), complete, probability, membrane, dense, od)
        grade = np.where(known, membrane_grades(directions), NOT_READ).astype(np.int8)
        return Readings(od, grade, complete, probability, membrane, dense, membrane)

    def _nothing(self, n: int) -> Readings:
        od = np.full(n, np.nan)
        none = od if self.marker.compartment == "membranous" else None
        return Readings(od, grades(od, self.marker), none, None if self._p is None else od, none, none, od)

    def _is_stained(
        self, labels: I32, box: Box, y0: int, x0: int, stained: NDArray[np.bool_], nuclei: Nuclei
    ) -> NDArray[np.bool_]:
        """Over which nuclei half or more was stained; `stained` bool (h, w) of the stain's window at (y0, x0)."""
        rows = self._pixels(box.y, labels.shape[0], self._origin[0]) - y0
        cols = self._pixels(box.x, labels.shape[1], self._origin[1]) - x0
        inside = ((rows >= 0) & (rows < stained.shape[0]))[:, None] & ((cols >= 0) & (cols < stained.shape[1]))
        if inside.all() and stained.all():
            return np.ones(len(nuclei), bool)
        at = np.ix_(rows.clip(0, stained.shape[0] - 1), cols.clip(0, stained.shape[1] - 1))
        n = int(labels.max())
        count = np.bincount(labels.ravel(), minlength=n + 1)
        known = np.bincount(labels[inside & stained[at]], minlength=n + 1)
        enough: NDArray[np.bool_] = ((2 * known >= count) & (known > 0))[nuclei.label]
        return enough

    def _pixels(self, start: int, n: int, origin: float) -> NDArray[np.int64]:
        """The stain px under the middle of each of n label px from grid px `start` on."""
        um = (FINE * start + np.arange(n) + 0.5) * self.grid.label_mpp
        pixels: NDArray[np.int64] = np.floor((um - origin) / self.stain.mpp).astype(np.int64)
        return pixels


def classed_by_membranes(marker: Marker) -> bool:
    """Whether the classes of a marker's cells are those of its membranes: HER2's, as its guideline has it.

    Not where a user's file gives HER2 other cut-offs of cells, or another dye: those are then what counts.
    """
    own = MARKERS["HER2"]
    return all(getattr(marker, n) == getattr(own, n) for n in ("name", "compartment", "chromogen", "at_cells"))


def positive_from(marker: Marker) -> float:
    """`Readings.deciding` from which on a cell is positive."""
    return MEMBRANES[1][0] if classed_by_membranes(marker) else marker.positive_cell_od


def grades(od: F64, marker: Marker) -> NDArray[np.int8]:
    """Class of each cell, int8 (n,): how many of the marker's cut-offs of cells it reaches; `NOT_READ` where NaN."""
    reached = np.searchsorted(np.array(marker.at_cells), od, side="right")
    return np.where(np.isfinite(od), reached, NOT_READ).astype(np.int8)
