"""A stain and its cells as a SpatialData store: the layout that the package reads, tied together and in um.

The package wants an older dask than ours and cannot be here; what spatialdata 0.7.3 reads was seen by scripts/see_spatialdata.py.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from tests.reading.made import MPP
from wsistain.errors import OutputError, SlideError
from wsistain.output.reading import read_stain
from wsistain.output.recognise import refuse_virtual
from wsistain.reading.spatialdata import _write_image, export_spatialdata


@pytest.fixture(scope="module")
def store(stained, reading, tmp_path_factory):
    return export_spatialdata(stained[1], tmp_path_factory.mktemp("sd") / "he.spatialdata.zarr").path


def attributes(store, *parts):
    return zarr.open_group(store, path="/".join(parts), mode="r").attrs.asdict()


def test_the_table_names_the_shapes_and_holds_what_was_read(store, reading):
    table = zarr.open_group(store, path="tables/table", mode="r")
    cells = pq.read_table(reading.files["table"])
    told = table.attrs.asdict()
    assert (told["encoding-type"], told["spatialdata-encoding-type"]) == ("anndata", "ngff:regions_table")
    assert (told["region"], told["region_key"], told["instance_key"]) == ("cells", "element", "cell_id")
    shapes = pq.read_table(f"{store}/shapes/cells/shapes.parquet")
    ids = table["obs/cell_id"][...]
    assert np.array_equal(ids, shapes["cell_id"].to_numpy()) and np.array_equal(ids, cells["id"].to_numpy())
    assert json.loads(shapes.schema.metadata[b"pandas"])["index_columns"] == ["cell_id"]
    assert json.loads(shapes.schema.metadata[b"geo"])["primary_column"] == "geometry"
    assert shapes["geometry"].to_pylist() == cells["geometry"].to_pylist()
    names = [str(n) for n in table["var/_index"][...]]
    for name in ("dab_od", "trust"):
        held = cells[name].to_numpy(zero_copy_only=False)
        assert np.array_equal(table["X"][:, names.index(name)], held.astype(np.float32), equal_nan=True)
    codes, words = table["obs/class/codes"][...], [str(w) for w in table["obs/class/categories"][...]]
    assert [words[c] for c in codes] == cells["class"].to_pylist()
    assert set(table["obs/drawn_region/codes"][...]) == {-1}  # nothing was drawn
    assert np.array_equal(table["obsm/spatial"][...], np.stack([cells["x_um"], cells["y_um"]], 1))
    for name in table["obs"].attrs["column-order"]:
        assert name in table["obs"]


def test_image_and_shapes_lie_over_each_other_in_um(store, stained):
    (multiscales,) = attributes(store, "images", "stain")["ome"]["multiscales"]
    scale, shift = multiscales["coordinateTransformations"][0]["transformations"]
    assert scale["scale"] == [1, MPP, MPP] and shift["translation"] == [0, 0, 0]
    assert attributes(store, "shapes", "cells")["coordinateTransformations"][0]["scale"] == [MPP, MPP]
    mine, theirs = (zarr.open_array(place, path="0", mode="r") for place in (f"{store}/images/stain", stained[1]))
    assert np.array_equal(mine[...], theirs[...])
    assert len(multiscales["datasets"]) == len([p for p in stained[1].iterdir() if p.name.isdecimal()])


def test_a_stain_inside_a_store_is_known_again(store):
    with pytest.raises(SlideError, match="virtual"):
        refuse_virtual(f"{store}/images/stain")


def test_ome_zarr_py_opens_the_image(store):
    ome_zarr = pytest.importorskip("ome_zarr.io")
    location = ome_zarr.parse_url(f"{store}/images/stain")
    assert location is not None and location.root_attrs["multiscales"][0]["name"] == "stain"


def test_what_cannot_be_exported_is_one_sentence(stained, reading, store, tmp_path):
    stain = stained[1]
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        export_spatialdata(stain, store)
    with pytest.raises(OutputError, match="no SpatialData store and is not replaced"):
        export_spatialdata(stain, tmp_path, overwrite=True)
    copy = tmp_path / stain.name
    shutil.copytree(stain, copy)
    with pytest.raises(OutputError, match="read it first with"):
        export_spatialdata(copy, tmp_path / "out.zarr")
    for ending in ("cells.parquet", "read.json"):
        shutil.copy(stain.with_name(f"he.ER.{ending}"), tmp_path)
    group = zarr.open_group(copy, mode="r+")
    group.attrs["wsistain"] = {**group.attrs["wsistain"], "date": "2020-01-01"}
    with pytest.raises(OutputError, match="cells of another stain"):
        export_spatialdata(copy, tmp_path / "out.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["he.ER.cells.parquet", "he.ER.ome.zarr", "he.ER.read.json"]


def test_the_command_exports_and_overwrites(stained, reading, tmp_path, capsys):
    from wsistain.cli import main

    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(stained[1]), str(tmp_path / "o.zarr"), "--as", "spatialdata", "--overwrite"])
        assert ended.value.code == 0 and "o.zarr" in capsys.readouterr().out


def test_the_stain_of_a_part_of_the_slide_keeps_its_place(stained, tmp_path):
    stain = replace(read_stain(stained[1]), origin_um=(30.0, 70.5))
    _write_image(tmp_path / "images", stain, None)
    (multiscales,) = attributes(tmp_path, "images", "stain")["ome"]["multiscales"]
    assert multiscales["coordinateTransformations"][0]["transformations"][1]["translation"] == [0, 30.0, 70.5]
