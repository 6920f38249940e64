"""Cells to lay over a stain, from GeoParquet or GeoJSON, cut into squares that a page fetches as it needs them.

Columns or properties that are read: `class` (negative, 1+, 2+, 3+ or any other name), `dab_od`, `id`, `probability`, and
the place `y_um` and `x_um` (um of the slide) or `y_px` and `x_px` (its level-0 px). Outlines are polygons: in GeoParquet
the WKB column `geometry`, in whichever of the two frames agrees with the places; in GeoJSON level-0 px, as QuPath has it.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.viewing.maps import GRADES

SQUARE_UM = 512
MOST_BYTES = 1 << 30
MOST_PER_SQUARE = 20_000

_COLOURS = {"negative": (74, 105, 189), **dict(GRADES), "not read": (130, 130, 130)}
_OTHERS = ((120, 94, 160), (26, 140, 99), (196, 78, 140), (110, 110, 110))
_MEASURES = ("dab_od", "probability", "trust", "area_um2")

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """n cells, sorted by square.

    y, x     : centres, um.
    kind     : index into `classes`, int (n,).
    classes  : names of the classes that occur, or could.
    ids      : as the file names them.
    measures : by name, float (n,), NaN where not known.
    outlines : how the polygon of a cell is found, (m, 2) of (y, x) um; None where it has none.
    """

    y: F64
    x: F64
    kind: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: list[str]
    measures: dict[str, F64]
    outlines: "_Outlines"
    squares: dict[tuple[int, int], tuple[int, int]]
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def colours(self) -> list[tuple[int, int, int]]:
        """One a class."""
        free = iter(_OTHERS * (len(self.classes) // len(_OTHERS) + 1))
        return [_COLOURS[name] if name in _COLOURS else next(free) for name in self.classes]

    def index(self) -> dict[str, Any]:
        """What a page must know before it asks for squares: plain JSON values."""
        counts = np.bincount(self.kind, minlength=len(self.classes))
        classes = [
            {"name": name, "colour": list(colour), "n": int(n)}
            for name, colour, n in zip(self.classes, self.colours(), counts, strict=True)
        ]
        squares = [[row, col, end - start] for (row, col), (start, end) in sorted(self.squares.items())]
        return {"square_um": SQUARE_UM, "n": len(self), "classes": classes, "squares": squares}

    def square(self, row: int, col: int) -> list[dict[str, Any]]:
        """The cells whose centre lies in a square, with outlines as [x, y] um: plain JSON values; [] where none does."""
        start, end = self.squares.get((row, col), (0, 0))
        found = []
        for i in self.order[start : min(end, start + MOST_PER_SQUARE)].tolist():
            ring = self.outlines.of(i)
            cell: dict[str, Any] = {
                "id": self.ids[i],
                "x": round(float(self.x[i]), 2),
                "y": round(float(self.y[i]), 2),
                "class": int(self.kind[i]),
            }
            cell |= {name: round(float(v[i]), 4) for name, v in self.measures.items() if np.isfinite(v[i])}
            if ring is not None:
                cell["ring"] = [[round(float(b), 2), round(float(a), 2)] for a, b in ring]
            found.append(cell)
        return found

    def counted(self, where: NDArray[np.bool_]) -> dict[str, int]:
        """How many of the cells that a mask picks are of each class."""
        counts = np.bincount(self.kind[where], minlength=len(self.classes))
        return dict(zip(self.classes, map(int, counts), strict=True))


class _Outlines:
    """Polygons of cells, decoded when they are asked for: a million of them need not be held as numbers."""

    def __init__(self, held: pa.Array | list[Any] | None, um: float) -> None:
        self._held, self._um = held, um

    def of(self, i: int) -> F64 | None:
        if self._held is None:
            return None
        value = self._held[i]
        ring = _ring_of_wkb(value.as_py()) if isinstance(value, pa.Scalar) else value
        return None if ring is None else ring * self._um


def _ring_of_wkb(data: Any) -> F64 | None:
    """The outer ring of a WKB polygon (the first of several), (m, 2) of (y, x); None for anything else.

    Source: OGC 06-103r4, Well-known Binary.
    """
    if not isinstance(data, bytes) or len(data) < 9:
        return None
    is_little = data[0] == 1
    order = "<" if is_little else ">"
    kind, count = struct.unpack_from(f"{order}II", data, 1)
    if kind == 6 and count:  # MultiPolygon: the first
        return _ring_of_wkb(data[9:])
    if kind != 3 or not count or len(data) < 13:
        return None
    (n,) = struct.unpack_from(f"{order}I", data, 9)
    if len(data) < 13 + 16 * n or n < 3:
        return None
    xy: F64 = np.frombuffer(data, np.dtype("<f8" if is_little else ">f8"), 2 * n, 13).reshape(n, 2)
    return xy[:, ::-1].astype(np.float64)


def read_cells(path: Path, mpp: float) -> Cells:
    """The cells of a file; mpp: um per level-0 px of the slide. ConfigError where it holds none that can be read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES >> 20} MiB; write it as GeoParquet")
        return _of_parquet(path, mpp) if path.suffix == ".parquet" else _of_geojson(path, mpp)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, pa.ArrowException) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} holds no cells that can be read: {' '.join(str(error).split())[:200]}") from None


def _of_parquet(path: Path, mpp: float) -> Cells:
    table = pq.read_table(path)
    names = set(table.column_names)

    def numbers(name: str) -> F64:
        return np.asarray(table.column(name).to_numpy(zero_copy_only=False), np.float64)

    if {"y_um", "x_um"} <= names:
        y, x = numbers("y_um"), numbers("x_um")
    elif {"y_px", "x_px"} <= names:
        y, x = numbers("y_px") * mpp, numbers("x_px") * mpp
    else:
        raise ConfigError(f"{path} has no columns y_um and x_um (or y_px and x_px); is it a table of cells?")
    geometry = table.column("geometry").combine_chunks() if "geometry" in names else None
    if isinstance(geometry, pa.ChunkedArray):
        geometry = geometry.chunk(0) if geometry.num_chunks else None
    outlines = _Outlines(geometry, 1.0 if geometry is None else _um_of_outlines(geometry, y, x, mpp, path))
    classes = table.column("class").to_pylist() if "class" in names else [None] * len(y)
    ids = table.column("id").to_pylist() if "id" in names else list(range(len(y)))
    return _sorted(y, x, classes, ids, {n: numbers(n) for n in _MEASURES if n in names}, outlines)


def _um_of_outlines(geometry: pa.Array, y: F64, x: F64, mpp: float, path: Path) -> float:
    """um of one unit of the outlines: 1, or `mpp` where they are in px; whichever puts them round their cells."""
    shifts: dict[float, list[float]] = {1.0: [], mpp: []}
    for i in range(0, len(y), max(1, len(y) // 50)):
        ring = _ring_of_wkb(geometry[i].as_py())
        if ring is not None:
            middle = (ring.min(axis=0) + ring.max(axis=0)) / 2
            for um, found in shifts.items():
                found.append(float(np.hypot(middle[0] * um - y[i], middle[1] * um - x[i])))
    if not shifts[1.0]:
        return 1.0
    best = min(shifts, key=lambda um: float(np.median(shifts[um])))
    if np.median(shifts[best]) > 20:
        raise ConfigError(f"{path} has outlines that do not lie round the places of their cells, in um or in px")
    return best


def _of_geojson(path: Path, mpp: float) -> Cells:
    values = json.loads(path.read_bytes())
    features = values["features"] if isinstance(values, dict) else values
    y, x, classes, ids, rings = [], [], [], [], []
    measures: dict[str, list[float]] = {name: [] for name in _MEASURES}
    for number, feature in enumerate(features):
        geometry, told = feature["geometry"], feature.get("properties") or {}
        ring = None
        if geometry["type"] == "Point":
            place = np.array(geometry["coordinates"][1::-1], np.float64)
        else:
            first = geometry["coordinates"][0]
            outer = first[0] if geometry["type"] == "MultiPolygon" else first
            ring = np.array([(p[1], p[0]) for p in outer], np.float64)
            place = (ring.min(axis=0) + ring.max(axis=0)) / 2
        y.append(float(place[0]) * mpp)
        x.append(float(place[1]) * mpp)
        rings.append(ring)
        held = told.get("classification")
        classes.append(held.get("name") if isinstance(held, dict) else held or told.get("class"))
        ids.append(told.get("id", feature.get("id", number)))
        lower = {str(k).lower(): v for k, v in {**(told.get("measurements") or {}), **told}.items()}
        for name, found in measures.items():
            value = lower.get(name)
            found.append(float(value) if isinstance(value, int | float) else np.nan)
    kept = {n: np.array(v, np.float64) for n, v in measures.items() if np.isfinite(v).any()}
    return _sorted(np.array(y, np.float64), np.array(x, np.float64), classes, ids, kept, _Outlines(rings, mpp))


def _sorted(y: F64, x: F64, classes: list[Any], ids: list[Any], measures: dict[str, F64], outlines: _Outlines) -> Cells:
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise ConfigError("a cell has a place that is no number")
    named = [str(c) if c not in (None, "") else "unclassified" for c in classes]
    order_of = {name: i for i, name in enumerate(_COLOURS)}
    names = tuple(sorted(set(named), key=lambda name: (order_of.get(name, 99), name)))
    numbers = {name: i for i, name in enumerate(names)}
    row, col = (np.floor(v / SQUARE_UM).astype(np.int64) for v in (y, x))
    order = np.lexsort((col, row))
    squares: dict[tuple[int, int], tuple[int, int]] = {}
    if len(y):
        pairs = np.stack([row[order], col[order]])
        starts = np.flatnonzero(np.r_[True, (np.diff(pairs, axis=1) != 0).any(axis=0)])
        ends = np.r_[starts[1:], len(y)]
        squares = {(int(pairs[0, s]), int(pairs[1, s])): (int(s), int(e)) for s, e in zip(starts, ends, strict=True)}
    kinds = np.array([numbers[name] for name in named], np.int64)
    return Cells(y, x, kinds, names, [str(i) for i in ids], measures, outlines, squares, order)
