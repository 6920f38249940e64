"""The files: names, layout, resuming, and the same bytes from any number of processes."""

import errno
import hashlib
import json

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import tiffslide
from skimage.io import imread
from typer.testing import CliRunner

from wsistain.cli import app
from wsistain.errors import ConfigError, OutputError
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.manifest import claimed
from wsistain.phantom.products import choose_places, make_patches, make_slide
from wsistain.phantom.render import Phantom
from wsistain.slide.reader import open_slide

PATCHES = {"markers": "ER", "train": 3, "val": 2, "size": 128, "slides": 3, "seed": 4}
SLIDE = PhantomConfig(height=600, width=700, seed=12, whole=True, marker="ER")


def bytes_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    root = tmp_path_factory.mktemp("patches")
    return root, make_patches(root, **PATCHES)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slide")
    return folder, make_slide(folder, SLIDE)


def test_patches_lie_as_in_mist_with_the_truth_beside(patches):
    root, _ = patches
    base = root / "ER" / "TrainValAB"
    names = {d.name: sorted(p.name for p in d.iterdir()) for d in base.iterdir()}
    assert set(names) == {
        "trainA", "trainB", "valA", "valB", "valTruthB", "trainCellsA", "trainCellsB", "valCellsA", "valCellsB"
    }  # fmt: skip
    assert names["trainA"] == names["trainB"] and len(names["trainA"]) == 3
    assert names["valA"] == names["valB"] == names["valTruthB"] and len(names["valA"]) == 2
    train, val = ({n.split("_")[0] for n in names[k]} for k in ("trainA", "valA"))
    assert not train & val
    assert all(len(n.removesuffix(".jpg").split("_")) == 3 for n in names["trainA"] + names["valA"])
    picture = imread(base / "valTruthB" / names["valA"][0])
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8


def test_cell_tables_of_patches_are_in_the_frame_of_the_patch(patches):
    root, facts = patches
    folder = root / "ER" / "TrainValAB" / "valCellsA"
    tables = [pq.read_table(p) for p in sorted(folder.iterdir())]
    assert sum(t.num_rows for t in tables) > 5
    for t in tables:
        for c in ("y_px", "x_px"):
            assert ((t[c].to_numpy() >= -0.5) & (t[c].to_numpy() < 127.5)).all()
        assert all(t["in_a"].to_pylist())
    assert facts["ER"]["truth"]["val"]["tumour_cells"] >= 0


def test_the_manifest_names_every_file_with_its_hash(patches):
    root, facts = patches
    manifest = json.loads((root / "ER" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(facts["ER"])) and manifest["finished"]
    found = bytes_of(root / "ER")
    assert set(manifest["files"]) == set(found) - {"manifest.json"}
    assert all(hashlib.sha256(found[n]).hexdigest() == h for n, h in manifest["files"].items())
    assert manifest["parameters"]["seed"] == 4


def test_two_processes_make_the_same_bytes(patches, tmp_path):
    make_patches(tmp_path, **PATCHES, workers=2)
    assert bytes_of(tmp_path) == bytes_of(patches[0])


def test_what_is_finished_is_kept_and_what_is_missing_is_made(patches, tmp_path):
    make_patches(tmp_path, **{**PATCHES, "train": 1, "val": 1, "slides": 2})
    before = bytes_of(tmp_path)
    lost = sorted((tmp_path / "ER" / "TrainValAB" / "valB").iterdir())[0]
    kept = sorted((tmp_path / "ER" / "TrainValAB" / "valA").iterdir())[0]
    lost.unlink()
    stamp = kept.stat().st_mtime_ns
    make_patches(tmp_path, **{**PATCHES, "train": 1, "val": 1, "slides": 2})
    assert bytes_of(tmp_path) == before and kept.stat().st_mtime_ns == stamp


def test_other_parameters_are_refused_without_overwrite(patches, tmp_path):
    small = {**PATCHES, "train": 1, "val": 0, "slides": 1}
    make_patches(tmp_path, **small)
    with pytest.raises(OutputError, match="other parameters; pass --overwrite"):
        make_patches(tmp_path, **{**small, "seed": 5})
    make_patches(tmp_path, **{**small, "seed": 5}, overwrite=True)
    assert json.loads((tmp_path / "ER" / "manifest.json").read_text())["parameters"]["seed"] == 5


def test_a_second_phantom_in_one_folder_is_refused_and_leaves_the_first_alone(tmp_path):
    small = {**PATCHES, "train": 1, "val": 0, "slides": 1}
    with claimed(tmp_path / "ER", {"kind": "other"}, overwrite=False) as manifest:
        before = manifest.read_bytes()
        for call in (
            lambda: make_patches(tmp_path, **small, overwrite=True),
            lambda: make_slide(tmp_path / "ER", SLIDE, overwrite=True),
        ):
            with pytest.raises(OutputError, match="another phantom is being made"):
                call()
        assert manifest.read_bytes() == before and [p.name for p in (tmp_path / "ER").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is read-only")]
)
def test_a_disk_that_takes_no_more_is_one_sentence_and_the_next_call_goes_on(tmp_path, monkeypatch, code, words):
    small, config = {**PATCHES, "train": 1, "val": 0, "slides": 1}, PhantomConfig(height=64, width=64, whole=True)

    def refuse(*_, **__):
        raise OSError(code, "x")

    with monkeypatch.context() as full:
        for writer in ("tables.pq.write_table", "tables.pq.ParquetWriter", "products.write_bytes"):
            full.setattr(f"wsistain.phantom.{writer}", refuse)
        for call in (lambda: make_patches(tmp_path / "p", **small), lambda: make_slide(tmp_path / "s", config)):
            with pytest.raises(OutputError, match=f"cannot be written: {words}") as told:
                call()
            assert "--resume" not in str(told.value)
    assert not list(tmp_path.rglob("*.part"))
    make_patches(tmp_path / "p", **small)
    assert make_slide(tmp_path / "s", config)["finished"]


@pytest.mark.parametrize("bad", [{"train": 0, "val": 0}, {"slides": 1}, {"size": 100}, {"markers": "CD3"}])
def test_counts_and_names_that_do_not_fit_are_refused(tmp_path, bad):
    with pytest.raises(ConfigError):
        make_patches(tmp_path, **{**PATCHES, **bad})
    assert not list(tmp_path.iterdir())


def test_a_slide_opens_with_its_mpp_and_shows_what_render_shows(slide):
    folder, facts = slide
    assert {p.name for p in folder.iterdir()} == {
        "he_a.tiff", "ihc_a.tiff", "ihc_b.tiff", "cells_a.parquet", "cells_b.parquet", "manifest.json"
    }  # fmt: skip
    opened = openslide.OpenSlide(folder / "he_a.tiff")
    assert opened.dimensions == (700, 600) and float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    seen = np.asarray(opened.read_region((300, 200), 0, (128, 128)).convert("RGB")).astype(int)
    assert np.abs(seen - Phantom(SLIDE).render("he_a", 200, 300, 128, 128)).mean() < 4
    opened.close()
    assert facts["finished"] and facts["truth"]["tumour_cells"] > 50 and 0.5 < facts["truth"]["attainable_auc"] <= 1


@pytest.mark.parametrize("name", ["he_a", "ihc_b", "ihc_a"])
def test_every_picture_of_a_slide_opens_in_three_readers_with_the_same_mpp(slide, name):
    path = slide[0] / f"{name}.tiff"
    with openslide.OpenSlide(path) as one, tiffslide.TiffSlide(path) as two:
        levels = tuple(one.level_dimensions)
        assert levels == tuple(two.level_dimensions) and levels[0] == (700, 600)
        for opened, prefix in ((one, "openslide"), (two, "tiffslide")):
            for axis in "xy":
                assert float(opened.properties[f"{prefix}.mpp-{axis}"]) == pytest.approx(0.5, rel=1e-4)
        window = np.asarray(one.read_region((310, 205), 0, (150, 140)).convert("RGB")).astype(int)
        other = np.asarray(two.read_region((310, 205), 0, (150, 140)).convert("RGB")).astype(int)
    ours = open_slide(path)
    assert ours.info.mpp == pytest.approx(0.5, rel=1e-4) and ours.info.size_l0 == (600, 700)
    assert ours.info.level_sizes == tuple((h, w) for w, h in levels)
    mine = ours.read_level(0, 205, 310, 140, 150).astype(int)
    ours.close()
    assert np.abs(mine - window).max() <= 3 and np.abs(mine - other).max() <= 3


def test_a_slide_made_by_two_processes_has_the_same_bytes(slide, tmp_path):
    make_slide(tmp_path, SLIDE, workers=2)
    assert bytes_of(tmp_path) == bytes_of(slide[0])


def test_slide_tables_are_in_the_frame_of_the_slide_and_hold_each_cell_once(slide):
    table = pq.read_table(slide[0] / "cells_a.parquet")
    ids = table["id"].to_pylist()
    assert len(ids) == len(set(ids)) > 100
    assert table["y_px"].to_numpy().max() > 400 and table["x_px"].to_numpy().max() > 500
    np.testing.assert_allclose(table["y_px"].to_numpy(), table["y_um"].to_numpy() / 0.5 - 0.5, atol=1e-9)


def test_a_slide_is_gone_on_with(slide, tmp_path):
    folder, _ = slide
    before = bytes_of(folder)
    (folder / "ihc_b.tiff").unlink()
    make_slide(folder, SLIDE)
    assert bytes_of(folder) == before


def test_places_are_on_the_grid_and_prefer_tissue():
    config = PhantomConfig(height=1024, width=1024, seed=5)
    places = choose_places(config, 128, 9)
    assert len(set(places)) == 9 and all(y % 128 == 0 and x % 128 == 0 for y, x in places)
    p = Phantom(config)
    y, x = (np.array([q[k] + 64 for q in places]) * 0.5 for k in (0, 1))
    assert (p.anatomy.at(y, x).inside > 0).mean() > 0.7


def test_commands_make_and_refuse(tmp_path):
    run = CliRunner()
    made = run.invoke(
        app, ["phantom", "slide", str(tmp_path / "s"), "--size", "160x128", "--marker", "her2", "--seed", "2"]
    )
    assert made.exit_code == 0 and "manifest.json" in made.output.splitlines()[-1]
    opened = openslide.OpenSlide(tmp_path / "s" / "ihc_a.tiff")
    assert opened.dimensions == (160, 128)
    opened.close()
    made = run.invoke(
        app,
        ["phantom", "patches", str(tmp_path / "p"), "--markers", "Ki67", "--train", "1", "--val", "1", "--size", "64", "--slides", "2"],
    )  # fmt: skip
    assert made.exit_code == 0 and "Ki67" in made.output.splitlines()[-1]
    refused = run.invoke(app, ["phantom", "slide", str(tmp_path / "x"), "--size", "big"])
    assert isinstance(refused.exception, ConfigError)
    refused = run.invoke(app, ["phantom", "patches", str(tmp_path / "x"), "--pairing", "none"])
    assert refused.exit_code == 2 and "'aligned'" in refused.output
    assert not (tmp_path / "x").exists()


def test_he_only_makes_the_same_he_and_a_later_call_makes_the_rest(tmp_path):
    config = PhantomConfig(height=256, width=256, seed=5, whole=True)
    alone = make_slide(tmp_path / "s", config, he_only=True)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["he_a.tiff", "manifest.json"]
    assert alone["truth"] is None
    whole = make_slide(tmp_path / "s", config)
    assert whole["files"]["he_a.tiff"] == alone["files"]["he_a.tiff"]
    assert whole["truth"]["tumour_cells"] >= 0 and len(whole["files"]) == 5
