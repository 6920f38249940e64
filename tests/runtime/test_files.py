"""A reader sees all of a file or none of it, and a write that failed says why."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import wsistain
from wsistain.errors import OutputError
from wsistain.runtime.files import (
    PART,
    part_of,
    replacing,
    reporting,
    sweep_parts,
    write_bytes,
    write_file,
    write_json,
    write_text,
)

WRITERS: list[Callable[[Path], object]] = [
    lambda path: write_bytes(path, b"new"),
    lambda path: write_text(path, "new"),
    lambda path: write_json(path, "new"),
    lambda path: write_file(path.parent, path.name, [b"ne", b"w"]),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path, write: Callable[[Path], object]):
    path = tmp_path / "facts"
    path.write_text("old")
    write(path)
    assert path.read_text().strip('"\n') == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["facts"]


def test_the_old_file_stays_where_the_new_one_could_not_be_finished(tmp_path: Path):
    path = tmp_path / "facts"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError("a fault on the way")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["facts"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    path = tmp_path / "facts"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_json_that_no_other_program_could_read_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "facts.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ETIMEDOUT])
def test_a_failed_write_names_the_file_the_reason_and_what_to_try(number: int):
    with (
        pytest.raises(OutputError, match=r"^somewhere/x cannot be written: .+; ") as told,
        reporting("somewhere/x", retry="y z"),
    ):
        raise OSError(number, os.strerror(number))
    assert "{" not in str(told.value)
    assert ("y z" in str(told.value)) is (number != errno.EROFS)


def test_only_unfinished_files_that_nobody_writes_are_swept(tmp_path: Path):
    left, written, other = part_of(tmp_path / "slide.tiff"), part_of(tmp_path / "slide.tiff"), tmp_path / "slide.tiff"
    for path in (left, written, other):
        path.write_bytes(b"x")
    for path in (left, other):
        os.utime(path, (0, 0))
    sweep_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([written.name, other.name])


def test_no_module_renames_its_files_by_hand():
    root = Path(wsistain.__file__).parent
    by_hand = re.compile(r"""["']\.part["']|os\.(replace|rename)\(""")
    places = {str(p.relative_to(root)) for p in root.rglob("*.py") if by_hand.search(p.read_text(encoding="utf-8"))}
    # a batch knows half-made files of other programs by their endings
    assert places == {"runtime/files.py", "batch/scan.py"}, (
        f"use wsistain.runtime.files.replacing, not {PART} and a rename"
    )


def test_a_full_disk_under_a_writer_in_rust_is_the_same_sentence():
    class RustError(Exception):
        """As safetensors raises them."""

    sentence = "w cannot be written: the disk is full; free some space and import again"
    with pytest.raises(OutputError, match=sentence), reporting("w", retry="import again"):
        raise RustError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RustError), reporting("w"):
        raise RustError("Error while serializing: no tensors (error 28)")
