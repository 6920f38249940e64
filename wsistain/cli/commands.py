"""The table of commands: each row is one module of this package with a `register(app)` function."""

from importlib import import_module

import typer

COMMAND_MODULES: tuple[str, ...] = (
    "run",
    "batch",
    "summary",
    "info",
    "export",
    "view",
    "pair",
    "train",
    "stain",
    "phantom",
    "weights",
    "nets",
    "read",
    "evaluate",
    "figures",
    "markers",
    "config",
    "doctor",
)


def register(app: typer.Typer) -> None:
    """Add every command to `app`, in the order of the table."""
    for name in COMMAND_MODULES:
        import_module(f"wsistain.cli.{name}").register(app)
