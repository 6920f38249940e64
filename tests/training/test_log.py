import io
import json
from pathlib import Path

from rich.console import Console

from wsistain.training.log import TrainingLog, drop_lines_after


def _write(path: Path, steps: list[int], tail: str = "") -> None:
    path.write_text("".join(json.dumps({"step": s, "seconds": s / 2}) + "\n" for s in steps) + tail, encoding="utf-8")


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_after_the_checkpoint_are_dropped_with_a_torn_last_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, [1, 2, 3, 4], tail='{"step": 5, "ga')
    assert drop_lines_after(path, 3) == 1.5
    assert _steps(path) == [1, 2, 3]
    assert drop_lines_after(path, 0) == 0
    assert _steps(path) == []
    assert drop_lines_after(tmp_path / "absent.jsonl", 3) == 0
    assert not (tmp_path / "absent.jsonl").exists()


def test_each_line_says_where_when_and_how_fast(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, start=0, steps=2, console=Console(file=io.StringIO())) as log:
        log.write(1, 0, 2e-4, {"gan": 0.5}, images=4)
        log.write(2, 0, 1e-4, {"gan": 0.25}, images=4)
    first, last = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert set(first) == {"step", "epoch", "lr", "seconds", "images_per_second", "gan"}
    assert (last["step"], last["gan"], last["lr"]) == (2, 0.25, 1e-4)
    assert last["seconds"] >= first["seconds"] >= 0 and last["images_per_second"] > 0


def test_a_resumed_log_goes_on_counting_seconds(tmp_path: Path) -> None:
    _write(tmp_path / "metrics.jsonl", [100, 200, 300])
    with TrainingLog(tmp_path, start=200, steps=300, console=Console(file=io.StringIO())) as log:
        log.write(201, 0, 2e-4, {"gan": 0.5}, images=1)
    assert _steps(tmp_path / "metrics.jsonl") == [100, 200, 201]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] >= 100


def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(tmp_path: Path) -> None:
    texts = {}
    for is_terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=is_terminal, width=100)
        (tmp_path / str(is_terminal)).mkdir()
        with TrainingLog(tmp_path / str(is_terminal), start=0, steps=2, console=console) as log:
            log.say("training starts")
            for step in (1, 2):
                log.advance(step)
                log.write(step, 0, 1e-4, {"gan": 0.5}, images=1)
        texts[is_terminal] = stream.getvalue()
    assert "training starts" in texts[False] and "training: 2 of 2 steps" in texts[False] and "gan 0.5" in texts[False]
    assert "\x1b" not in texts[False]
    assert "2/2 steps" in texts[True] and "patches/s" in texts[True]


def test_a_warning_stands_in_one_line_and_is_shown_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    with TrainingLog(tmp_path, start=0, steps=3, console=Console(file=stream)) as log:
        for step, warning in enumerate((None, "nce stays at ln(16)", "nce stays at ln(16)"), 1):
            log.write(step, 0, 1e-4, {"nce": 2.8}, images=1, warning=warning)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("warning") for line in lines] == [None, "nce stays at ln(16)", None]
    assert stream.getvalue().count("warning, step 2: nce stays at ln(16)") == 1


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "run", start=0, steps=1, is_main=False) as log:
        log.say("silence")
        log.advance(1)
        log.write(1, 0, 1e-4, {"gan": 0.5}, images=1)
    assert not (tmp_path / "run").exists()
