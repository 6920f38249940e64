"""Regions of interest: a rectangle, or areas drawn in QuPath, in level-0 pixels of the slide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.slide.base import SlideInfo

Ring = NDArray[np.float64]
"""float (n, 2) of (y, x) corners in level-0 px."""

Polygon = tuple[Ring, ...]
"""An outline and its holes. What an outline winds round is inside, however often and whichever way it crosses itself."""

FAR_PX = 1e12
"""Corners further out than this are refused: no slide is that large, and sums of their products would overflow."""

MOST_CROSSINGS = 100_000_000
"""Rows of mask px that the edges of one outline may cross: an honest one crosses as many as it is long, a few thousand."""

_CROSSINGS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """One drawn shape of one or more polygons. kind: its class, in words; name: what whoever drew it called it, or ""."""

    kind: str
    name: str
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True)
class Roi:
    """Areas on a slide, level-0 px.

    polygons : what is wanted, each an outline and its holes.
    source   : where they came from, for messages.
    ignored  : what is cut out of them, as QuPath's class `Ignore*` asks.
    classes  : the classes that were asked for; empty for all.
    notes    : sentences for the user on what was read and what was left out.
    shapes   : the shapes that `polygons` are of, in the order of the file; empty for what nobody drew.
    """

    polygons: tuple[Polygon, ...]
    source: str
    ignored: tuple[Polygon, ...] = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()

    @property
    def bounds_l0(self) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the smallest box of whole level-0 px around all areas."""
        corners = np.concatenate([rings[0] for rings in self.polygons])
        y0, x0 = (int(v) for v in np.floor(corners.min(axis=0)))
        y1, x1 = (int(v) for v in np.ceil(corners.max(axis=0)))
        return y0, x0, y1 - y0, x1 - x0

    def n_outside(self, info: SlideInfo) -> int:
        """How many of the areas do not touch the slide at all."""
        return sum(_is_outside(rings[0], info) for rings in self.polygons)

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for provenance: how many areas, of which classes, how many were cut out of them."""
        return {"areas": len(self.polygons), "classes": list(self.classes), "ignored_areas": len(self.ignored)}

    def mask(self, info: SlideInfo, downsample: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where the areas are in a mask of the whole slide: bool `shape`, True for mask px whose centre lies in one.

        downsample : level-0 px per mask px. However small, an area has at least the mask px that hold its corners.
        ConfigError when no area touches the slide, or nothing is left of those that do.
        """
        if self.n_outside(info) == len(self.polygons):
            raise ConfigError(
                f"{self.source} lies outside the slide of {info.size_l0[1]} x {info.size_l0[0]} px; "
                "give level-0 px of this slide, x to the right and y downwards from its upper left corner"
            )
        out = np.zeros(shape, bool)
        for rings in self.polygons:
            _fill(out, [ring / downsample for ring in rings], True, self.source)
        for rings in self.ignored:
            _fill(out, [ring / downsample for ring in rings], False, self.source)
        if self.ignored and not out.any():
            raise ConfigError(
                f"{self.source} has no area left: shapes of an ignored class cover all of it; draw elsewhere, or remove them"
            )
        return out


def _is_outside(outline: Ring, info: SlideInfo) -> bool:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return bool((low >= info.size_l0).any() or (high <= 0).any())


def _fill(out: NDArray[np.bool_], rings: Sequence[Ring], value: bool, source: str) -> None:
    """Set the pixels of a polygon with holes to `value`, corners in mask px; works in its box only."""
    low = np.clip(np.floor(rings[0].min(axis=0)), 0, out.shape).astype(int)
    high = np.clip(np.ceil(rings[0].max(axis=0)) + 1, 0, out.shape).astype(int)
    if (high <= low).any():
        return
    box = (int(high[0] - low[0]), int(high[1] - low[1]))
    area = inside(rings[0] - low, box, source)
    for hole in rings[1:]:
        area &= ~inside(hole - low, box, source)
    if value and not area.any():
        corners = np.floor(rings[0] - low).astype(int)
        held = ((corners >= 0) & (corners < box)).all(axis=1)
        area[tuple(corners[held].T)] = True
    out[low[0] : high[0], low[1] : high[1]][area] = value


def inside(ring: Ring, shape: tuple[int, int], source: str = "a polygon") -> NDArray[np.bool_]:
    """bool `shape`: pixels round whose centre a ring winds at least once; ring (n, 2) of (y, x) px, closed by itself.

    Both halves of a bow-tie are inside, and so is what an outline goes round twice. Time grows with the rows that the
    edges cross and with the area of `shape`, and is bounded: ConfigError beyond `MOST_CROSSINGS`.
    """
    height, width = shape
    y0, x0 = (ring - 0.5).T
    y1, x1 = np.roll(y0, -1), np.roll(x0, -1)
    sign = np.where(y1 > y0, 1, -1)
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, height).astype(np.int64)  # rows whose centre an edge crosses:
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, height).astype(np.int64)  # lower end in, upper end out
    ends = np.cumsum(last - first)
    if ends.size and ends[-1] > MOST_CROSSINGS:
        raise ConfigError(f"{source} holds an outline that runs to and fro across the slide; draw round the area")
    # How the winding number changes from one pixel to the next, edge by edge, some edges at a time.
    turns = np.zeros(height * (width + 1), np.int32)
    edges = np.flatnonzero(last > first)
    while edges.size:
        start = ends[edges[0]] - (last - first)[edges[0]]
        n = max(1, int(np.searchsorted(ends[edges], start + _CROSSINGS_AT_ONCE, "right")))
        part, edges = edges[:n], edges[n:]
        counts = (last - first)[part]
        of = np.repeat(part, counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[of]
        across = x0[of] + (row - y0[of]) * ((x1[of] - x0[of]) / (y1[of] - y0[of]))
        column = np.clip(np.ceil(across), 0, width).astype(np.int64)
        np.add.at(turns, row * (width + 1) + column, sign[of].astype(np.int32))

    # Summed along each row it is the winding number itself.
    winding = turns.reshape(height, width + 1)
    np.cumsum(winding, axis=1, out=winding)
    found: NDArray[np.bool_] = winding[:, :width] != 0
    return found


def parse_region(text: str) -> Roi:
    """The rectangle of `--region X,Y,W,H` (level-0 px).

    ConfigError when it is not four whole numbers with an area, or reaches beyond `FAR_PX`.
    """
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--region {text!r} is not X,Y,W,H in level-0 px, as in --region 1000,2000,4096,4096"
        ) from None
    if width <= 0 or height <= 0:
        raise ConfigError(f"--region {text!r} has no area; wanted a width and height above 0")
    if max(abs(x), abs(y), width, height) > FAR_PX:
        raise ConfigError(f"--region {text[:60]!r} reaches further than any slide; wanted level-0 px")
    ring = np.array([(y, x), (y, x + width), (y + height, x + width), (y + height, x)], np.float64)
    return Roi(((ring,),), f"--region {text}")
