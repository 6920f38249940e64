"""Progress on a terminal as a bar with rate and time left; elsewhere as plain lines, at most one in ten seconds."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from wsistain.runtime.say import say

if TYPE_CHECKING:
    from wsistain.pipeline.run import RunEvent

PLAIN_SECONDS = 10.0


class RunProgress:
    """Shows `RunEvent`s; use as a context manager and call with each event."""

    def __init__(self) -> None:
        self._bar: object | None = None
        self._task = 0
        self._start = time.monotonic()
        self._first_mp: float | None = None
        self._last = 0.0

    def __enter__(self) -> "RunProgress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} MP"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = int(bar.add_task("planning", total=1, rate=""))
            bar.start()
            self._bar = bar
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]

    def __call__(self, event: "RunEvent") -> None:
        now = time.monotonic()
        if self._first_mp is None:
            self._first_mp, self._start = event.megapixels, now
        seconds = max(now - self._start, 1e-6)
        rate = (event.megapixels - self._first_mp) / seconds
        if self._bar is not None:
            self._bar.update(  # type: ignore[attr-defined]
                self._task,
                description=event.stage,
                completed=event.megapixels,
                total=event.total_megapixels,
                rate=f"{rate:.1f} MP/s",
            )
        elif event.done and now - self._last >= PLAIN_SECONDS and event.done < event.total:
            self._last = now
            left = (event.total_megapixels - event.megapixels) / rate if rate > 0 else float("nan")
            say(
                f"{event.stage}: block {event.done} of {event.total}, {event.megapixels:.0f} of "
                f"{event.total_megapixels:.0f} MP, {rate:.1f} MP/s, {left:.0f} s left",
                err=True,
            )
