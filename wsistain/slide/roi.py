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
        """bool (h, w): mask px whose centre lies in an area; ConfigError when the areas miss the slide."""
        y, x, height, width = self.bounds_l0
        if y >= info.size_l0[0] or x >= info.size_l0[1] or y + height <= 0 or x + width <= 0:
            raise ConfigError(
                f"{self.source} lies outside the slide of {info.size_l0[1]} x {info.size_l0[0]} px; "
                "give level-0 px of this slide"
            )
        out = np.zeros(shape, bool)
        for rings in self.polygons:
            area = polygon2mask(shape, rings[0] / downsample - 0.5)
            for hole in rings[1:]:
                area &= ~polygon2mask(shape, hole / downsample - 0.5)
            out |= area
        return out


def parse_region(text: str) -> Roi:
    """The rectangle of `--region X,Y,W,H` (level-0 px); ConfigError when it is not four whole numbers with an area."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--region {text!r} is not X,Y,W,H in level-0 px, as in --region 1000,2000,4096,4096"
        ) from None
    if width <= 0 or height <= 0:
        raise ConfigError(f"--region {text!r} has no area; wanted a width and height above 0")
    ring = np.array([(y, x), (y, x + width), (y + height, x + width), (y + height, x)], np.float64)
    return Roi(((ring,),), f"--region {text}")


def read_roi(path: Path) -> Roi:
    """The areas in a GeoJSON file as QuPath exports it."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as GeoJSON: {error}") from None
    polygons: list[tuple[Ring, ...]] = []
    _collect(document, polygons, str(path))
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
            _collect(node.get("geometry"), polygons, where)
        case "GeometryCollection":
            _collect(node.get("geometries"), polygons, where)
        case "Polygon":
            polygons.append(_rings(node.get("coordinates"), where))
        case "MultiPolygon":
            for coordinates in node.get("coordinates") or []:
                polygons.append(_rings(coordinates, where))
        case "Point" | "MultiPoint" | "LineString" | "MultiLineString":
            return
        case other:
            raise ConfigError(f"{where} holds a GeoJSON object of type {other!r}, which is unknown")


def _rings(coordinates: Any, where: str) -> tuple[Ring, ...]:
    try:
        rings = tuple(np.array([(p[1], p[0]) for p in ring], np.float64) for ring in coordinates)
    except (TypeError, IndexError, ValueError):
        raise ConfigError(f"{where} holds a polygon whose coordinates are not rings of (x, y)") from None
    if not rings or any(len(ring) < 3 or not np.isfinite(ring).all() for ring in rings):
        raise ConfigError(f"{where} holds a polygon with fewer than three corners, or corners that are not numbers")
    return rings
