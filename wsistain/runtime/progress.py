"""How far a command has come: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wsistain.errors import shown
from wsistain.runtime.say import is_quiet, record

if TYPE_CHECKING:
    from rich.console import Console

OnProgress = Callable[[str, int, int], None]
"""How long work tells of itself: called with (what, parts done, parts in all). A `ProgressBar` is one."""

PLAIN_SECONDS = 10.0


class ProgressBar:
    """Shows work under way; a context manager that is called with how much of what is done.

    unit    : what is counted, in the plural ("patches", "MP").
    console : where it is shown; None is standard error.
    """

    def __init__(self, unit: str, *, console: "Console | None" = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._unit = unit
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._origins: dict[str, tuple[float, float]] = {}
        self._printed = monotonic()

    def __enter__(self) -> "ProgressBar":
        if self._console.is_terminal and not is_quiet():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            fields = ("description", "fields[counted]", "fields[rated]")
            described, *rest = (TextColumn(f"{{task.{field}}}", markup=False) for field in fields)
            self._bar = Progress(described, BarColumn(), *rest, TimeRemainingColumn(), console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(
        self, what: str, done: float, total: float, detail: str = "", *, at_once: bool = False, unit: str | None = None
    ) -> None:
        """Show that `done` of `total` units of `what` are finished.

        detail  : what else to say, for example the losses.
        at_once : print the plain line although the last one is not ten seconds old.
        unit    : what is counted here, where it is not what the bar counts.

        The rate counts from the first call for `what`: what an earlier run did is not claimed for this one.
        """
        now, unit = monotonic(), unit or self._unit
        began, first = self._origins.setdefault(what, (now, done))
        rate = (done - first) / (now - began) if now > began else 0.0
        rated = f"{rate:.3g} {unit}/s" if rate else ""
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(shown(what), total=total, completed=done, counted="", rated="")
            told = ", ".join(filter(None, (rated, detail)))
            counted = f"{done:.0f}/{total:.0f} {unit}"
            self._bar.update(self._tasks[what], completed=done, total=total, counted=counted, rated=shown(told))
        elif at_once or (now - self._printed >= PLAIN_SECONDS and done < total):
            self._printed = now
            left = f"{(total - done) / rate:.0f} s left" if rate and done < total else ""
            facts = (f"{what}: {done:.0f} of {total:.0f} {unit}", rated, left, detail)
            self.say(", ".join(filter(None, facts)))

    def say(self, text: str, *, always: bool = False) -> None:
        """One line for the person who watches; printed under `--quiet` only where `always`."""
        record(text)
        if always or not is_quiet():
            self._console.print(shown(text), highlight=False, markup=False, soft_wrap=True)
