import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.viewing.made import DOTS, MPP, RADIUS, write_geojson_cells, write_parquet_cells
from wsistain.errors import ConfigError
from wsistain.viewing.cells import SQUARE_UM, read_cells


def all_cells(cells):
    return [c for row, col, _ in cells.index()["squares"] for c in cells.square(row, col)]


@pytest.mark.parametrize("um", [True, False])
def test_outlines_of_a_table_lie_round_their_cells_whether_in_um_or_px(tmp_path, um):
    cells = read_cells(write_parquet_cells(tmp_path / "c.parquet", um=um), MPP)
    found = all_cells(cells)
    assert len(found) == len(cells) == len(DOTS) and sorted(c["id"] for c in found)[0] == "1000"
    for cell in found:
        middle = np.mean(cell["ring"][:-1], axis=0)
        assert np.allclose(middle, [cell["x"], cell["y"]], atol=0.02)
        radius = np.hypot(*(np.array(cell["ring"]) - middle).T)
        assert np.allclose(radius, RADIUS * MPP, atol=0.02)
        assert cell["class"] in range(4) and "dab_od" in cell


def test_qupath_cells_are_in_pixels_and_keep_their_class(tmp_path):
    cells = read_cells(write_geojson_cells(tmp_path / "c.geojson"), MPP)
    assert cells.classes == ("1+",) and len(cells) == len(DOTS)
    first = min(all_cells(cells), key=lambda c: (c["y"], c["x"]))
    assert (first["y"], first["x"]) == pytest.approx((150 * MPP, 190 * MPP), abs=0.01) and first["dab_od"] == 0.2


def test_each_cell_is_in_the_square_of_its_centre_and_in_no_other(tmp_path):
    n = 300
    rng = np.random.default_rng(0)
    y, x = rng.uniform(0, 3000, n), rng.uniform(-600, 3000, n)
    pq.write_table(pa.table({"y_um": y, "x_um": x}), tmp_path / "c.parquet")
    cells = read_cells(tmp_path / "c.parquet", MPP)
    index = cells.index()
    assert sum(count for _, _, count in index["squares"]) == n and index["classes"][0]["name"] == "unclassified"
    for row, col, count in index["squares"]:
        held = cells.square(row, col)
        assert len(held) == count
        assert all(c["y"] // SQUARE_UM == row and c["x"] // SQUARE_UM == col for c in held)
    assert cells.square(999, 999) == []


def test_classes_of_grade_have_their_order_and_colours(tmp_path):
    cells = read_cells(write_parquet_cells(tmp_path / "c.parquet"), MPP)
    assert cells.classes == ("negative", "1+", "2+", "3+") and len(set(cells.colours())) == 4
    assert sum(cells.counted(np.ones(len(cells), bool)).values()) == len(DOTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        b"{",
        b"[]x",
        b'{"features": [{}]}',
        b'{"features": [{"geometry": {"type": "Polygon", "coordinates": []}}]}',
    ],
)
@pytest.mark.parametrize("name", ["c.parquet", "c.geojson"])
def test_what_holds_no_cells_is_refused_in_one_sentence(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.(parquet|geojson)"):
        read_cells(path, MPP)


def test_outlines_that_lie_elsewhere_are_refused(tmp_path):
    path = write_parquet_cells(tmp_path / "c.parquet")
    table = pq.read_table(path)
    moved = table.set_column(
        table.column_names.index("y_um"), "y_um", pa.array([v + 500 for v in table["y_um"].to_pylist()])
    )
    pq.write_table(moved, path)
    with pytest.raises(ConfigError, match="do not lie round"):
        read_cells(path, MPP)
