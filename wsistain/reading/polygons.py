"""Outlines of nuclei from a GeoJSON file, feature by feature: a million cells are no tree of objects in memory.

Source: RFC 7946 (GeoJSON); of a cell in QuPath, the outline of its nucleus (`nucleusGeometry`).
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.slide.roi_file import read_documents

_PIECE = 1 << 20
_AFTER = frozenset(",:]} \t\r\n")
_PACKED = (b"PK\x03\x04", b"\x1f\x8b")
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Outlines:
    """n polygons. points: float64 (k, 2), corners (y, x), level-0 px; ends: int64 (n + 1,), where each begins and ends."""

    points: F64
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, n: int) -> F64:
        """The corners of one."""
        return self.points[self.ends[n] : self.ends[n + 1]]

    def boxes(self) -> tuple[F64, F64]:
        """(lowest, highest) corner of the box of each, float (n, 2)."""
        starts = self.ends[:-1]
        low: F64 = np.minimum.reduceat(self.points, starts, axis=0)
        high: F64 = np.maximum.reduceat(self.points, starts, axis=0)
        return low, high


def read_outlines(path: Path) -> Outlines:
    """The outer ring of every polygon of a GeoJSON file, plain or packed (.zip, .gz), in the order of the file.

    Raises ConfigError for what is no GeoJSON, or holds no polygon or one whose corners are no numbers.
    """
    points, ends = array("d"), array("q", [0])
    for node in _nodes(path):
        for ring in _outlines(node, path):
            points.frombytes(np.ascontiguousarray(ring, np.float64).tobytes())
            ends.append(ends[-1] + len(ring))
    if len(ends) == 1:
        raise ConfigError(f"{path} holds no polygon; wanted one outline a nucleus")
    return Outlines(np.frombuffer(points, np.float64).reshape(-1, 2), np.frombuffer(ends, np.int64))


def _nodes(path: Path) -> Iterator[Any]:
    """The features of a file one after another, or what else it holds."""
    try:
        with path.open("rb") as file:
            is_packed = file.read(4).startswith(_PACKED)
        if is_packed:
            yield from read_documents(path)
            return
        with path.open(encoding="utf-8-sig") as text:
            yield from _Reader(text).nodes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is no text"
        raise ConfigError(f"{path} is not GeoJSON: {reason}; export the cells again") from None


class _Reader:
    """A JSON text of which one value at a time is in memory: the elements of an outer array, or of `features`."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at, self._ended = file, "", 0, False
        self._decoder = json.JSONDecoder()

    def nodes(self) -> Iterator[Any]:
        """The features, or the whole value where it has none. Raises ValueError where the text is no JSON."""
        first = self._peek()
        if first == "[":
            yield from self._elements()
        elif first == "{":
            yield from self._members()
        else:
            yield self._value()
        if self._peek():
            raise json.JSONDecodeError("something follows its end", "", 0)

    def _members(self) -> Iterator[Any]:
        others, streamed = {}, False
        self._take("{")
        while self._peek() != "}":
            name = self._value()
            self._take(":")
            if name == "features" and self._peek() == "[":
                streamed = True
                yield from self._elements()
            else:
                others[name] = self._value()
            if self._peek() != "}":
                self._take(",")
        self._take("}")
        if not streamed:
            yield others

    def _elements(self) -> Iterator[Any]:
        self._take("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() != "]":
                self._take(",")
        self._take("]")

    def _peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise json.JSONDecodeError(f"wanted {wanted!r}", "", 0)
        self._at += 1

    def _value(self) -> Any:
        """The next value; what is cut off at the end of what was read is tried again with more."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if self._text[end : end + 1] in _AFTER or not self._more():  # a number may go on
                    self._at = end
                    return value
            except json.JSONDecodeError:
                if not self._more():
                    raise

    def _more(self) -> bool:
        """Whether there was more to read; as much again as there is, so that a long value costs no more than twice."""
        if self._ended:
            return False
        piece = self._file.read(max(_PIECE, len(self._text) - self._at))
        self._ended = not piece
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)


def _outlines(node: Any, path: Path) -> Iterator[F64]:
    """The outlines (n, 2) of (y, x), level-0 px, of every polygon in a GeoJSON value; of a cell in QuPath its nucleus."""
    if isinstance(node, list):
        for item in node:
            yield from _outlines(item, path)
        return
    if not isinstance(node, dict):
        raise ConfigError(f"{path} is not GeoJSON; wanted features with polygons")
    kind = node.get("type")
    if kind == "FeatureCollection":
        yield from _outlines(node.get("features") or [], path)
    elif kind == "Feature":
        geometry = node.get("nucleusGeometry") or node.get("geometry")
        if geometry is not None:
            yield from _outlines(geometry, path)
    elif kind in ("Polygon", "MultiPolygon"):
        held = node.get("coordinates")
        several: Sequence[Any] = [held] if kind == "Polygon" else held or []
        for rings in several:
            try:
                ring = np.array([(p[1], p[0]) for p in rings[0]], np.float64)
            except (TypeError, IndexError, ValueError, KeyError):
                raise ConfigError(f"{path} holds a polygon whose coordinates are not rings of (x, y)") from None
            if ring.ndim != 2 or not np.isfinite(ring).all():
                raise ConfigError(f"{path} holds a polygon with a corner that is not a number")
            if len(ring) > 2:
                yield ring
