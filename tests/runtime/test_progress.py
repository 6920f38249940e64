"""A bar where somebody watches, few plain lines where nobody does."""

import io

import pytest
from rich.console import Console

from wsistain.runtime import progress
from wsistain.runtime.progress import PLAIN_SECONDS, ProgressBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def plain() -> tuple[io.StringIO, Console]:
    stream = io.StringIO()
    return stream, Console(file=stream, force_terminal=False, width=60)


def test_a_pipe_gets_at_most_one_line_in_ten_seconds(clock: list[float]):
    stream, console = plain()
    with ProgressBar("MP", console=console) as bar:
        for done in range(41):
            bar("staining", 20 + done, 120, f"block {done} of 100")
            clock[0] += 0.5
    lines = stream.getvalue().splitlines()
    assert lines == [
        "staining: 40 of 120 MP, 2 MP/s, 40 s left, block 20 of 100",
        "staining: 60 of 120 MP, 2 MP/s, 30 s left, block 40 of 100",
    ]


def test_what_was_done_before_is_no_merit_of_this_run(clock: list[float]):
    stream, console = plain()
    with ProgressBar("patches", console=console) as bar:
        bar("cut", 90, 100)
        clock[0] += PLAIN_SECONDS
        bar("cut", 95, 100)
    assert stream.getvalue() == "cut: 95 of 100 patches, 0.5 patches/s, 10 s left\n"


def test_the_last_line_is_left_to_the_command_unless_it_is_asked_for(clock: list[float]):
    stream, console = plain()
    with ProgressBar("steps", console=console) as bar:
        clock[0] += 60
        bar("training", 4, 4, "l1 0.5")
        assert stream.getvalue() == ""
        bar("training", 4, 4, "l1 0.5", at_once=True)
    assert stream.getvalue() == "training: 4 of 4 steps, l1 0.5\n"


def test_a_terminal_gets_a_bar_and_no_plain_lines(clock: list[float]):
    stream = io.StringIO()
    with ProgressBar("tiles", console=Console(file=stream, force_terminal=True, width=120)) as bar:
        for done in (0, 5, 10):
            bar("exporting", done, 10, "[red]level")
            clock[0] += 20
        bar.say("between")
    assert "10/10 tiles" in stream.getvalue() and "[red]level" in stream.getvalue() and "between" in stream.getvalue()
    assert " of 10 tiles" not in stream.getvalue()


def test_nothing_to_do_is_no_division_by_nothing(clock: list[float]):
    stream, console = plain()
    with ProgressBar("MP", console=console) as bar:
        bar("staining", 0, 0)
        clock[0] += 60
        bar("staining", 0, 0)
    assert stream.getvalue() == ""
