"""How every command leaves when it is stopped: Ctrl-C and SIGTERM end in one sentence and exit code 130."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from wsistain.runtime.say import say

STOPPED = 130
"""Exit code of a program that Ctrl-C ended; ours for SIGTERM too, which schedulers send before they kill."""

GO_ON = {
    "run": "finished blocks are kept, go on with --resume",
    "train": "what it has kept it goes on from with --resume",
    "batch": "the same command goes on where it stopped",
}
"""By command: what is kept, and how to go on."""


class StoppableGroup(TyperGroup):
    """The group of all commands; says what is kept when one is stopped."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """The command's result; typer would end it with "Aborted" and exit code 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # with a text, where the command knows better what is kept
            kept = str(stop) or GO_ON.get(ctx.invoked_subcommand or "")
            say(f"wsistain: stopped by the user{f'; {kept}' if kept else ''}", err=True)
            raise typer.Exit(STOPPED) from None


def heed_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: locks are freed, what is finished stays, the sentence is said.

    Children that were forked from it end as they would have ended: pools stop their workers with SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets only that one say what a signal does
        return
    ours = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
