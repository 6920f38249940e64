"""Which drawn region each cell lies in, and which cells count."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.slide.base import SlideInfo
from wsistain.slide.roi import Polygon, Ring, Shape
from wsistain.slide.roi_file import read_roi, roi_classes

F64 = NDArray[np.float64]
_AT_ONCE = 1 << 22

MOST_SHAPES = 1000
"""Of more drawn shapes not each is scored, but their classes alone."""


@dataclass(frozen=True)
class Region:
    """The areas of one drawn class, level-0 px.

    counts      : whether its cells count in the scores of the slide.
    is_left_out : whether the user left this class out, beside classes that do not count because others were asked for.
    """

    name: str
    polygons: tuple[Polygon, ...]
    ignored: tuple[Polygon, ...]
    counts: bool
    is_left_out: bool = False

    def smallest(self, y: F64, x: F64) -> F64:
        """Area in px of its smallest polygon that holds each place, level-0 px, float (n,); infinite outside of all."""
        found = np.full(len(y), np.inf)
        for polygon in self.polygons:
            here = _in_polygon(polygon, y, x)
            found[here] = np.minimum(found[here], _area(polygon))
        for polygon in self.ignored:
            found[_in_polygon(polygon, y, x)] = np.inf
        return found


@dataclass(frozen=True)
class Regions:
    """Drawn regions of a slide.

    regions : by class, in the order of the file.
    only    : cells outside every region that counts do not count.
    notes   : what was read and left out, for the user.
    shapes  : each drawn shape by a name of its own: what it is called, or its class and a number.
    """

    regions: tuple[Region, ...] = ()
    only: bool = False
    notes: tuple[str, ...] = ()
    shapes: dict[str, Shape] = field(default_factory=dict)

    def of(self, y: F64, x: F64) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
        """(name of the region, whether it counts) of each place, level-0 px.

        A class that the user left out wins over all others. Among those the smallest polygon has the cell, as in QuPath: a
        tumour that is drawn inside an outline of the tissue keeps its cells, whatever the order in the file.
        """
        name = np.full(len(y), "", dtype=object)
        counts = np.full(len(y), not self.only)
        best = np.full(len(y), np.inf)
        for region in self.regions:
            area = region.smallest(y, x)
            here = np.isfinite(area) & (best >= 0) if region.is_left_out else area < best
            name[here], counts[here] = region.name, region.counts
            best[here] = -1.0 if region.is_left_out else area[here]
        return name, counts


def read_regions(path: Path, wanted: Sequence[str], left_out: Sequence[str], info: SlideInfo) -> Regions:
    """The regions of a GeoJSON file as QuPath exports it.

    wanted   : classes whose cells alone count; empty: every class in the file that is not left out.
    left_out : classes whose cells do not count: benign ducts, folds, necrosis. Where nothing but those is drawn, all the
               rest of the slide counts.

    ConfigError as `read_roi`; for a class that is not there, or asked for and left out; when no area touches the slide.
    """
    names = roi_classes(path)
    both = sorted({n.lower() for n in wanted} & {n.lower() for n in left_out})
    if both:
        raise ConfigError(f"class {both[0]!r} is both asked for and left out; name it in one of --roi-class, --without")
    for one in (*wanted, *left_out):
        read_roi(path, [one])  # refuses a class that is not there, and names those that are

    def among(name: str, classes: Sequence[str]) -> bool:
        return any(name.lower() == c.lower() or name.lower().startswith(c.lower() + ":") for c in classes)

    if not names:
        read_roi(path)  # refuses a file without areas
    regions, notes, drawn = [], [], read_roi(path)
    for name in names:
        is_left_out = among(name, left_out)
        counts = not is_left_out and (not wanted or among(name, wanted))
        # those of this very class: of `Tumor: Positive` that is not `Tumor`
        polygons = tuple(p for shape in drawn.shapes if shape.kind == name for p in shape.polygons)
        if replace(drawn, polygons=polygons).n_outside(info) == len(polygons):
            notes.append(f"{path}: class {name} lies outside the slide")
        regions.append(Region(name, polygons, drawn.ignored, counts, is_left_out))
    if notes and len(notes) == len(names):
        raise ConfigError(
            f"{path} lies outside the slide of {info.size_l0[1]} x {info.size_l0[0]} px; give level-0 px of this slide"
        )
    shapes = _named(drawn.shapes)
    if len(shapes) > MOST_SHAPES:
        shapes = {}
        notes.append(
            f"{path} holds {len(drawn.shapes)} shapes, more than {MOST_SHAPES}: scored by class, not one by one"
        )
    only = bool(wanted) or any(r.counts for r in regions)
    said = ", ".join(f"{r.name} ({'counts' if r.counts else 'left out'})" for r in regions)
    return Regions(tuple(regions), only, (f"{path}: {said}", *notes), shapes)


def _named(shapes: Sequence[Shape]) -> dict[str, Shape]:
    """Each by its own name, or by its class and a number; of those that are called alike the later ones get a number too."""
    named: dict[str, Shape] = {}
    for shape in shapes:
        number = sum(other.kind == shape.kind for other in named.values()) + 1
        name, again = shape.name or f"{shape.kind} {number}", 2
        while name in named:
            name, again = f"{shape.name or shape.kind} ({again})", again + 1
        named[name] = shape
    return named


def in_polygons(polygons: Sequence[Polygon], y: F64, x: F64) -> NDArray[np.bool_]:
    """Which places lie in any of some polygons, bool (n,)."""
    inside = np.zeros(len(y), bool)
    for polygon in polygons:
        inside |= _in_polygon(polygon, y, x)
    return inside


def _area(polygon: Polygon) -> float:
    """px within the outline of a polygon, less its holes; of an outline that crosses itself about that."""
    sizes = [
        abs(float(y @ np.roll(x, -1) - x @ np.roll(y, -1))) / 2 for y, x in (ring.T.astype(float) for ring in polygon)
    ]
    return max(sizes[0] - sum(sizes[1:]), 0.0)


def _in_polygon(polygon: Polygon, y: F64, x: F64) -> NDArray[np.bool_]:
    outline = polygon[0]
    (y0, x0), (y1, x1) = outline.min(axis=0), outline.max(axis=0)
    near = np.flatnonzero((y >= y0) & (y <= y1) & (x >= x0) & (x <= x1))
    inside = np.zeros(len(y), bool)
    if near.size:
        found = in_ring(outline, y[near], x[near])
        for hole in polygon[1:]:
            found &= ~in_ring(hole, y[near], x[near])
        inside[near] = found
    return inside


def in_ring(ring: Ring, y: F64, x: F64) -> NDArray[np.bool_]:
    """Round which places a ring (k, 2) of (y, x) winds at least once, bool (n,)."""
    (ay, ax), (by, bx) = ring.T, np.roll(ring, -1, axis=0).T
    winding = np.zeros(len(y), np.int64)
    step = max(1, _AT_ONCE // max(len(ring), 1))
    for first in range(0, len(y), step):
        py, px = y[first : first + step, None], x[first : first + step, None]
        side = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
        up, down = (ay <= py) & (by > py) & (side > 0), (ay > py) & (by <= py) & (side < 0)
        winding[first : first + step] = up.sum(axis=1) - down.sum(axis=1)
    inside: NDArray[np.bool_] = winding != 0
    return inside
