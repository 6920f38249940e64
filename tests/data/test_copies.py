"""Copies are found whatever they are called, and nothing else is taken for one."""

from pathlib import Path

from tests.data.made_patches import make_mist
from wsistain.data.copies import copies
from wsistain.data.layouts import list_patches, split_report
from wsistain.evaluation.seen import copied


def _write(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_only_files_of_the_same_bytes_are_copies(tmp_path: Path) -> None:
    long = bytes(range(256)) * 1024
    other_end = long[:-1] + b"x"
    a = _write(tmp_path / "a", one=b"same", two=long, three=b"alone", four=b"", five=other_end)
    b = _write(tmp_path / "b", uno=b"same", dos=long, tres=b"ALONE", quatro=b"")
    assert copies([*a, tmp_path / "absent"], [*b, tmp_path / "absent"]) == {a[0]: b[0], a[1]: b[1]}


def test_a_held_out_patch_that_is_trained_on_under_another_name_is_told(tmp_path: Path) -> None:
    make_mist(tmp_path, n_train=3, n_val=2)
    train, val = (list_patches("mist", tmp_path, "ER", part) for part in ("train", "val"))
    assert split_report(train, val)["patches_in_both"] == [] and copied(val, train) == []
    train[1].he.write_bytes(val[0].he.read_bytes())
    assert split_report(train, val)["patches_in_both"] == [val[0].name]
    (told,) = copied(val, train)
    assert told.startswith(
        f"1 of 2 patches measured here are, byte for byte, in the training part of the data set too ({val[0].name})"
    )
