"""The benchmark's data: the same from the same seeds, whole or gone on with, and what is not the edition's is named."""

import shutil
from dataclasses import replace
from importlib.resources import files
from itertools import combinations

import imagecodecs
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.benchmark.conftest import SMALL, TASK
from wsistain.benchmark.edition import EDITIONS, Condition, find_edition
from wsistain.benchmark.listed import (
    ALIKE,
    PICTURES,
    Listed,
    check,
    exact_means,
    files_of,
    pixel_hash,
    shipped,
    unpacked,
)
from wsistain.benchmark.make import made, make, read_card
from wsistain.cli import app
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.errors import ConfigError, DataError, OutputError


@pytest.fixture
def copy(first, tmp_path):
    shutil.copytree(first[0], tmp_path / "data")
    return tmp_path / "data"


def test_no_slide_is_in_two_parts_and_all_pictures_are_there(first):
    root, listed = first
    assert len(listed.pixels) == SMALL.pictures() == 2 * 2 + 3 * (1 + 2)
    slides = [
        {r.slide for r in list_patches("mist", TASK.folder(root, part), "ER", split)}
        for part, split in (("learn", "train"), ("learn", "val"), ("test", "val"))
    ]
    assert [len(s) for s in slides] == [2, 1, 2] and len(set().union(*slides)) == 5


def test_what_was_lost_is_made_again_to_the_same_pixels_and_the_rest_is_kept(first, copy):
    _, listed = first
    (copy / "benchmark.json").write_text('{"edition": "small", "conditions": {}}')
    pictures = files_of(copy, TASK, PICTURES)
    lost = [p for n, p in pictures.items() if n.startswith("test") and p.stem == min(q.stem for q in pictures.values())]
    lost += [next(p for n, p in pictures.items() if n.startswith("learn"))]
    kept = [p for p in pictures.values() if p not in lost]
    before = [p.stat().st_mtime_ns for p in kept]
    for path in lost:
        path.unlink()
    with pytest.raises(DataError, match="does not hold adjacent-c3-ER"):
        made(copy, SMALL, TASK)
    told = make(copy, [TASK.group], edition=SMALL, frozen=lambda *_: listed)
    assert told[TASK.name]["differ_by_rounding"] == 0 and told[TASK.name]["sha256"] == listed.digest()
    assert all(p.is_file() for p in lost) and [p.stat().st_mtime_ns for p in kept] == before
    assert made(copy, SMALL, TASK) == told[TASK.name]


def changed(root, change):
    """Rewrite the first test picture losslessly after `change`; its name in the list."""
    name, path = next((n, p) for n, p in files_of(root, TASK, PICTURES).items() if "/valA/" in n)
    path.unlink()
    path.with_suffix(".png").write_bytes(imagecodecs.png_encode(change(read_picture_of(path, root))))
    return name


def read_picture_of(path, root):
    return ORIGINAL[path.name]


ORIGINAL: dict = {}


@pytest.fixture(autouse=True)
def originals(first):
    ORIGINAL.update({p.name: read_picture(p) for n, p in files_of(first[0], TASK, PICTURES).items() if "/valA/" in n})


def test_rounding_of_another_machine_is_told_and_let_through(first, copy):
    rng = np.random.default_rng(0)

    def rounded(picture):
        step = (rng.random(picture.shape) < 0.02) * rng.choice([-1, 1], picture.shape)
        return np.clip(picture.astype(int) + step, 0, 255).astype(np.uint8)

    name = changed(copy, rounded)
    assert check(SMALL, copy, TASK, first[1]) == [name]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: np.ascontiguousarray(p[::-1]),
        lambda p: np.where(np.add.outer((np.arange(96) - 20) ** 2, (np.arange(96) - 30) ** 2)[..., None] < 9, 40, p).astype(np.uint8),
        lambda p: np.clip(p.astype(int) + np.array([2, 0, 0]), 0, 255).astype(np.uint8),
    ],
    ids=["mirrored", "one nucleus more", "a tint"],
)  # fmt: skip
def test_another_picture_is_refused_by_name(first, copy, change):
    name = changed(copy, change)
    with pytest.raises(DataError, match=name) as error:
        check(SMALL, copy, TASK, first[1])
    assert "remove that folder" in str(error.value)


def test_missing_and_surplus_pictures_are_named(first, copy):
    path = next(iter(files_of(copy, TASK, PICTURES).values()))
    shutil.copy(path, path.with_name("ER9S000_0_0.jpg"))
    path.unlink()
    with pytest.raises(DataError, match=r"1 missing .*1 too many \(.*ER9S000_0_0"):
        check(SMALL, copy, TASK, first[1])


def test_another_truth_is_refused(first, copy):
    tables = {n: v + np.array([0, 0, 1, 0, 0]) for n, v in first[1].cells.items()}
    with pytest.raises(DataError, match="valCellsA"):
        check(SMALL, copy, TASK, replace(first[1], cells=tables))


def test_a_list_survives_its_file(first):
    again = unpacked(first[1].packed())
    assert again.pixels == dict(first[1].pixels) and again.seen == first[1].seen
    assert all((again.means[n] == m).all() for n, m in first[1].means.items())
    assert all((again.cells[n] == m).all() for n, m in first[1].cells.items())


def test_means_are_those_of_the_squares():
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[2:4, 3:6] = 80
    means = exact_means(picture)
    assert means.shape == (67,) and means[9] == 80 and np.count_nonzero(means[:64]) == 1
    assert means[64] == pytest.approx(80 / 64)
    assert pixel_hash(picture) != pixel_hash(np.ascontiguousarray(picture.transpose(1, 0, 2)))
    assert ALIKE < 1


def test_another_folder_and_another_edition_are_left_alone(first, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        make(tmp_path, edition=SMALL, frozen=lambda *_: first[1])
    other = tmp_path / "other"
    other.mkdir()
    (other / "benchmark.json").write_text('{"edition": "v7", "conditions": {}}')
    with pytest.raises(DataError, match=r"edition v7 .* wanted small; use another folder, or --edition"):
        make(other, edition=SMALL, frozen=lambda *_: first[1])
    (other / "benchmark.json").write_text("[]")
    with pytest.raises(DataError, match="no card"):
        read_card(other, SMALL)


def test_conditions_are_chosen_by_their_beginnings():
    names = [(p, c, m) for p in ("mist", "far") for c in (1, 3) for m in ("ER", "HER2")]
    many = replace(SMALL, conditions=tuple(Condition(*n) for n in names))
    assert [c.name for c in many.choose(["mist-c3-er"])] == ["mist-c3-ER"]
    assert len(many.choose(["mist"])) == 4 and len(many.choose(["mist-c1", "far"])) == 6 and len(many.choose([])) == 8
    with pytest.raises(ConfigError, match="no condition of edition small"):
        many.choose(["mist-c"])
    with pytest.raises(ConfigError, match="names 2 conditions"):
        many.condition("mist-c3")


@pytest.mark.parametrize("edition", EDITIONS.values(), ids=EDITIONS)
def test_the_package_holds_the_list_of_every_condition_and_of_no_other(edition):
    for condition in edition.conditions:
        listed = shipped(edition.name, condition.name)
        assert isinstance(listed, Listed) and len(listed.pixels) == edition.pictures()
        assert len(listed.cells) == edition.val + edition.test and all(c[0] > c[1] > 0 for c in listed.cells.values())
        slides = {n.rsplit("/", 1)[1].split("_")[0]: n.split("/")[0] for n in listed.pixels}
        assert len(slides) == edition.train + edition.val + edition.test
    kept = {p.stem for p in (files("wsistain.benchmark") / "frozen" / edition.name).iterdir()}
    assert kept == {c.name for c in edition.conditions}


def test_no_two_editions_share_a_slide_so_that_pictures_of_one_are_refused_by_the_other():
    of = {
        name: {n.rsplit("/", 1)[1].split("_")[0] for c in e.conditions for n in shipped(name, c.name).pixels}
        for name, e in EDITIONS.items()
    }
    assert len(of) > 1 and all(not of[a] & of[b] for a, b in combinations(of, 2))
    assert [find_edition(name) for name in of] == list(EDITIONS.values())


def test_the_command_refuses_what_is_no_condition(tmp_path):
    result = CliRunner().invoke(app, ["benchmark", "make", str(tmp_path / "x"), "--only", "mist-c9"])
    assert isinstance(result.exception, ConfigError) and "mist-c9" in str(result.exception)
    result = CliRunner().invoke(app, ["benchmark", "make", str(tmp_path / "x"), "--edition", "v7"])
    assert isinstance(result.exception, ConfigError) and "one of v0, v1" in str(result.exception)
    for nothing in ("", ","):  # an empty variable of a script is not "all of them"
        result = CliRunner().invoke(app, ["benchmark", "make", str(tmp_path / "x"), "--only", nothing])
        assert isinstance(result.exception, ConfigError) and "names no condition" in str(result.exception)
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, wanted a folder"):
        make(tmp_path / "file", ["mist-c3-ER"])
