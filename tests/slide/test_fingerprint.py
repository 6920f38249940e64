import os
import shutil
from pathlib import Path

import pytest

from wsistain.slide import fingerprint as module
from wsistain.slide.fingerprint import fingerprint


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL_BYTES", 2**16)
    monkeypatch.setattr(module, "_EDGE_BYTES", 2**10)
    monkeypatch.setattr(module, "PIECE_BYTES", 2**8)
    monkeypatch.setattr(module, "N_PIECES", 32)


def test_names_and_dates_play_no_part(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"content")
    shutil.copy(tmp_path / "a.svs", tmp_path / "b.svs")
    os.utime(tmp_path / "b.svs", (1, 1))
    assert fingerprint(tmp_path / "a.svs") == fingerprint(tmp_path / "b.svs")
    assert len(fingerprint(tmp_path / "a.svs")) == 32


@pytest.mark.parametrize("at", [0, 1000, 2**16 - 1])
def test_any_byte_of_a_small_file_counts(tmp_path: Path, small_limits: None, at: int) -> None:
    path = tmp_path / "s.svs"
    data = bytearray(os.urandom(2**16))
    path.write_bytes(data)
    first = fingerprint(path)
    data[at] ^= 1
    path.write_bytes(data)
    assert fingerprint(path) != first


def test_large_files_are_sampled_at_head_tail_and_between(tmp_path: Path, small_limits: None) -> None:
    path = tmp_path / "s.svs"
    data = bytearray(os.urandom(2**20))
    path.write_bytes(data)
    first = fingerprint(path)
    assert fingerprint(path) == first
    for start, stop in ((0, 1), (2**20 - 1, 2**20), (300_000, 340_000)):  # a page that was overwritten
        changed = data.copy()
        changed[start:stop] = bytes(b ^ 255 for b in changed[start:stop])
        path.write_bytes(changed)
        assert fingerprint(path) != first
    path.write_bytes(data[:-1])
    assert fingerprint(path) != first


def test_a_large_file_is_cheap(tmp_path: Path) -> None:
    path = tmp_path / "huge.svs"
    with path.open("wb") as file:
        file.truncate(50 * 2**30)  # sparse
    first = fingerprint(path)
    with path.open("r+b") as file:
        file.truncate(50 * 2**30 + 1)
    assert fingerprint(path) != first


def test_folders_and_the_data_folder_of_mirax_count(tmp_path: Path) -> None:
    (tmp_path / "s.mrxs").write_bytes(b"index")
    alone = fingerprint(tmp_path / "s.mrxs")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"pixels")
    together = fingerprint(tmp_path / "s.mrxs")
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"others")
    assert len({alone, together, fingerprint(tmp_path / "s.mrxs")}) == 3
