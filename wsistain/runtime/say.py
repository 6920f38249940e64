"""Printing: every line of the commands goes through `say` or `note`, so that no name in a file can command the terminal.

A line that is printed also goes into the log file, where there is one (`runtime/logs.py`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from wsistain.errors import shown

SAID = logging.getLogger("wsistain.said")
"""What was said, for the log file alone: the terminal has it already."""
SAID.propagate = False
SAID.addHandler(logging.NullHandler())

_silenced = False


def say(text: object, *, err: bool = False) -> None:
    """Print `text` and a line break on standard output, or standard error; see `shown`. For results, warnings, errors."""
    record(text, logging.ERROR if err else logging.INFO)
    typer.echo(shown(text), err=err)


def note(text: object, *, err: bool = False) -> None:
    """As `say`, for what is told on the way: not printed under `--quiet`, but kept in the log file."""
    record(text)
    if not _silenced:
        typer.echo(shown(text), err=err)


def is_quiet() -> bool:
    """Whether results, warnings and errors alone are wanted."""
    return _silenced


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """Inside, `note` and progress are not printed where `quiet`."""
    global _silenced
    before, _silenced = _silenced, quiet
    try:
        yield
    finally:
        _silenced = before


def record(text: object, level: int = logging.INFO) -> None:
    """Put a line that is said by other means into the log file, where there is one."""
    SAID.log(level, "%s", shown(text))
