"""The reader that napari calls, without napari; the manifest is checked by hand, since npe2 is no dependency."""

import importlib
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.viewing.made import MPP, write_parquet_cells
from wsistain.viewing.napari import get_reader


def test_the_manifest_names_a_function_that_there_is():
    told = yaml.safe_load((files("wsistain") / "napari.yaml").read_text())
    assert told["name"] == "wsistain" and set(told) <= {"name", "display_name", "contributions"}
    commands = {c["id"]: c["python_name"] for c in told["contributions"]["commands"]}
    assert all(id.startswith("wsistain.") for id in commands)
    for reader in told["contributions"]["readers"]:
        assert reader["accepts_directories"] is True and "*.ome.zarr" in reader["filename_patterns"]
        module, _, function = commands[reader["command"]].partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["napari.manifest"] == {"wsistain": "wsistain:napari.yaml"}


def test_a_result_is_one_rgb_picture_with_its_scale_over_its_h_and_e(case):
    path = write_parquet_cells(case.er.with_name("case.ER.cells.parquet"))
    try:
        layers = get_reader(str(case.er))(str(case.er))
    finally:
        path.unlink()
    assert [kind for _, _, kind in layers] == ["image", "image", "points"]
    (he, he_told, _), (stain, told, _), (cells, cells_told, _) = layers
    assert told["rgb"] and told["multiscale"] and told["scale"] == (MPP, MPP) == he_told["scale"]
    assert told["translate"] == he_told["translate"] == (MPP / 2, MPP / 2)  # the centre of the first pixel
    assert stain[0].shape == he[0].shape == case.picture.shape and stain[1].shape == (350, 465, 3)
    assert np.array_equal(stain[0][100:200, 300:400].compute(scheduler="sync"), case.picture[100:200, 300:400])
    assert np.array_equal(he[0][100:200, 300:400].compute(scheduler="sync"), case.picture[100:200, 300:400])
    assert len(cells) == len(cells_told["features"]["class"]) > 20 and not cells_told["visible"]


def test_several_results_share_their_h_and_e_and_a_region_keeps_its_place(case):
    layers = get_reader([str(case.er), str(case.her2)])([str(case.er), str(case.her2)])
    assert [told["name"] for _, told, _ in layers] == ["case.tiff (H&E)", "case.ER (virtual)", "case.HER2 (virtual)"]
    told = layers[2][1]
    assert told["scale"] == (1.0, 1.0) and told["translate"] == (64 * MPP + 0.5, 128 * MPP + 0.5)


@pytest.mark.parametrize("what", ["nothing.ome.zarr", "file"])
def test_anything_else_is_left_to_other_readers(tmp_path, what):
    (tmp_path / "file").write_text("x")
    assert get_reader(str(tmp_path / what)) is None and get_reader([]) is None
