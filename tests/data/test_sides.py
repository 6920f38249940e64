"""H&E and IHC that were put the wrong way round."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.made_patches import make_mist, save, tissue
from wsistain.data.layouts import list_patches
from wsistain.data.sides import check_sides
from wsistain.errors import DataError
from wsistain.markers import find_marker

ER = find_marker("ER")


def test_folders_put_the_wrong_way_round_are_told(tmp_path: Path) -> None:
    base = make_mist(tmp_path, n_train=3) / "ER" / "TrainValAB"
    check_sides(list_patches("mist", tmp_path, ER, "train"), ER)
    (base / "trainA").rename(base / "was_he")
    (base / "trainB").rename(base / "trainA")
    (base / "was_he").rename(base / "trainB")
    for paired in (True, False):
        with pytest.raises(DataError, match=r"trainA and .*trainB are taken for H&E and IHC, but .* exchange them"):
            check_sides(list_patches("mist", tmp_path, ER, "train", paired=paired), ER)


def test_halves_put_the_wrong_way_round_are_told_and_what_is_pale_is_not(tmp_path: Path) -> None:
    for name, pictures in (("right", tissue(0, 64)), ("wrong", tissue(0, 64)[::-1])):
        save(np.concatenate(pictures, axis=1), tmp_path / name / "train" / "a_0_0.png")
    check_sides(list_patches("ab", tmp_path / "right", ER, "train"), ER)
    with pytest.raises(DataError, match=r"\(left\) and \(right\) are taken for H&E and IHC"):
        check_sides(list_patches("ab", tmp_path / "wrong", ER, "train"), ER)
    save(np.full((64, 128, 3), 240, np.uint8), tmp_path / "glass" / "train" / "a_0_0.png")
    check_sides(list_patches("ab", tmp_path / "glass", ER, "train"), ER)


def test_he_that_is_ihc_too_is_refused_with_the_way_to_go_on(tmp_path: Path) -> None:
    base = make_mist(tmp_path, n_train=3) / "ER" / "TrainValAB"
    rng = np.random.default_rng(0)
    for path in (base / "trainA").iterdir():
        save(np.where(rng.integers(0, 2, (64, 64, 1)) == 0, (110, 110, 180), (140, 90, 50)).astype(np.uint8), path)
    refs = list_patches("mist", tmp_path, ER, "train")
    with pytest.raises(
        DataError, match=r"trainA are taken for H&E, but it looks like haematoxylin with DAB.*or say so"
    ):
        check_sides(refs, ER, any_stain="say so")
    assert check_sides(refs, ER, any_stain=None) is None
