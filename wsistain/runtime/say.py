"""Printing: every line of the commands goes through `say`, so that no name in a file can command the terminal."""

import typer

from wsistain.errors import shown


def say(text: object, *, err: bool = False) -> None:
    """Print `text` and a line break on standard output, or standard error; see `shown`."""
    typer.echo(shown(text), err=err)
