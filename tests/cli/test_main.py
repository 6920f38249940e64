"""What every command does with a machine that says no."""

import errno
import sys

import pytest

from wsistain import cli

LONG = "x" * 300


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("run", LONG, "-w", "identity"),
        ("run", f"{LONG}/a.svs", "-w", "identity"),
        ("run", "a.svs", "-w", LONG),
        ("run", "a.svs", "--config", LONG),
        ("run", "a.svs", "--roi", LONG),
        ("info", LONG),
        ("export", LONG, "x.ome.tif"),
        ("evaluate", "--slides", LONG),
        ("batch", LONG),
        ("batch", "in", "-o", LONG, "-w", "identity"),
        ("weights", "show", LONG),
        ("weights", "import", LONG, "--as", "cut", "--marker", "ER", "--mpp", "0.5"),
        ("phantom", "slide", LONG, "--size", "64"),
        ("train", LONG),
    ],
)
def test_names_that_are_too_long_are_one_sentence(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    code, err = ended(capsys, *command)
    assert code == 2 and "internal error" not in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(
    "command", ["run a.svs -o", "batch in -o", "phantom slide", "phantom patches", "evaluate --slides a.zarr -o"]
)
@pytest.mark.parametrize("url", ["s3://bucket/x", "https://host/x"])
def test_no_command_writes_to_a_url(tmp_path, monkeypatch, capsys, command, url):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    code, err = ended(capsys, *command.split(), url)
    assert code == 2 and "local folders only" in err
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_or_broken_disk_is_one_sentence_and_other_faults_are_ours(monkeypatch, capsys, number):
    def fails(**_):
        raise OSError(number, "Said no", "/disk/\x1b[31mx")

    monkeypatch.setattr(cli, "app", fails)
    code, err = ended(capsys)
    assert code == 2 and "said no" in err and r"\x1b" in err
    number = errno.EBADF
    assert ended(capsys)[0] == 1


def test_windows_is_told_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    code, err = ended(capsys, "--version")
    assert code == 2 and "WSL" in err and len(err.splitlines()) == 1
