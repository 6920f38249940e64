"""What a run leaves to read: `metrics.jsonl`, TensorBoard, and a progress bar or plain lines."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from wsistain.runtime.files import write_text
from wsistain.runtime.progress import ProgressBar


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
    """

    def __init__(self, output: Path, *, start: int, steps: int, is_main: bool = True, console: Console | None = None):
        self.is_main, self.start, self.steps = is_main, start, steps
        self._began = self._last = time.monotonic()
        self._warned: set[str] = set()
        if not is_main:
            return
        metrics = output / "metrics.jsonl"
        self._before = drop_lines_after(metrics, start)
        self._file = metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1)
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
            self._board.close()

    def advance(self, step: int) -> None:
        """Show that `step` steps are done."""
        if self.is_main:
            self._bar("training", step, self.steps, self._detail)

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
            self._board.add_text("warning", warning, step)
            self.say(f"warning, step {step}: {warning}")
        self._file.write(json.dumps(record) + "\n")
        # A run that is killed has its lines up to here.
        self._file.flush()
        for name, value in terms.items():
            self._board.add_scalar(f"terms/{name}", value, step)
        self._board.add_scalar("lr", rate, step)
        self._board.add_scalar("images_per_second", per_second, step)
        self._last = now
        losses = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
        self._detail = f"{per_second:.1f} patches/s, {losses}"
        self._bar("training", step, self.steps, self._detail, at_once=step == self.steps)

    def say(self, text: str) -> None:
        """One line for the person who watches."""
        if self.is_main:
            self._bar.say(text)
