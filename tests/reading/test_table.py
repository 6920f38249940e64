"""The tables and objects hold what was read, in forms that others read."""

import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest

from wsistain.markers import find_marker
from wsistain.reading.cells import CORNERS, Nuclei
from wsistain.reading.qupath import object_writer, write_script
from wsistain.reading.stain import NOT_READ, Readings
from wsistain.reading.table import Rows, table_writer


def rows_of(n, *, first=0):
    y, x = 100.0 + 20 * np.arange(first, first + n), 50.0 + 30 * np.arange(first, first + n)
    angle = np.arange(CORNERS) * 2 * np.pi / CORNERS
    round_it = 4 * np.stack([np.sin(angle), np.cos(angle)], 1)
    contour = (np.stack([y, x], 1)[:, None] + round_it).astype(np.float32)
    one = np.ones(n)
    nuclei = Nuclei(y, x, 50 * one, 1.2 * one, 0.4 * one, contour, np.arange(1, n + 1, dtype=np.int32))
    grade = ((np.arange(n) + first) % 5 - 1).astype(np.int8)
    od = np.where(grade == NOT_READ, np.nan, 0.2 * grade)
    region = np.full(n, "Tumor", dtype=object)
    trust = np.full(n, 0.25, np.float32)
    return Rows(nuclei, Readings(od, grade, None, None), region, np.ones(n, bool), trust)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    with (
        table_writer(folder / "c.parquet", 0.25, {"statement": "research"}) as table,
        object_writer(folder / "c.geojson", find_marker("ER"), 0.25) as objects,
    ):
        for rows in (rows_of(3), rows_of(0), rows_of(4, first=3)):
            table.add(rows)
            objects.add(rows)
    return folder


def test_the_table_is_geoparquet(files):
    file = pq.ParquetFile(files / "c.parquet")
    geo = json.loads(file.metadata.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    about = geo["columns"]["geometry"]
    assert about["encoding"] == "WKB" and about["geometry_types"] == ["Polygon"] and about["crs"] is None
    table = file.read()
    assert table.num_rows == 7 and table["y_px"][0].as_py() == 400 and table["x_um"][1].as_py() == 80
    assert table["class"].to_pylist() == ["not read", "negative", "1+", "2+", "3+", "not read", "negative"]
    assert table["dab_od"][0].as_py() is None and len(set(table["id"].to_pylist())) == 7
    corners = []
    for held in table["geometry"].to_pylist():
        order, kind, rings, points = struct.unpack_from("<BIII", held)
        assert (order, kind, rings, points) == (1, 3, 1, CORNERS + 1) and len(held) == 13 + 16 * points
        corners.append(np.frombuffer(held, "<f8", offset=13).reshape(-1, 2))
        assert (corners[-1][0] == corners[-1][-1]).all()
    assert corners[0].mean(axis=0) == pytest.approx([200, 400], abs=1)  # x first, level-0 px
    low, high = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
    assert about["bbox"] == pytest.approx([*low, *high], abs=0.02)
    assert json.loads(file.metadata.metadata[b"wsistain"])["statement"] == "research"


def test_the_objects_are_detections_with_classes_that_qupath_counts_by(files):
    features = json.loads((files / "c.geojson").read_text())["features"]
    assert len(features) == 7
    for feature in features:
        told = feature["properties"]
        assert told["objectType"] == "detection" and len(told["classification"]["color"]) == 3
        assert feature["geometry"]["coordinates"][0][0] == feature["geometry"]["coordinates"][0][-1]
    names = [f["properties"]["classification"]["name"] for f in features]
    assert names[:5] == ["ER: Not read", "ER: Negative", "ER: 1+", "ER: 2+", "ER: 3+"]
    measured = features[2]["properties"]["measurements"]
    assert measured["DAB OD"] == 0.2 and measured["Trust"] == 0.25
    assert "DAB OD" not in features[0]["properties"]["measurements"]  # JSON has no NaN


def test_our_own_objects_can_be_drawn_regions_no_longer(files):
    from wsistain.errors import ConfigError
    from wsistain.slide.roi_file import read_roi

    with pytest.raises(ConfigError, match="7 detections"):
        read_roi(files / "c.geojson")


def test_nothing_is_left_of_a_table_that_failed(tmp_path):
    with pytest.raises(RuntimeError), table_writer(tmp_path / "c.parquet", 0.25, {}) as table:
        table.add(rows_of(2))
        raise RuntimeError
    with pytest.raises(RuntimeError), object_writer(tmp_path / "c.geojson", find_marker("ER"), 0.25) as objects:
        objects.add(rows_of(2))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_names_in_the_script_cannot_end_its_strings(tmp_path):
    path = write_script(
        tmp_path,
        he="a'b\\c.svs",
        stain="s.ome.tif",
        objects="c.geojson",
        scale=0.5,
        shift_px=(-3.0, -4.0),
        statement="s",
    )
    text = path.read_text()
    assert "'a\\'b\\\\c.svs'" in text and "0.5d" in text and "[-4.0d, -3.0d]" in text and "{" not in text.split("//")[0]
