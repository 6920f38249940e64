"""Splits by whole slides and patients: nothing leaks, and what is added moves no other."""

import json
import shutil
from pathlib import Path

import pytest

from tests.data.made_patches import make_mist, save, tissue
from tests.training.made_runs import tiny_run
from wsistain.config import DataConfig, TrainConfig, load_config
from wsistain.data.layouts import PatchRef, held_out
from wsistain.data.patches import load_patches
from wsistain.data.splits import read_parts, slide_hash
from wsistain.errors import ConfigError, DataError
from wsistain.markers import find_marker
from wsistain.training.loop import train
from wsistain.weights.file import read_header

ER = find_marker("ER")


def _mist(root: Path, slides: int) -> Path:
    """One patch of each slide in both of MIST's parts: its own split leaks everywhere."""
    for k in range(slides):
        for part in ("train", "val"):
            for side in "AB":
                name = f"10M{k:03d}_{int(part == 'val')}_0.png"
                save(tissue(k, 32)[0], root / "ER" / "TrainValAB" / f"{part}{side}" / name)
    return root


def _parts(cfg: DataConfig) -> tuple[list[PatchRef], list[PatchRef]]:
    return load_patches(cfg, ER, "train"), load_patches(cfg, ER, "val")


def test_a_name_that_is_added_moves_no_other() -> None:
    names = {f"slide{k}" for k in range(60)}
    for seed in range(3):
        held = held_out(names, 0.2, seed)
        assert 3 <= len(held) <= 24
        for new in ("a", "b", "slide99", "patient 7"):
            assert held_out(names | {new}, 0.2, seed) - {new} == held
        assert held_out(names - {"slide7"}, 0.2, seed) == held - {"slide7"}


def test_a_split_by_slide_is_of_all_patches_and_no_slide_is_in_both(tmp_path: Path) -> None:
    root = _mist(tmp_path, 12)
    official = _parts(DataConfig(root=str(root), crop_px=32, mpp=0.5))
    assert {r.slide for r in official[0]} == {r.slide for r in official[1]}
    train_refs, held = _parts(DataConfig(root=str(root), crop_px=32, mpp=0.5, split="slide", val_share=0.4))
    assert len(train_refs) + len(held) == 24
    assert not {r.slide for r in train_refs} & {r.slide for r in held}


def test_a_part_that_is_absent_is_none_and_one_that_is_faulty_is_told(tmp_path: Path) -> None:
    root = _mist(tmp_path, 12)
    base, cfg = (
        root / "ER" / "TrainValAB",
        DataConfig(root=str(root), crop_px=32, mpp=0.5, split="slide", val_share=0.4),
    )
    next((base / "valB").iterdir()).unlink()
    with pytest.raises(DataError, match="their names do not match: 1 only in valA"):
        load_patches(cfg, ER, "train")
    for side in "AB":
        shutil.rmtree(base / f"val{side}")
    assert sum(map(len, _parts(cfg))) == 12
    with pytest.raises(DataError, match=r"to hold out some of the slides in trainA, set data\.split to slide"):
        load_patches(DataConfig(root=str(root), crop_px=32, mpp=0.5), ER, "val")


def test_patients_come_from_a_table_or_the_manifest_or_are_asked_for(tmp_path: Path) -> None:
    root = _mist(tmp_path, 12)
    cfg = DataConfig(root=str(root), crop_px=32, mpp=0.5, split="patient", val_share=0.4)
    with pytest.raises(DataError, match=r"patient of 12 of 12 slides is stated nowhere .* write .*patients\.csv"):
        load_patches(cfg, ER, "train")
    owner = {f"10M{k:03d}": f"patient{k // 3}" for k in range(12)}
    manifest = {"parameters": {"mpp": 0.5}, "slides": {name: {"patient": p} for name, p in owner.items()}}
    (root / "ER" / "manifest.json").write_text(json.dumps(manifest))
    for _ in range(2):
        train_refs, held = _parts(cfg)
        assert held and not {owner[str(r.slide)] for r in train_refs} & {owner[str(r.slide)] for r in held}
        (root / "ER" / "manifest.json").unlink(missing_ok=True)
        (root / "patients.csv").write_text("slide,patient\n" + "".join(f"{s},{p}\n" for s, p in owner.items()))


def test_a_table_says_who_is_held_out_and_a_runs_own_table_is_one(tmp_path: Path) -> None:
    root = make_mist(tmp_path / "data", n_train=4, n_val=2)
    split = {"split": "slide", "val_share": 0.5, "mpp": 0.5}
    weights = train(tiny_run(root, steps=1, data=split), tmp_path / "run", tiny=True)
    listing = tmp_path / "run" / "split.csv"
    cfg = load_config(TrainConfig, tmp_path / "run" / "config.yaml").data
    by_table = cfg.model_copy(update={"split": "file", "split_file": str(listing)})
    assert _parts(by_table) == _parts(cfg)
    held = {name for name, part in read_parts(listing).items() if part == "val"}
    header = read_header(weights)
    assert held and not set(header.slides) & {slide_hash(name) for name in held}
    assert set(header.slides) == {slide_hash(str(r.slide)) for r in _parts(cfg)[0]}
    assert "split by slide" in header.training_data


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("slide,part\ntrainSlide0,train\n", "says nothing of 3 slides"),
        ("slide,part\ntrainSlide0,other\n", "wanted train or val"),
        ("slide,part\na,train\na,val\n", "a is in train and in val"),
        ("name,part\na,train\n", "has no column slide or patch"),
    ],
)
def test_a_table_that_does_not_say_it_all_is_refused(tmp_path: Path, table: str, text: str) -> None:
    root = make_mist(tmp_path / "data")
    (tmp_path / "t.csv").write_text(table)
    cfg = DataConfig(root=str(root), crop_px=32, mpp=0.5, split="file", split_file=str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match=text):
        load_patches(cfg, ER, "train")


def test_names_without_a_slide_and_a_split_without_its_table_are_refused(tmp_path: Path) -> None:
    for side in "AB":
        save(tissue(0, 32)[0], tmp_path / "ER" / "TrainValAB" / f"train{side}" / "tile.png")
    with pytest.raises(DataError, match="do not tell their slide"):
        load_patches(DataConfig(root=str(tmp_path), crop_px=32, mpp=0.5, split="slide"), ER, "train")
    with pytest.raises(ConfigError, match="needs split_file"):
        tiny_run(tmp_path, data={"split": "file"})
