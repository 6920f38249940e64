"""What a data set says of itself is believed before what is taken for granted."""

import json
import shutil
from pathlib import Path

import pytest

from tests.data.made_patches import make_mist
from tests.training.made_runs import tiny_run
from wsistain.config import DataConfig
from wsistain.data.layouts import PatchRef, list_patches
from wsistain.data.patches import load_patches
from wsistain.data.stated import check_stated, mpp_of, stated_version
from wsistain.errors import DataError
from wsistain.evaluation.report import evaluate
from wsistain.markers import find_marker
from wsistain.training.loop import train


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MIST's layout with patches of PR alone, at 1 um per px as its manifest says."""
    make_mist(tmp_path, marker="PR", n_train=2, n_val=1)
    parameters = {"kind": "patches", "marker": "PR", "mpp": 1.0}
    (tmp_path / "PR" / "manifest.json").write_text(json.dumps({"parameters": parameters}))
    return tmp_path


def test_a_manifest_of_another_marker_is_refused_wherever_the_root_is(root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "patches"
    shutil.copytree(root / "PR", moved)  # no folder is called PR any more
    for place in (root / "PR", root / "PR" / "TrainValAB", moved):
        cfg = DataConfig(root=str(place), crop_px=32, mpp=1.0)
        with pytest.raises(DataError, match=r"manifest\.json says that these are patches of PR, found marker ER"):
            load_patches(cfg, find_marker("ER"), "train")
        assert load_patches(cfg, find_marker("PR"), "train")


@pytest.mark.parametrize("name", ["PR", "pgr", "Her2"])
def test_a_folder_called_like_another_marker_is_refused_and_any_other_name_is_not(root: Path, name: str) -> None:
    (root / "PR" / "manifest.json").unlink()
    other, plain = root / "sets" / name, root / "sets" / "patches"
    for place in (other, plain):
        shutil.copytree(root / "PR", place)
    refs = list_patches("mist", other, "ER", "train")
    with pytest.raises(DataError, match=f"a folder called {name} above these patches, found marker ER"):
        check_stated(refs, other, find_marker("ER"), None)
    refs = list_patches("mist", plain, "ER", "train")
    check_stated(refs, plain, find_marker("ER"), 0.4661)


def test_a_scale_that_the_manifest_contradicts_is_refused(root: Path) -> None:
    for mpp in (0.4661, 2.0):
        with pytest.raises(DataError, match=rf"says 1 um per px, found {mpp:g}; set mpp to 1"):
            load_patches(DataConfig(root=str(root), crop_px=32, mpp=mpp), find_marker("PR"), "train")
    assert load_patches(DataConfig(root=str(root), crop_px=32, mpp=1.001), find_marker("PR"), "train")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parameters": 3}', "\x00", "[" * 5000])
def test_a_manifest_of_another_program_says_nothing(root: Path, text: str) -> None:
    (root / "PR" / "manifest.json").write_text(text)
    assert load_patches(DataConfig(root=str(root), crop_px=32, mpp=0.3), find_marker("PR"), "train")


def test_training_and_evaluation_ask(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="patches of PR, found marker ER"):
        train(tiny_run(root / "PR", data={"mpp": 1.0}), tmp_path / "run", tiny=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="patches of PR, found marker ER"):
        evaluate([], root / "PR", marker="ER", output=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_scale_that_nobody_names_is_read_beside_the_patches_or_asked_for(tmp_path: Path) -> None:
    root = make_mist(tmp_path / "own", n_train=2)
    refs = list_patches("mist", root, "ER", "train")
    with pytest.raises(DataError, match=r"stated nowhere .* set data.mpp"):
        mpp_of(refs, "mist")
    (root / "ER" / "manifest.json").write_text(json.dumps({"parameters": {"marker": "ER", "mpp": 1.0}}))
    assert mpp_of(refs, "mist") == 1.0
    other = make_mist(tmp_path / "other", n_train=2)
    (other / "ER" / "manifest.json").write_text(json.dumps({"parameters": {"mpp": 0.5}}))
    with pytest.raises(DataError, match="patches of one scale"):
        mpp_of([*refs, *list_patches("mist", other, "ER", "train")], "mist")


def test_mists_own_names_and_bcis_layout_have_the_scale_that_was_published(tmp_path: Path) -> None:
    def ref(name: str) -> PatchRef:
        return PatchRef(name, tmp_path / f"{name}.jpg", None)

    assert mpp_of([ref("10M2102916_10_15"), ref("1M04_1_2_0_1")], "mist") == 0.4661
    assert mpp_of([ref("00001_train_2+")], "bci") == 0.46
    for refs, layout in (([ref("10M2102916_10_15"), ref("mine_1_2")], "mist"), ([ref("10M2102916_10_15")], "ihc4bc")):
        with pytest.raises(DataError, match="stated nowhere"):
            mpp_of(refs, layout)


def test_patches_of_two_phantoms_and_of_a_phantom_and_a_lab_are_not_learnt_from_together(tmp_path: Path) -> None:
    refs, facts = [], {"kind": "patches", "visibility": 0.85, "mpp": 1.0}
    for marker, more in (("ER", {"version": "v1"}), ("PR", {}), ("HER2", None)):
        make_mist(tmp_path, marker=marker, n_train=1, n_val=1)
        if more is not None:
            text = json.dumps({"parameters": {**facts, **more, "marker": marker}})
            (tmp_path / marker / "manifest.json").write_text(text)
        refs.append(list_patches("mist", tmp_path, marker, "train"))
    er, pr, real = refs
    assert [stated_version(r) for r in refs] == ["v1", "v0", None]
    with pytest.raises(DataError, match=r"is of phantom v1 and .* of phantom v0; train on patches of one kind"):
        stated_version([*er, *pr])
    with pytest.raises(DataError, match="of no phantom"):
        stated_version([*pr, *real])
