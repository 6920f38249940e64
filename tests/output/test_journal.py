"""The journal survives kill -9, ties an output to its plan, and lets one run at a time write."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.output.making import block_of, places, small_spec, tissue_like, tree_hash, write_all
from wsistain.errors import OutputError
from wsistain.output import journal as journal_module
from wsistain.output.journal import check_place, damaged_files, open_journal
from wsistain.output.layout import WORK, OutputSpec
from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid
from wsistain.output.store import create_output, write_block

KEY = {"plan": "aaa", "slide": "bbb", "weights": "ccc", "versions": {"wsistain": "1"}}


def begin(spec: OutputSpec, n_blocks: int = 0) -> None:
    """An unfinished output with its first `n_blocks` blocks done."""
    pixels = tissue_like(spec.height, spec.width)
    with open_journal(spec.path, KEY, resume=False, overwrite=False) as journal:
        create_output(spec)
        for row, col in places(spec)[:n_blocks]:
            journal.append(write_block(spec, row, col, block_of(spec, pixels, row, col)))


def complete(spec: OutputSpec, key: dict = KEY) -> None:
    write_all(spec, tissue_like(spec.height, spec.width), finish=False)
    write_metadata(spec, {}, "test", key=key)


def test_a_new_output_gets_a_journal_and_nothing_that_looks_finished(tmp_path: Path) -> None:
    with open_journal(str(tmp_path / "o"), KEY, resume=False, overwrite=False) as journal:
        assert journal.done() == {}
        assert not journal.finished
        assert sorted(tree_hash(tmp_path / "o")) == [".wsistain/journal.jsonl", ".wsistain/lock"]
        header = json.loads(journal.path.read_text().splitlines()[0])
        assert header["key"] == KEY


def test_resume_of_nothing_begins_and_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, resume in (("none", True), ("empty", False)):
        with open_journal(str(tmp_path / name), KEY, resume=resume, overwrite=False) as journal:
            assert journal.done() == {}


def test_finished_blocks_are_found_again(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 4)
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        assert sorted(journal.done()) == places(spec)[:4]
        assert all(damaged_files(spec.folder, b, contents=True) == [] for b in journal.done().values())


def test_an_existing_output_is_refused_naming_both_ways_out_and_left_alone(tmp_path: Path) -> None:
    unfinished, finished = small_spec(tmp_path / "u", 300, 300), small_spec(tmp_path / "f", 300, 300)
    begin(unfinished, 2)
    complete(finished)
    for spec, word in ((unfinished, r"unfinished \(2 blocks done\)"), (finished, "finished")):
        before = tree_hash(spec.folder)
        with pytest.raises(OutputError, match=word) as caught:
            open_journal(spec.path, KEY, resume=False, overwrite=False)
        assert "--resume" in str(caught.value)
        assert "--overwrite" in str(caught.value)
        assert tree_hash(spec.folder) == before


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("change", "named", "silent"),
    [
        ({"plan": "xxx"}, ["the plan (was aaa, is xxx)"], ["slide", "weights", "versions"]),
        ({"slide": "xxx", "weights": "y"}, ["the slide (was bbb, is xxx)", "the weights"], ["the plan", "versions"]),
        ({"versions": {"wsistain": "2"}}, ["the versions"], ["the plan", "slide", "weights"]),
    ],
)
def test_resume_with_another_key_says_exactly_what_changed(
    tmp_path: Path, finished: bool, change: dict, named: list[str], silent: list[str]
) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    if finished:
        complete(spec)
    else:
        begin(spec, 1)
    before = tree_hash(spec.folder, skip=(".wsistain",))
    with pytest.raises(OutputError) as caught:
        open_journal(spec.path, {**KEY, **change}, resume=True, overwrite=False)
    message = str(caught.value).split("something else")[1]
    assert all(words in message for words in named)
    assert not any(word in message for word in silent)
    assert tree_hash(spec.folder, skip=(".wsistain",)) == before
    open_journal(spec.path, KEY, resume=True, overwrite=False).close()  # and the right key still may


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_resume_of_a_finished_output_has_nothing_to_do(tmp_path: Path, ngff: str) -> None:
    spec = small_spec(tmp_path / "o", 300, 300, ngff=ngff)
    complete(spec)
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        assert journal.finished
    assert not (spec.folder / ".wsistain").exists()


def test_overwrite_removes_all_of_an_earlier_output(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300, ngff="0.4")
    complete(spec)
    with open_journal(spec.path, {**KEY, "plan": "new"}, resume=False, overwrite=True) as journal:
        assert journal.done() == {}
        assert sorted(tree_hash(spec.folder)) == [".wsistain/journal.jsonl", ".wsistain/lock"]


@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True)])
def test_a_folder_or_file_of_somebody_else_is_never_touched(tmp_path: Path, flags: tuple[bool, bool]) -> None:
    foreign, other_zarr, plain = tmp_path / "foreign", tmp_path / "zarr", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("do not lose me")
    other_zarr.mkdir()
    (other_zarr / "zarr.json").write_text('{"attributes": {"ome": {}}, "zarr_format": 3, "node_type": "group"}')
    plain.write_text("x")
    before = tree_hash(tmp_path)
    for path in (foreign, other_zarr, plain):
        with pytest.raises(OutputError, match=r"not written by wsistain|is a file"):
            open_journal(str(path), KEY, resume=flags[0], overwrite=flags[1])
    assert tree_hash(tmp_path) == before


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exclude each other"):
        open_journal(str(tmp_path / "o"), KEY, resume=True, overwrite=True)
    assert not (tmp_path / "o").exists()


def test_a_journal_torn_at_any_byte_keeps_the_whole_lines_and_goes_on(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 3)
    path = spec.folder / ".wsistain" / "journal.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    pixels = tissue_like(300, 300)
    for cut in [*range(0, len(whole), 37), *ends, *(e - 1 for e in ends)]:
        path.write_bytes(whole[:cut])
        with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
            expected = max(sum(end <= cut for end in ends) - 1, 0)
            assert sorted(journal.done()) == places(spec)[:expected]
            journal.append(write_block(spec, 2, 2, block_of(spec, pixels, 2, 2)))
        with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
            assert sorted(journal.done()) == [*places(spec)[:expected], (2, 2)]


def test_garbage_after_the_last_line_is_cut_off(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 2)
    path = spec.folder / ".wsistain" / "journal.jsonl"
    whole = path.read_bytes()
    for garbage in (b"\0" * 50, b'{"block": 3}\n', b'{"block": {"row": 1}}\n', b"[]\n", b"\xff\xfe\n"):
        path.write_bytes(whole + garbage)
        with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
            assert sorted(journal.done()) == places(spec)[:2]
        assert path.read_bytes() == whole


def test_blocks_whose_files_are_gone_or_short_are_done_again(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 4)
    (spec.folder / "0/c/0/0/0").unlink()  # block (0, 0)
    os.truncate(spec.folder / "1/c/0/0/1", 10)  # block (0, 1)
    (spec.folder / spec.piece_file(1, 0)).unlink()  # block (1, 0)
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        assert sorted(journal.done()) == [(0, 2)]


def test_changed_contents_are_found_when_asked_for(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 1)
    shard = spec.folder / "0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        block = journal.done()[0, 0]
    assert damaged_files(spec.folder, block) == []
    assert damaged_files(spec.folder, block, contents=True) == ["0/c/0/0/0"]


def test_resume_removes_half_written_files(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 1)
    strays = [spec.folder / "0/c/0/0/1.abc.part", spec.folder / ".wsistain/pieces/0_0.zst.1.part"]
    for stray in strays:
        stray.write_bytes(b"half")
    open_journal(spec.path, KEY, resume=True, overwrite=False).close()
    assert not any(stray.exists() for stray in strays)


def test_finish_leaves_the_output_alone_and_closes(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    journal = open_journal(spec.path, KEY, resume=False, overwrite=False)
    done = write_all(spec, tissue_like(300, 300))
    journal.append(done[0])
    before = tree_hash(spec.folder, skip=(".wsistain",))
    journal.finish()
    assert journal.finished
    assert tree_hash(spec.folder) == before
    with pytest.raises(ValueError, match="closed"):
        journal.append(done[1])


def test_two_runs_on_one_output_are_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    code = (
        "import sys, time\n"
        "from wsistain.output.journal import open_journal\n"
        f"journal = open_journal({spec.path!r}, {KEY!r}, resume=False, overwrite=False)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        for resume in (True, False):
            with pytest.raises(OutputError, match="is being written by another run"):
                open_journal(spec.path, KEY, resume=resume, overwrite=not resume)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        assert journal.done() == {}
        with pytest.raises(OutputError, match="is being written by another run"):
            open_journal(spec.path, KEY, resume=True, overwrite=False)
    open_journal(spec.path, KEY, resume=True, overwrite=False).close()


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(journal_module.fcntl, "flock", unsupported)
    open_journal(str(tmp_path / "o"), KEY, resume=False, overwrite=False).close()
    assert "has no locks" in caplog.text


def test_a_full_disk_while_recording_is_one_sentence_and_the_block_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 1)
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        block = write_block(spec, 0, 1, tissue_like(300, 300)[:128, 128:256])

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(journal_module.os, "fsync", full)
        with pytest.raises(OutputError, match="disk is full"):
            journal.append(block)
        assert sorted(journal.done()) == [(0, 0)]


CHILD = """
import os, signal, sys
from pathlib import Path
from tests.output.making import block_of, places, small_spec, tissue_like
from tests.output.test_journal import KEY, run_to_end
from wsistain.runtime import files

left = int(sys.argv[2])
write_all = files._write_all

def dying(descriptor, buffers):
    global left
    left -= 1
    if left < 0:
        os.write(descriptor, b"".join(buffers)[:20])
        os.kill(os.getpid(), signal.SIGKILL)
    write_all(descriptor, buffers)

files._write_all = dying
run_to_end(small_spec(Path(sys.argv[1]), 300, 300))
"""


def run_to_end(spec: OutputSpec) -> int:
    """Begins or continues `spec` and finishes it; how many blocks were already done."""
    pixels = tissue_like(spec.height, spec.width)
    pixels[:128, :128] = 255  # a glass block: done, without a file
    journal = open_journal(spec.path, KEY, resume=True, overwrite=False)
    known = journal.done()
    create_output(spec)
    for row, col in places(spec):
        if (row, col) not in known:
            journal.append(write_block(spec, row, col, block_of(spec, pixels, row, col), threads=2))
    finish_pyramid(spec)
    write_metadata(spec, {"system": "test"}, "test", key=journal.key)
    journal.finish()
    return len(known)


def test_kill_9_at_any_write_and_resume_gives_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    straight, broken = small_spec(tmp_path / "straight", 300, 300), small_spec(tmp_path / "broken", 300, 300)
    assert run_to_end(straight) == 0
    root = Path(__file__).resolve().parents[2]
    counts = []
    for writes in (7, 13, 2, 14):  # within blocks, then among the levels above and the metadata
        child = subprocess.run([sys.executable, "-c", CHILD, broken.path, str(writes)], cwd=root, check=False)
        assert child.returncode == -signal.SIGKILL
        assert not (broken.folder / "zarr.json").exists()
        journal = open_journal(broken.path, KEY, resume=True, overwrite=False)
        counts.append(len(journal.done()))
        journal.close()
    assert counts == sorted(counts)
    assert 0 < counts[0] < len(places(broken))
    assert run_to_end(broken) == counts[-1] == len(places(broken))
    assert tree_hash(broken.folder) == tree_hash(straight.folder)
    assert np.array_equal(sorted(tree_hash(straight.folder)), sorted(tree_hash(broken.folder)))


def test_notes_and_sessions_are_there_after_a_resume(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    pixels = tissue_like(300, 300)
    for session, (row, col) in enumerate(places(spec)[:2]):
        with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
            create_output(spec)
            journal.begin_session({"device_names": [f"processor {session}"]})
            journal.append(write_block(spec, row, col, block_of(spec, pixels, row, col)), {"tiles": session})
    with open_journal(spec.path, KEY, resume=True, overwrite=False) as journal:
        assert journal.notes() == {place: {"tiles": n} for n, place in enumerate(places(spec)[:2])}
        assert [s["device_names"] for s in journal.sessions] == [["processor 0"], ["processor 1"]]


def test_an_unfinished_output_of_an_earlier_version_is_refused_with_a_sentence(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    begin(spec, 2)
    path = tmp_path / "o" / WORK / "journal.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(first), "format": 1, "wsistain": "0.0.9"}) + "\n" + "".join(rest))
    before = tree_hash(tmp_path / "o")
    for look in (check_place, open_journal):
        with pytest.raises(OutputError, match=r"begun by wsistain 0\.0\.9, whose unfinished outputs .* --overwrite"):
            look(spec.path, KEY, True, False)
    assert tree_hash(tmp_path / "o") == before
    open_journal(spec.path, KEY, resume=False, overwrite=True).close()


@pytest.mark.parametrize("changed", [None, "plan", "slide", "weights"])
def test_a_finished_output_of_an_earlier_version_counts_as_finished_unless_it_is_another(
    tmp_path: Path, changed: str | None
) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    complete(spec, {**KEY, "precision": "auto", "norm": "slide/64", "output": "0.5/512/2048/1"})
    key = {**KEY, "format": 2, "precision": "float32", "norm": "slide", "device": "cpu", "output": {"ngff": "0.5"}}
    if changed is None:
        assert check_place(spec.path, key, True, False)
        return
    with pytest.raises(OutputError, match=f"because it was begun with something else: the {changed} "):
        check_place(spec.path, {**key, changed: "other"}, True, False)


def test_what_differs_inside_a_value_is_named(tmp_path: Path) -> None:
    key = {**KEY, "output": {"shard": 2048, "chunk": 512}}
    open_journal(str(tmp_path / "o"), key, resume=False, overwrite=False).close()
    with pytest.raises(OutputError, match=r"the output\.shard \(was 2048, is 1024\); pass"):
        check_place(str(tmp_path / "o"), {**KEY, "output": {"shard": 1024, "chunk": 512}}, True, False)


def test_a_look_at_a_place_makes_nothing(tmp_path: Path) -> None:
    assert not check_place(str(tmp_path / "a" / "b" / "o"), KEY, False, False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made or written"):
        check_place(str(tmp_path / "file" / "o"), KEY, False, False)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
