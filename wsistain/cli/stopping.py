"""How every command leaves before it is done: stopped by Ctrl-C or SIGTERM (exit code 130), or typed wrongly (2)."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    "read": "finished blocks are kept, the same command goes on where it stopped",
    "batch": "the same command goes on where it stopped",
}
"""By command: what is kept, and how to go on."""


_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What is typed wrongly. Typer names only this child of it, and has carried its own click since it left the other."""


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """What is typed wrongly ends in one sentence and exit code 2; typer would draw a box. What is no fault passes."""
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        command = " ".join(["wsistain", *_names_of(error.ctx)])  # type: ignore[attr-defined]
        text = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
        see = " See" if text.endswith("?") else "; see"
        say(f"wsistain: {text[:1].lower()}{text[1:]}{see} '{command} --help'", err=True)
        raise typer.Exit(2) from None


def _names_of(context: Any) -> list[str]:
    """The names of a command below the program, as typed: ["weights", "list"]."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, str(context.info_name))
        context = context.parent
    return names


class StoppableGroup(TyperGroup):
    """The group of all commands; says what is kept when one is stopped, and what was typed wrongly."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """The context of what was typed, before the command is known."""
        with _in_one_sentence():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """The command's result; typer would end it with "Aborted" and exit code 1."""
        try:
            with _in_one_sentence():
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
