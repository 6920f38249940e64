"""A stain and its cells as one SpatialData store: image, shapes and table, tied together, all in um of the slide.

Written by its published layout and not with the package, which wants an older dask than wsistain's; what it is written for is
that `spatialdata.read_zarr` opens it in an environment of its own. Nothing else is needed here.

Sources: SpatialData container format 0.2 (raster 0.3, shapes 0.3, tables 0.2), Marconato et al., Nat Methods 2024; AnnData on-disk
format (anndata 0.1.0, dataframe 0.2.0, categorical 0.2.0); OME-NGFF 0.5; GeoParquet 1.1.0.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.output.export import ExportDone
from wsistain.output.reading import StoredStain
from wsistain.reading.source import open_results
from wsistain.reading.table import GRADES, NOT_STAINED
from wsistain.runtime.files import local_path, part_of, reporting

IMAGE, SHAPES, TABLE = "stain", "cells", "table"
"""Names of the elements; no two may be alike."""

_MEASURED = (
    "dab_od",
    "haematoxylin_od",
    "area_um2",
    "elongation",
    "membrane_complete",
    "membrane_od",
    "membrane_dense_od",
    "probability",
    "trust",
)
_CHUNK = 1 << 17
_REGION = "element"
OnFiles = Callable[[int, int], None]


def export_spatialdata(
    zarr_path: Path | str, target: Path | str, *, overwrite: bool = False, progress: OnFiles | None = None
) -> ExportDone:
    """Write a finished stain that was read as the SpatialData store `target`; what was written.

    The store appears in one move. Of `target` only such a store is replaced. Memory is that of the table, about 150 bytes a cell.

    Raises OutputError: the stain was not read, or its cells are of another stain; it is Zarr v2; something is in the way; the
    disk.
    """
    folder = local_path(target)
    (result,) = open_results([zarr_path])
    stain, table_path = result.stain, result.beside("cells.parquet")
    if not result.beside("read.json").is_file() or not table_path.is_file():
        raise OutputError(f"{stain.path} has no cells beside it; read it first with 'wsistain read {stain.path}'")
    if not (Path(stain.path) / "zarr.json").is_file():
        raise OutputError(
            f"{stain.path} is Zarr v2 (--ngff 0.4), which SpatialData no longer takes; stain with --ngff 0.5"
        )
    _check_target(folder, overwrite)
    with reporting(folder, retry="export again"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(folder)
        try:
            told = _told(table_path, stain)
            _group(
                part, {"spatialdata_attrs": {"version": "0.2"}, "wsistain": {"wsistain": __version__, "virtual": True}}
            )
            _write_image(part / "images", stain, progress)
            _write_shapes(part / "shapes", table_path, float(told["slide"]["mpp"]))
            _write_table(part / "tables", table_path, told)
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return ExportDone(str(folder), size, len(stain.levels), bigtiff=False)


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise OutputError(f"{folder} exists; pass --overwrite to replace it or choose another folder")
    try:
        is_one = "spatialdata_attrs" in json.loads((folder / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        is_one = False
    if not is_one:
        raise OutputError(f"{folder} is no SpatialData store and is not replaced; choose another folder")


def _told(path: Path, stain: StoredStain) -> dict[str, Any]:
    """What the table says of where it comes from; OutputError where that is another stain."""
    try:
        told: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"wsistain"])
        same = all(told["stain"].get(name) == stain.provenance.get(name) for name in ("plan_hash", "date", "marker"))
        float(told["slide"]["mpp"])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{path} is no table of cells by 'wsistain read' ({type(error).__name__}); read again"
        ) from None
    if not same:
        raise OutputError(f"{path} holds the cells of another stain than {stain.path}; read it again with --overwrite")
    return told


def _group(path: Path, attributes: Mapping[str, Any]) -> zarr.Group:
    """A Zarr v3 group that holds nothing yet."""
    return zarr.create_group(store=str(path), attributes=dict(attributes), zarr_format=3)


def _space(names: str) -> dict[str, Any]:
    """A coordinate system in SpatialData's draft of NGFF's transformations."""
    axes = [{"name": n, "type": "channel"} if n == "c" else {"name": n, "type": "space", "unit": "unit"} for n in names]
    return {"name": names, "axes": axes}


def _ends(names: str) -> dict[str, Any]:
    return {"input": _space(names), "output": {**_space(names), "name": "global"}}


def _write_image(folder: Path, stain: StoredStain, progress: OnFiles | None) -> None:
    """The pyramid of a stain, copied file by file, under SpatialData's metadata; "global" is um from the slide's corner."""
    _group(folder, {})
    ends = _ends("cyx")
    steps = [
        {"type": "scale", "scale": [1.0, stain.mpp, stain.mpp], **ends},
        {"type": "translation", "translation": [0.0, *stain.origin_um], **ends},
    ]
    datasets = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [1.0, 2.0**k, 2.0**k]}]}
        for k in range(len(stain.levels))
    ]
    multiscales = {
        "name": IMAGE,
        "axes": [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
        "datasets": datasets,
        "coordinateTransformations": [{"type": "sequence", "transformations": steps, **ends}],
    }
    channels = [{"label": label} for label in ("red", "green", "blue")]
    ome = {"version": "0.5-dev-spatialdata", "multiscales": [multiscales], "omero": {"channels": channels}}
    # The provenance too: a stain is known again wherever it lies.
    attributes = {"ome": ome, "spatialdata_attrs": {"version": "0.3"}, "wsistain": stain.provenance}
    _group(folder / IMAGE, attributes)
    files = [
        file
        for k in range(len(stain.levels))
        for file in sorted((Path(stain.path) / str(k)).rglob("*"))
        if file.is_file()
    ]
    for n, file in enumerate(files):
        copy = folder / IMAGE / file.relative_to(stain.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        if progress is not None:
            progress(n + 1, len(files))


def _write_shapes(folder: Path, table: Path, um_l0: float) -> None:
    """The contours of the cells, level-0 px scaled to um; their index is the number by which the table names them."""
    _group(folder, {})
    scale = {"type": "scale", "scale": [um_l0, um_l0], **_ends("xy")}
    attributes = {
        "encoding-type": "ngff:shapes",
        "axes": ["x", "y"],
        "coordinateTransformations": [scale],
        "spatialdata_attrs": {"version": "0.3"},
    }
    _group(folder / SHAPES, attributes)
    source = pq.ParquetFile(table)
    columns = [
        {
            "name": "geometry",
            "field_name": "geometry",
            "pandas_type": "bytes",
            "numpy_type": "object",
            "metadata": None,
        },
        {"name": "cell_id", "field_name": "cell_id", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
    ]
    pandas = {
        "index_columns": ["cell_id"],
        "column_indexes": [],
        "columns": columns,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema([pa.field("geometry", pa.binary()), pa.field("cell_id", pa.int64())])
    geo = (source.metadata.metadata or {})[b"geo"]
    schema = schema.with_metadata({"pandas": json.dumps(pandas), "geo": geo})
    with pq.ParquetWriter(folder / SHAPES / "shapes.parquet", schema, compression="zstd") as writer:
        for batch in source.iter_batches(_CHUNK, columns=["geometry", "id"]):
            arrays = [batch.column("geometry").cast(pa.binary()), batch.column("id")]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _write_table(folder: Path, table: Path, told: Mapping[str, Any]) -> None:
    """The measurements as an AnnData table: numbers in X, class and place of each cell in obs and obsm."""
    names = pq.read_schema(table).names
    measured = [name for name in _MEASURED if name in names]
    held = pq.read_table(table, columns=["id", "y_um", "x_um", "class", "region", "counted", *measured])
    n = held.num_rows
    numbers = {name: held[name].to_numpy(zero_copy_only=False) for name in (*measured, "id", "y_um", "x_um", "counted")}
    tables = _group(folder, {})
    attributes = {
        **_encoded("anndata", "0.1.0"),
        "spatialdata-encoding-type": "ngff:regions_table",
        "region": SHAPES,
        "region_key": _REGION,
        "instance_key": "cell_id",
        "version": "0.2",
    }
    root = tables.create_group(TABLE, attributes=attributes)
    _array(root, "X", np.stack([numbers[name].astype(np.float32) for name in measured], axis=1))
    # obs: one row a cell
    columns = ["cell_id", _REGION, "class", "drawn_region", "counted", "y_um", "x_um"]
    obs = _frame(root, "obs", numbers["id"].astype(str).astype(object), columns)
    _array(obs, "cell_id", numbers["id"])
    _categorical(obs, _REGION, np.zeros(n, np.int8), [SHAPES])
    grades = [NOT_STAINED, *GRADES]
    code = np.array([grades.index(g) for g in held["class"].to_pylist()], np.int8)
    _categorical(obs, "class", code, grades, ordered=True)
    regions, at = np.unique(np.array(held["region"].to_pylist(), dtype=str), return_inverse=True)
    _categorical(obs, "drawn_region", at.astype(np.int32) - (regions[:1] == "").any(), [r for r in regions if r != ""])
    for name in ("counted", "y_um", "x_um"):
        _array(obs, name, numbers[name])
    _frame(root, "var", np.array(measured, dtype=object), [])
    obsm = _dict(root, "obsm")
    _array(obsm, "spatial", np.stack([numbers["x_um"], numbers["y_um"]], axis=1))
    for name in ("layers", "obsp", "varm", "varp"):
        _dict(root, name)
    uns = _dict(root, "uns")
    tie = _dict(uns, "spatialdata_attrs")
    for name, value in (("region", SHAPES), ("region_key", _REGION), ("instance_key", "cell_id")):
        _text(tie, name, value)
    _text(uns, "wsistain", json.dumps({**told, "virtual": True}, sort_keys=True))


def _encoded(kind: str, version: str) -> dict[str, Any]:
    """The attributes by which AnnData knows an element."""
    return {"encoding-type": kind, "encoding-version": version}


def _dict(parent: zarr.Group, name: str) -> zarr.Group:
    return parent.create_group(name, attributes=_encoded("dict", "0.1.0"))


def _frame(parent: zarr.Group, name: str, index: NDArray[np.object_], columns: list[str]) -> zarr.Group:
    """A data frame with its index; the columns are written by the caller."""
    attributes = {**_encoded("dataframe", "0.2.0"), "_index": "_index", "column-order": columns}
    group = parent.create_group(name, attributes=attributes)
    _strings(group, "_index", index)
    return group


def _array(parent: zarr.Group, name: str, values: NDArray[Any]) -> None:
    chunks = (min(_CHUNK, max(1, len(values))), *values.shape[1:])
    array = parent.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks, attributes=_encoded("array", "0.2.0")
    )
    array[...] = values


def _strings(parent: zarr.Group, name: str, values: NDArray[np.object_], kind: str = "string-array") -> None:
    with warnings.catch_warnings():  # Zarr's specification of strings is not final; AnnData writes them so
        warnings.simplefilter("ignore")
        chunks = tuple(min(_CHUNK, max(1, n)) for n in values.shape)
        array = parent.create_array(
            name, shape=values.shape, dtype="string", chunks=chunks, attributes=_encoded(kind, "0.2.0")
        )
        array[...] = values


def _text(parent: zarr.Group, name: str, value: str) -> None:
    _strings(parent, name, np.array(value, dtype=object), "string")


def _categorical(
    parent: zarr.Group, name: str, codes: NDArray[np.integer], categories: list[str], *, ordered: bool = False
) -> None:
    """Codes -1 for none, else a place in `categories`."""
    group = parent.create_group(name, attributes={**_encoded("categorical", "0.2.0"), "ordered": ordered})
    _array(group, "codes", codes)
    _strings(group, "categories", np.array(categories, dtype=object))
