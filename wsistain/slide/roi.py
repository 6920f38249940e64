"""Regions of interest: a rectangle, or areas drawn in QuPath, in level-0 pixels of the slide."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from wsistain.errors import ConfigError
from wsistain.slide.base import SlideInfo

Ring = NDArray[np.float64]
"""float (n, 2) of (y, x) corners in level-0 px."""

FAR_PX = 1e12
"""Corners further out than this are refused: no slide is that large, and sums of their products would overflow."""


@dataclass(frozen=True)
class Roi:
    """Areas on a slide: polygons, each an outline and its holes, level-0 px.

    source : where they came from, for messages.
    """

    polygons: tuple[tuple[Ring, ...], ...]
    source: str

    @property
    def bounds_l0(self) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the smallest box of whole level-0 px around all areas."""
        corners = np.concatenate([rings[0] for rings in self.polygons])
        y0, x0 = (int(v) for v in np.floor(corners.min(axis=0)))
        y1, x1 = (int(v) for v in np.ceil(corners.max(axis=0)))
        return y0, x0, y1 - y0, x1 - x0

    def mask(self, info: SlideInfo, downsample: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where the areas are in a mask of the whole slide: bool `shape`, True for mask px whose centre lies in one.

        downsample : level-0 px per mask px. However small, an area has at least the mask px that hold its corners.
        ConfigError when no area touches the slide.
        """
        y, x, height, width = self.bounds_l0
        if y >= info.size_l0[0] or x >= info.size_l0[1] or y + height <= 0 or x + width <= 0:
            raise ConfigError(
                f"{self.source} lies outside the slide of {info.size_l0[1]} x {info.size_l0[0]} px; "
                "give level-0 px of this slide"
            )
        out = np.zeros(shape, bool)
        for rings in self.polygons:
            _fill(out, [ring / downsample for ring in rings])
        return out


def _fill(out: NDArray[np.bool_], rings: list[Ring]) -> None:
    """Set the pixels of a polygon with holes, corners in mask px; works in its box only."""
    low = np.clip(np.floor(rings[0].min(axis=0)), 0, out.shape).astype(int)
    high = np.clip(np.ceil(rings[0].max(axis=0)) + 1, 0, out.shape).astype(int)
    if (high <= low).any():
        return
    box = tuple(int(n) for n in high - low)
    area = polygon2mask(box, rings[0] - low - 0.5)
    for hole in rings[1:]:
        area &= ~polygon2mask(box, hole - low - 0.5)
    if not area.any():
        corners = np.floor(rings[0] - low).astype(int)
        inside = ((corners >= 0) & (corners < box)).all(axis=1)
        area[tuple(corners[inside].T)] = True
    out[low[0] : high[0], low[1] : high[1]] |= area


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


def read_roi(path: Path) -> Roi:
    """The areas in a GeoJSON file as QuPath exports it: a FeatureCollection, a list of features, or one object.

    Polygons and multipolygons with holes count (QuPath writes rectangles, ellipses and brush strokes as these), of any
    class, locked or not; points and lines have no area and are passed over. Coordinates are (x, y) in level-0 px.

    ConfigError when the file cannot be read, is not GeoJSON, holds no area, or a corner beyond `FAR_PX`.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it is not a text of GeoJSON"
        raise ConfigError(f"{path} is not GeoJSON: {reason}; export the annotations from QuPath again") from None
    polygons: list[tuple[Ring, ...]] = []
    try:
        _collect(document, polygons, str(path))
    except RecursionError:
        raise ConfigError(f"{path} is not GeoJSON as QuPath exports it: it is nested too deep") from None
    if not polygons:
        raise ConfigError(f"{path} holds no area; draw a polygon, rectangle or ellipse in QuPath and export it again")
    return Roi(tuple(polygons), str(path))


def _collect(node: Any, polygons: list[tuple[Ring, ...]], where: str) -> None:
    if isinstance(node, list):
        for item in node:
            _collect(item, polygons, where)
        return
    if not isinstance(node, dict) or "type" not in node:
        raise ConfigError(f"{where} is not GeoJSON as QuPath exports it; wanted features with a geometry")
    match node["type"]:
        case "FeatureCollection":
            _collect(node.get("features"), polygons, where)
        case "Feature":
            if node.get("geometry") is not None:  # GeoJSON allows features without a place
                _collect(node["geometry"], polygons, where)
        case "GeometryCollection":
            _collect(node.get("geometries"), polygons, where)
        case "Polygon":
            _add_polygon(node.get("coordinates"), polygons, where)
        case "MultiPolygon":
            several = node.get("coordinates")
            if not isinstance(several, list):
                raise ConfigError(f"{where} holds a multipolygon without coordinates")
            for coordinates in several:
                _add_polygon(coordinates, polygons, where)
        case "Point" | "MultiPoint" | "LineString" | "MultiLineString":
            return
        case other:
            raise ConfigError(f"{where} holds a GeoJSON object of type {other!r}, which is unknown")


def _add_polygon(coordinates: Any, polygons: list[tuple[Ring, ...]], where: str) -> None:
    """Append a polygon unless its outline has no area."""
    try:
        rings = tuple(np.array([(p[1], p[0]) for p in ring], np.float64).reshape(-1, 2) for ring in coordinates)
    except (TypeError, IndexError, KeyError, ValueError):
        raise ConfigError(f"{where} holds a polygon whose coordinates are not rings of (x, y)") from None
    except OverflowError:  # a whole number of hundreds of digits
        rings = (np.full((1, 2), np.inf),)
    if any(np.isnan(ring).any() for ring in rings):
        raise ConfigError(f"{where} holds a polygon with a corner that is not a number")
    if any((np.abs(ring) > FAR_PX).any() for ring in rings):
        raise ConfigError(
            f"{where} holds a polygon with a corner further out than any slide reaches; wanted level-0 px"
        )
    if rings and _area(rings[0]) > 0:
        polygons.append((rings[0], *(hole for hole in rings[1:] if _area(hole) > 0)))


def _area(ring: Ring) -> float:
    """Area within a ring, px2 (shoelace formula), from corners relative to the first for the sake of precision."""
    y, x = (ring - ring[:1]).T
    return abs(float(np.sum(y * np.roll(x, 1) - x * np.roll(y, 1)))) / 2
