"""What a run leaves to read: `metrics.jsonl`, what its trackers show, and a progress bar or plain lines."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from wsistain.runtime.files import write_text
from wsistain.runtime.progress import ProgressBar
from wsistain.training.trackers import Trackers
from wsistain.training.validation import KEY, Best

_TIMED_STEPS, _TIMED_SECONDS, _WORTH_SAYING, _TOLD_EVERY = 10, 3.0, 20.0, 60.0


def in_words(seconds: float) -> str:
    """A length of time as people say it.

    >>> in_words(50), in_words(600), in_words(9000), in_words(400_000)
    ('50 seconds', '10 minutes', '2.5 hours', '4.6 days')
    """
    for size, unit in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} seconds"


def drop_lines_after(path: Path, step: int) -> float:
    """Cut a metrics file back to lines of at most `step`, so that a resumed run has no step twice.

    A last line that was cut short goes too. The new file appears in one move. Returns the seconds of training that
    the last line kept tells of, 0 where there is none.
    """
    if not path.is_file():
        return 0.0
    kept, seconds = [], 0.0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and record.get("step", step + 1) <= step:
            kept.append(line + "\n")
            seconds = float(record.get("seconds", seconds))
    write_text(path, "".join(kept))
    return seconds


class TrainingLog:
    """Logs of one process; a context manager. With `is_main` False every method does nothing.

    output : folder of the run.
    start  : steps already done.
    steps  : steps of the whole run.

    Closes the trackers when it ends.
    """

    def __init__(
        self,
        output: Path,
        *,
        start: int,
        steps: int,
        is_main: bool = True,
        trackers: Trackers | None = None,
        console: Console | None = None,
    ):
        self.is_main, self.start, self.steps, self._trackers = is_main, start, steps, trackers
        self._began = self._last = self._told = time.monotonic()
        self._measured_from: tuple[int, float] | None = None
        self._is_timed = False
        self._warned: set[str] = set()
        if not is_main:
            return
        metrics = output / "metrics.jsonl"
        self._before = drop_lines_after(metrics, start)
        self._file = metrics.open("a", encoding="utf-8")
        self._bar = ProgressBar("steps", console=console)
        self._detail = ""

    def __enter__(self) -> "TrainingLog":
        if self.is_main:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_main:
            self._bar.__exit__(kind, error, trace)
            self._file.close()
            if self._trackers is not None:
                self._trackers.close()

    def advance(self, step: int) -> None:
        """Show that `step` steps are done."""
        if self.is_main:
            self._bar("training", step, self.steps, self._detail)
            self._foretell(step)

    def _foretell(self, step: int) -> None:
        """Say once, when a few steps have been timed (the first is slower than any other), how long the run will take."""
        now = time.monotonic()
        if self._measured_from is None:
            self._measured_from = (step, now)
        first, since = self._measured_from
        if self._is_timed or step - first < _TIMED_STEPS or now - since < _TIMED_SECONDS:
            return
        self._is_timed = True
        each = (now - since) / (step - first)
        left = each * (self.steps - step)
        if left > _WORTH_SAYING:
            self.say(f"{each:.3g} s a step, so about {in_words(left)} for the {self.steps - step} steps left")

    def write(
        self,
        step: int,
        epoch: int,
        rate: float,
        terms: Mapping[str, float],
        images: int,
        warning: str | None = None,
    ) -> None:
        """One line of metrics after `step` steps.

        rate    : learning rate of the first optimiser.
        images  : patches seen since the last line, in all processes.
        warning : what is wrong with the run; the first time, it stands in the line and is shown.
        """
        if not self.is_main:
            return
        now = time.monotonic()
        per_second = images / max(now - self._last, 1e-9)
        record: dict[str, float | str] = {
            "step": step,
            "epoch": epoch,
            "lr": rate,
            "seconds": round(self._before + now - self._began, 3),
            "images_per_second": round(per_second, 3),
            **terms,
        }
        if warning is not None and warning not in self._warned:
            self._warned.add(warning)
            record["warning"] = warning
            if self._trackers is not None:
                self._trackers.text("warning", warning, step)
            self.say(f"warning, step {step}: {warning}", always=True)
        self._line(record)
        if self._trackers is not None:
            terms_and_rates = {f"terms/{name}": value for name, value in terms.items()}
            self._trackers.scalars({**terms_and_rates, "lr": rate, "images_per_second": per_second}, step)
        self._last = now
        losses = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
        self._detail = f"{per_second:.1f} patches/s, {losses}"
        self._bar("training", step, self.steps, self._detail, at_once=step == self.steps)
        if sys.stderr.isatty() and now - self._told > _TOLD_EVERY:  # above the bar, where it stays
            self._told = now
            self.say(f"step {step}: {losses}")

    def validated(self, step: int, values: Mapping[str, float], best: Best, *, is_best: bool) -> None:
        """One line of what was measured on held-out patches after `step` steps, and whether it is the best so far."""
        if not self.is_main:
            return
        self._line({"step": step, KEY: dict(values), "best": is_best})
        if self._trackers is not None:
            self._trackers.scalars({f"{KEY}/{name}": value for name, value in values.items()}, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        known = "none yet" if best.value is None else f"{best.metric} {best.value:.4g} at step {best.step}"
        self.say(f"{KEY}, step {step}: {shown} ({'the best so far' if is_best else f'best: {known}'})")
        self._last = time.monotonic()  # what it took is no training

    def picture(self, name: str, rgb: NDArray[np.uint8], step: int) -> None:
        """A picture, uint8 (h, w, 3), for the trackers."""
        if self.is_main and self._trackers is not None:
            self._trackers.picture(name, rgb, step)

    def _line(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()  # a run that is killed has its lines up to here

    def say(self, text: str, *, always: bool = False) -> None:
        """One line for the person who watches; under `--quiet` only where `always`."""
        if self.is_main:
            self._bar.say(text, always=always)
