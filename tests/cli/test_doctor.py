"""The doctor sees what is there, and says what does not work."""

import pytest
from typer.testing import CliRunner

from wsistain.cli import app, doctor


def test_a_sound_installation_is_told_so():
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu"])
    assert done.exit_code == 0 and done.stdout.endswith("all that a run needs works\n")
    for said in (
        "torch 2",
        "cores for this process",
        "openslide: reads a tiled TIFF exactly",
        "ER, PR, Ki67, HER2",
        "stained on cpu",
    ):
        assert said in done.stdout


def test_what_fails_is_named_and_the_rest_is_still_looked_at(monkeypatch):
    def broken():
        raise OSError("libopenslide is gone")

    monkeypatch.setattr(doctor, "_readers", broken)
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu"])
    assert "FAILED: OSError: libopenslide is gone" in done.stdout and "stained on cpu" in done.stdout
    assert "this does not work here: readers" in str(done.exception)


def test_a_device_that_is_not_there_fails(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(app, ["doctor", "--device", "cuda"])
    assert "this does not work here: test tile" in str(done.exception)


def test_a_version_in_short():
    assert CliRunner().invoke(app, ["-V"]).stdout.startswith("wsistain ")
