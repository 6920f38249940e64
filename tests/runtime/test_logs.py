"""How much a command tells: results always, notes unless quiet, everything into the log file."""

import logging

import pytest

from wsistain.errors import ConfigError, OutputError
from wsistain.runtime.logs import speaking
from wsistain.runtime.progress import ProgressBar
from wsistain.runtime.say import is_quiet, note, say

LOG = logging.getLogger("wsistain.somewhere")


def test_quiet_leaves_notes_and_progress_out_and_keeps_results_and_warnings(capsys):
    with speaking(quiet=True):
        note("on the way")
        with ProgressBar("tiles") as bar:
            bar.say("a loss")
            bar.say("a warning", always=True)
        say("the result")
        say("an error", err=True)
    out, err = capsys.readouterr()
    assert out == "the result\n" and err.splitlines() == ["a warning", "an error"]
    assert not is_quiet()


def test_what_is_done_is_shown_on_standard_error_as_often_as_v_was_typed(capsys):
    for verbose, wanted in ((0, []), (1, ["plan"]), (2, ["plan", "step"])):
        with speaking(verbose):
            LOG.info("plan of [red]a.svs\x1b[31m")
            LOG.debug("step")
        out, err = capsys.readouterr()
        assert out == "" and [word for word in ("plan", "step") if word in err] == wanted
        assert "\x1b" not in err and ("[red]" in err) == bool(verbose)
    LOG.info("nobody listens any more")
    assert capsys.readouterr().err == ""


def test_the_log_file_holds_all_that_is_told_and_is_added_to(tmp_path, capsys):
    path = tmp_path / "run.log"
    for _ in range(2):
        with speaking(quiet=True, log_file=path, version="1.2"):
            note("on the way\nforged line")
            say("the result")
            LOG.debug("step %d", 3)
    lines = path.read_text().splitlines()
    assert len(lines) == 8 and "wsistain 1.2, Python 3" in lines[0]
    assert [line.partition(": ")[2] for line in lines[1:4]] == ["on the way forged line", "the result", "step 3"]
    assert capsys.readouterr().out == "the result\n" * 2


@pytest.mark.parametrize("error", [ConfigError("no such key"), RuntimeError("our fault"), KeyboardInterrupt()])
def test_how_it_ended_stands_in_the_log_file(tmp_path, error):
    path = tmp_path / "run.log"
    with pytest.raises(type(error)), speaking(log_file=path):
        raise error
    text = path.read_text()
    assert "ERROR" in text and (str(error) or "stopped by the user") in text
    assert ("Traceback" in text) == (not isinstance(error, KeyboardInterrupt))


def test_places_that_are_no_log_are_refused_and_left_as_they_are(tmp_path):
    slide = tmp_path / "slide.tiff"
    slide.write_bytes(b"II*\0 pixels")
    for place, wanted in (
        (slide, "no log of wsistain"),
        (tmp_path / "none" / "a.log", "cannot be written"),
        (tmp_path, "cannot be written"),
        ("s3://bucket/a.log", "local folders only"),
    ):
        with pytest.raises(OutputError, match=wanted), speaking(log_file=place):
            pass
    assert slide.read_bytes() == b"II*\0 pixels"
    with pytest.raises(ConfigError, match="exclude each other"), speaking(1, True):
        pass
