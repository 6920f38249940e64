"""The table of cells as a GeoParquet file, a row group a block, in bounded memory.

Geometry: the contour of the nucleus as a polygon in well-known binary, in level-0 px of the H&E, x first and y downwards
from the corner of the slide, as QuPath counts. There is no place on earth to it: its `crs` is null, edges are planar.

Source: GeoParquet specification 1.1.0 (metadata under the key `geo`, encoding WKB); OGC 06-103r4 (well-known binary).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsistain.reading.cells import Nuclei, cell_ids
from wsistain.reading.stain import Readings
from wsistain.runtime.files import replacing, reporting

GRADES = ("negative", "1+", "2+", "3+")
NOT_STAINED = "not read"


@dataclass(frozen=True)
class Rows:
    """n cells as they are written: what belongs to the nucleus, to the stain, and to the drawn regions.

    region  : name of the drawn class that holds the cell, "" for none.
    counted : whether the cell counts in the scores of the slide.
    trust   : float32, how far the stain round the cell can be believed, 0..1, NaN where nothing is known; None: not asked.
    """

    nuclei: Nuclei
    readings: Readings
    region: NDArray[np.object_]
    counted: NDArray[np.bool_]
    trust: NDArray[np.float32] | None = None


def polygons(contour: NDArray[np.floating], um_l0: float) -> NDArray[np.float64]:
    """Corners (n, CORNERS + 1, 2) of (x, y) in level-0 px, closed; contour (n, CORNERS, 2) of (y, x) in um."""
    ring = np.concatenate([contour, contour[:, :1]], axis=1)[..., ::-1].astype(np.float64) / um_l0
    return np.round(ring, 2)


def well_known_binary(rings: NDArray[np.float64]) -> pa.Array:
    """Polygons of one ring each, (n, k, 2), as an Arrow array of binary: all of one length, so made at once."""
    n, k = rings.shape[:2]
    form = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("at", "<f8", (k, 2))])
    records = np.zeros(n, form)
    records["order"], records["kind"], records["rings"], records["points"], records["at"] = 1, 3, 1, k, rings
    size = form.itemsize
    offsets = pa.py_buffer(np.arange(n + 1, dtype=np.int64) * size)
    return pa.Array.from_buffers(pa.large_binary(), n, [None, offsets, pa.py_buffer(records)]).cast(pa.binary())


def to_arrow(rows: Rows, um_l0: float) -> pa.Table:
    """The columns of the table; docs/reading.md says what they mean."""
    nuclei, readings = rows.nuclei, rows.readings
    names = pa.array([NOT_STAINED, *GRADES])
    grade = pa.DictionaryArray.from_arrays(pa.array(readings.grade + 1, pa.int8()), names).cast(pa.string())
    columns: dict[str, Any] = {
        "id": cell_ids(nuclei.y, nuclei.x),
        "y_um": nuclei.y,
        "x_um": nuclei.x,
        "y_px": nuclei.y / um_l0,
        "x_px": nuclei.x / um_l0,
        "area_um2": nuclei.area_um2.astype(np.float32),
        "elongation": nuclei.elongation.astype(np.float32),
        "haematoxylin_od": nuclei.haematoxylin.astype(np.float32),
        "dab_od": pa.array(readings.od.astype(np.float32), from_pandas=True),
        "class": grade,
        "region": pa.array(rows.region, pa.string()),
        "counted": rows.counted,
    }
    optional = {
        "membrane_complete": readings.complete,
        "membrane_od": readings.membrane,
        "membrane_dense_od": readings.dense,
        "probability": readings.probability,
        "trust": rows.trust,
    }
    for name, values in optional.items():
        if values is not None:
            columns[name] = pa.array(values.astype(np.float32), from_pandas=True)
    return pa.table({**columns, "geometry": well_known_binary(polygons(nuclei.contour, um_l0))})


class TableWriter:
    """Appends blocks of cells to a GeoParquet file."""

    def __init__(self, path: Path, um_l0: float, provenance: Mapping[str, Any]) -> None:
        self._path, self._um_l0, self._provenance = path, um_l0, provenance
        self._writer: pq.ParquetWriter | None = None
        self._low, self._high = np.full(2, np.inf), np.full(2, -np.inf)

    def add(self, rows: Rows) -> None:
        """Write a block; one without cells only where nothing was written yet, so that the file has columns."""
        if not len(rows.nuclei) and self._writer is not None:
            return
        table = to_arrow(rows, self._um_l0)
        if self._writer is None:
            schema = table.schema.with_metadata({"wsistain": json.dumps(self._provenance, sort_keys=True)})
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(table)
        if len(rows.nuclei):
            corners = rows.nuclei.contour.reshape(-1, 2)[:, ::-1].astype(np.float64) / self._um_l0
            self._low, self._high = np.minimum(self._low, corners.min(0)), np.maximum(self._high, corners.max(0))

    def close(self) -> None:
        """End the file with what GeoParquet wants to know of all of it."""
        if self._writer is None:
            return
        geometry: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None, "edges": "planar"}
        if np.isfinite(self._low).all():
            geometry["bbox"] = [round(float(v), 2) for v in (*self._low, *self._high)]
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        self._writer.add_key_value_metadata({"geo": json.dumps(geo)})
        self._writer.close()


@contextmanager
def table_writer(path: Path, um_l0: float, provenance: Mapping[str, Any]) -> Iterator[TableWriter]:
    """A writer of the file `path`, which appears in one move when the block ends well. Raises OutputError."""
    with reporting(path, retry="run again"), replacing(path) as part:
        writer = TableWriter(part, um_l0, provenance)
        try:
            yield writer
        finally:
            writer.close()
