"""Areas drawn in QuPath, as GeoJSON: which shapes of a file are areas, and which are left out and why."""

import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from wsistain.errors import ConfigError
from wsistain.slide.roi import FAR_PX, Polygon, Ring, Roi, Shape

MOST_BYTES = 512 << 20
"""Larger files are refused, packed or not: a million detected cells take about as much."""

_FREE_BYTES, _MOST_RATIO = 16 << 20, 100  # beyond so many bytes a packed file that grows more than this is a bomb

DETECTIONS = frozenset({"detection", "cell", "tile"})
"""Objects that QuPath found by itself. They are measured things, not regions that somebody drew."""

UNCLASSIFIED = "unclassified"
"""How shapes without a class are asked for, and named in notes."""

_OLD_TYPES = {  # QuPath 0.2 wrote the kind of an object in place of its id
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
}
_LENGTHS = frozenset(
    {"nm", "um", "µm", "\u03bcm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"}
    | {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "cm", "m", "inch", "inches", "degree", "degrees"}
)


@dataclass
class _Found:
    """What a file holds, gathered while it is read."""

    where: str
    classes: tuple[str, ...]
    wanted: list[Polygon] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    ignored: list[Polygon] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)  # shapes that are areas, by class
    left_out: Counter[str] = field(default_factory=Counter)  # shapes that are none, by why
    other: Counter[str] = field(default_factory=Counter)  # areas of classes that were not asked for


def read_roi(path: Path, classes: Sequence[str] = ()) -> Roi:
    """The areas in a GeoJSON file as QuPath exports it, plain or packed (.gz, .zip): a FeatureCollection, a list of
    features, or one object.

    classes : names of classes; only their shapes are areas. `Tumor` holds `Tumor: Positive`, `unclassified` those
              without a class, upper and lower case are the same. Empty: all classes.

    Polygons and multipolygons with holes count (QuPath writes rectangles, ellipses and brush strokes as these), locked
    or not. Shapes of a class that QuPath ignores (`Ignore*`, and others that end in a star, but for `Region*`) are cut
    out of the areas, unless they are asked for by name. Missing cores of a TMA, detections (cells, tiles), points,
    lines and shapes without an area are left out; `Roi.notes` counts them. Coordinates are (x, y) in level-0 px.

    ConfigError when the file cannot be read, is not GeoJSON, states other units than pixels, holds no area, none of a
    class that was asked for, or a corner beyond `FAR_PX`.
    """
    found = _Found(str(path), tuple(dict.fromkeys(name.strip() for name in classes if name.strip())))
    for document in read_documents(Path(path)):
        try:
            _collect(document, found, {})
        except RecursionError:
            raise ConfigError(f"{path} is not GeoJSON as QuPath exports it: it is nested too deep") from None
    _check_classes(found)
    if not found.wanted:
        only = f"; left out: {_listed(found.left_out)}" if found.left_out else ""
        raise ConfigError(
            f"{path} holds no area{only}; draw a polygon, rectangle or ellipse in QuPath and export the annotations again"
        )
    _check_scale(found)
    shapes = tuple(found.shapes)
    return Roi(tuple(found.wanted), str(path), tuple(found.ignored), found.classes, _notes(found), shapes)


def roi_classes(path: Path) -> tuple[str, ...]:
    """The classes of the areas in a GeoJSON file, in the order in which they appear first; `unclassified` among them.

    ConfigError as `read_roi`. Classes that QuPath ignores are none.
    """
    found = _Found(str(path), ())
    for document in read_documents(Path(path)):
        try:
            _collect(document, found, {})
        except RecursionError:
            raise ConfigError(f"{path} is not GeoJSON as QuPath exports it: it is nested too deep") from None
    return tuple(found.taken)


def read_documents(path: Path) -> list[Any]:
    """The JSON documents of a file, plain or packed: one, or one for each member of a .zip. Raises ConfigError."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file; wanted a GeoJSON file, as QuPath exports it")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES >> 20} MiB; export the annotations without the cells")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                texts = _unpacked([packed.open(name) for name in _members(packed, path)], len(data), path)
        elif data[:2] == b"\x1f\x8b":
            texts = _unpacked([gzip.GzipFile(fileobj=io.BytesIO(data))], len(data), path)
        else:
            texts = [data]
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ConfigError(f"{path} cannot be unpacked: {_one_line(error)}; export the annotations again") from None
    try:
        return [json.loads(text) for text in texts]
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it is not a text of GeoJSON"
        raise ConfigError(f"{path} is not GeoJSON: {reason}; export the annotations from QuPath again") from None


def _members(packed: zipfile.ZipFile, path: Path) -> list[str]:
    """The GeoJSON files in an archive, without what macOS adds of its own."""
    names = sorted(
        name
        for name in packed.namelist()
        if name.lower().endswith((".geojson", ".json"))
        and not name.startswith("__MACOSX/")
        and not name.rsplit("/", 1)[-1].startswith(".")
    )
    if not names:
        raise ConfigError(f"{path} holds no .geojson file; export the annotations from QuPath again")
    return names


def _unpacked(files: Sequence[IO[bytes] | gzip.GzipFile], packed_bytes: int, path: Path) -> list[bytes]:
    """All bytes of each packed file, as long as they grow like text does."""
    most = left = min(MOST_BYTES, max(_FREE_BYTES, _MOST_RATIO * packed_bytes))
    texts = []
    for file in files:
        with file:
            texts.append(file.read(left + 1))
        left -= len(texts[-1])
        if left < 0:
            raise ConfigError(f"{path} unpacks to more than {most >> 20} MiB, which no drawing needs; export it again")
    return texts


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _collect(node: Any, found: _Found, properties: dict[str, Any]) -> None:
    """Gather the areas of a GeoJSON object that belongs to a feature with these properties."""
    if isinstance(node, list):
        for item in node:
            _collect(item, found, properties)
        return
    if not isinstance(node, dict) or "type" not in node:
        raise ConfigError(f"{found.where} is not GeoJSON as QuPath exports it; wanted features with a geometry")
    _check_units(node, found.where)
    match node["type"]:
        case "FeatureCollection":
            _collect(node.get("features"), found, properties)
        case "Feature":
            _collect_feature(node, found)
        case "GeometryCollection":
            _collect(node.get("geometries"), found, properties)
        case "Polygon":
            _add([node.get("coordinates")], found, properties)
        case "MultiPolygon":
            several = node.get("coordinates")
            if not isinstance(several, list):
                raise ConfigError(f"{found.where} holds a multipolygon without coordinates")
            _add(several, found, properties)
        case "Point" | "MultiPoint":
            found.left_out["points"] += 1
        case "LineString" | "MultiLineString":
            found.left_out["lines"] += 1
        case other:
            raise ConfigError(f"{found.where} holds a GeoJSON object of type {str(other)[:60]!r}, which is unknown")


def _collect_feature(node: dict[str, Any], found: _Found) -> None:
    geometry, properties = node.get("geometry"), node.get("properties")
    if geometry is None:  # GeoJSON allows features without a place, as QuPath's root object
        return
    properties = properties if isinstance(properties, dict) else {}
    _check_units(properties, found.where)
    kind = properties.get("objectType", properties.get("object_type", _OLD_TYPES.get(str(node.get("id")), "")))
    kind = str(kind).lower()
    if kind in DETECTIONS:
        found.left_out["detections"] += 1
    elif str(properties.get("isMissing", False)).lower() == "true":
        found.left_out["missing TMA cores"] += 1
    else:
        _collect(geometry, found, properties)


def _check_units(node: dict[str, Any], where: str) -> None:
    """ConfigError where a file says that its numbers are not pixels."""
    system = node.get("crs")
    if system is not None:
        name = system.get("properties", system) if isinstance(system, dict) else system
        name = name.get("name", name) if isinstance(name, dict) else name
        raise ConfigError(
            f"{where} states a coordinate system ({str(name)[:60]!r}); wanted level-0 px (if they are, remove 'crs')"
        )
    for key in ("unit", "units"):
        unit = node.get(key)
        if isinstance(unit, str) and unit.strip().lower() in _LENGTHS:
            raise ConfigError(f"{where} states its coordinates in {unit[:30]!r}; wanted level-0 px, as QuPath exports")


def class_name(properties: dict[str, Any]) -> str:
    """The class of a shape as QuPath shows it, e.g. `Tumor: Positive`, fit to be printed; empty where it has none."""
    held = properties.get("classification")
    if isinstance(held, dict):
        held = held.get("name") or held.get("names")
    if isinstance(held, list):
        held = ": ".join(str(part) for part in held)
    return _printed(held)


def _printed(name: Any) -> str:
    """A name out of a file, fit to be printed; "" where it is none."""
    return "".join(c if c.isprintable() else "?" for c in name.strip()[:100]) if isinstance(name, str) else ""


def _parts(name: str) -> list[str]:
    return [part.strip().lower() for part in name.split(":")]


def is_ignored(name: str) -> bool:
    """Whether QuPath ignores a class: `Ignore*` and others with a star at the end, but for `Region*`, an area to work in."""
    return any((p.endswith("*") and p != "region*") or p in ("ignore", "ignored") for p in _parts(name))


def _is_asked_for(name: str, classes: Sequence[str]) -> bool:
    parts = _parts(name or UNCLASSIFIED)
    return any(parts[: len(wanted)] == wanted for wanted in map(_parts, classes))


def _add(several: list[Any], found: _Found, properties: dict[str, Any]) -> None:
    """Count a shape of one or more polygons where it belongs."""
    polygons = [p for p in (_polygon(rings, found.where) for rings in several) if p is not None]
    name = class_name(properties)
    asked = _is_asked_for(name, found.classes)
    if not polygons:
        found.left_out["shapes without an area"] += 1
    elif is_ignored(name) and not asked:
        found.ignored += polygons
        found.left_out[f"of class {name}"] += 1
    elif found.classes and not asked:
        found.other[name or UNCLASSIFIED] += 1
    else:
        found.wanted += polygons
        found.shapes.append(Shape(name or UNCLASSIFIED, _printed(properties.get("name")), tuple(polygons)))
        found.taken[name or UNCLASSIFIED] += 1


def _polygon(coordinates: Any, where: str) -> Polygon | None:
    """An outline and its holes, or None when the outline has no area."""
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
    if not rings or not _has_area(rings[0]):
        return None
    return (rings[0], *(hole for hole in rings[1:] if _has_area(hole)))


def _has_area(ring: Ring) -> bool:
    """Whether the corners of a ring do not all lie on one line; signed areas cancel out where an outline crosses itself."""
    if len(ring) < 3:
        return False
    sides = ring - ring[0]
    longest = sides[np.argmax(np.abs(sides).sum(axis=1))]
    length = float(np.hypot(*longest))
    return bool((np.abs(sides[:, 0] * longest[1] - sides[:, 1] * longest[0]) > 1e-9 * length * length).any())


def _check_classes(found: _Found) -> None:
    """ConfigError when a class that was asked for holds no area."""
    for name in found.classes:
        if not any(_is_asked_for(taken, [name]) for taken in found.taken):
            there = Counter({**found.taken, **found.other})
            held = f"it holds {_listed(there)}" if there else "it holds no shape of any class"
            raise ConfigError(f"{found.where} holds no area of class {name!r}; {held}; name one of these classes")


def _check_scale(found: _Found) -> None:
    """ConfigError when all shapes lie within one pixel: fractions of the picture, not pixels."""
    if all((np.abs(rings[0]) <= 1).all() for rings in found.wanted):
        raise ConfigError(f"{found.where} holds coordinates from 0 to 1 only; wanted level-0 px, not fractions")


def _listed(counts: Counter[str]) -> str:
    shown = [f"{n} {name}" for name, n in counts.most_common(6)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _notes(found: _Found) -> tuple[str, ...]:
    n = sum(found.taken.values())
    notes = [f"{found.where}: {n} area{'s' if n > 1 else ''} ({_listed(found.taken)})"]
    if found.left_out:
        notes.append(f"{found.where}: left out: {_listed(found.left_out)}")
    if found.other:
        notes.append(f"{found.where}: not asked for: {_listed(found.other)}")
    return tuple(notes)
