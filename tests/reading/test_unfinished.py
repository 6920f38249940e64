"""An interrupted reading is gone on with: the same bytes, and nothing unfinished that looks finished."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest

from tests.reading.killing import BLOCK
from wsistain.errors import OutputError
from wsistain.output.names import READ_ENDINGS, READ_WORK
from wsistain.reading import read as reading_module
from wsistain.reading.grid import make_grid
from wsistain.reading.read import read

ENDINGS = READ_ENDINGS[:3]  # the report and read.json tell dates and seconds


@pytest.fixture
def moved(stained, tmp_path):
    """The stain and its slide in a folder of their own, with nothing read yet."""
    he, stain = stained
    shutil.copytree(stain, tmp_path / stain.name)
    shutil.copy(he, tmp_path / he.name)
    return tmp_path / stain.name


def beside(stain, ending):
    return stain.with_name(f"he.ER.{ending}")


def written(stain):
    """Bytes by ending, and read.json without what is of its time."""
    facts = json.loads(beside(stain, "read.json").read_text())
    del facts["seconds"], facts["resumed_blocks"], facts["provenance"]["date"]
    return [*(beside(stain, ending).read_bytes() for ending in ENDINGS), facts]


def unbroken(stain):
    """What a reading that nobody stops writes; nothing of it stays."""
    read([stain], block=BLOCK)
    found = written(stain)
    for ending in READ_ENDINGS:
        beside(stain, ending).unlink()
    return found


def test_a_killed_reading_goes_on_to_the_same_bytes(moved):
    whole = unbroken(moved)
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.reading.killing", str(moved)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    assert all("he.ER.read.json" not in names and f"he.ER.{READ_WORK}" in names for names in told["seen"])
    assert not any("he.ER.cells.parquet" in names for names in told["seen"][:2])
    assert told["resumed"] == 9
    assert written(moved) == whole
    assert sorted(p.name for p in moved.parent.glob("he.ER.*.part")) == []
    assert not beside(moved, READ_WORK).exists()


def stop_at(block):
    def progress(done, _):
        if done == block:
            raise KeyboardInterrupt

    return progress


def test_a_stopped_reading_goes_on_to_the_same_bytes(moved):
    whole = unbroken(moved)
    with pytest.raises(KeyboardInterrupt):
        read([moved], block=BLOCK, threads=3, progress=stop_at(5))
    assert not [p for p in map(partial(beside, moved), READ_ENDINGS) if p.exists()]
    (beside(moved, READ_WORK) / "2.npz").write_bytes(b"cut off")
    done = read([moved], block=BLOCK)[0]
    assert 4 <= done.resumed_blocks <= 8 and json.loads(done.files["facts"].read_text())["resumed_blocks"] > 0
    assert written(moved) == whole


def test_a_whole_reading_stands_until_another_one_is_whole(moved, tmp_path):
    read([moved], trust=False)
    before = written(moved)
    with pytest.raises(KeyboardInterrupt):
        read([moved], block=BLOCK, trust=False, overwrite=True, progress=stop_at(2))
    assert written(moved) == before
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        read([moved], block=BLOCK, trust=False)
    # Cells that depend on something else are not gone on with.
    assert read([moved], trust=False, overwrite=True)[0].resumed_blocks == 0
    assert written(moved) == before and not beside(moved, READ_WORK).exists()


def test_two_processes_do_not_read_one_stain_at_once(moved):
    def meanwhile(done, _):
        with pytest.raises(OutputError, match="being read by another process"):
            read([moved], trust=False)

    assert read([moved], trust=False, progress=meanwhile)[0].n_cells > 100


def test_the_command_says_what_is_kept_when_it_is_told_to_end(moved, capsys, monkeypatch):
    from wsistain.cli import main

    def terminated(done, _):
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(reading_module, "make_grid", lambda info, block: make_grid(info, block=BLOCK))
    whole = partial(reading_module._write_cells)
    monkeypatch.setattr(reading_module, "_write_cells", lambda *args: whole(*args[:-1], terminated))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["read", str(moved), "--no-trust", "--threads", "1"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    assert beside(moved, READ_WORK).is_dir() and not beside(moved, "read.json").exists()
