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
