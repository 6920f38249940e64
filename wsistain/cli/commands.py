"""The table of commands: each row is one module of this package with a `register(app)` function.

What all commands share is added here: how much they tell (`-v`, `-q`, `--log-file`), and the panels of their help.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.models import OptionInfo

from wsistain import __version__
from wsistain.cli.panels import LEAST_OPTIONS, PANELS, TELLING

WRITTEN = frozenset({"output", "root", "static"})
"""Parameters that name what is written: whoever writes refuses a URL, and says how to send a result to one."""

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
    "benchmark",
    "figures",
    "markers",
    "config",
    "doctor",
)


def register(app: typer.Typer) -> None:
    """Add every command to `app`, in the order of the table."""
    for name in COMMAND_MODULES:
        import_module(f"wsistain.cli.{name}").register(app)
    for command in _commands_of(app):
        if command.callback is not None:
            command.callback = telling(command.callback)


def _commands_of(app: typer.Typer) -> Iterator[Any]:
    yield from app.registered_commands
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands_of(group.typer_instance)


def telling(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options -v, -q and --log-file, and all its options in their panels."""

    @functools.wraps(command)
    def told(*, verbose: int, quiet: bool, log_file: Path | None, **given: Any) -> None:
        from wsistain.runtime.logs import speaking

        for name, value in given.items():
            if name not in WRITTEN:
                _refuse_urls(value)
        with speaking(verbose, quiet, log_file, __version__):
            command(**given)

    signature = inspect.signature(command, eval_str=True)
    options = [(name, _option_of(parameter)) for name, parameter in signature.parameters.items()]
    known = [(name, option) for name, option in options if option is not None]
    if len(known) >= LEAST_OPTIONS:
        for name, option in known:
            option.rich_help_panel = PANELS[name]
    parameters = [*signature.parameters.values(), *_added()]
    told.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    told.__annotations__ = {p.name: p.annotation for p in parameters}
    return told


def _refuse_urls(value: Any) -> None:
    """ConfigError for a URL where a command takes a path; one that can do with a URL takes text."""
    from wsistain.runtime.files import refuse_url

    for path in value if isinstance(value, list) else [value]:
        if isinstance(path, Path):
            refuse_url(path)


def _option_of(parameter: inspect.Parameter) -> OptionInfo | None:
    """What typer was told of an option; None for an argument."""
    places = [parameter.default, *getattr(parameter.annotation, "__metadata__", ())]
    return next((place for place in places if isinstance(place, OptionInfo)), None)


def _added() -> list[inspect.Parameter]:
    verbose = typer.Option(
        0, "--verbose", "-v", count=True, help="Tell more; -vv every step.", show_default=False, rich_help_panel=TELLING
    )
    quiet = typer.Option(
        False, "--quiet", "-q", help="Print results, warnings and errors alone.", rich_help_panel=TELLING
    )
    log_file = typer.Option(
        None, "--log-file", metavar="FILE", help="Write everything that is told to this file too, with its time.",
        rich_help_panel=TELLING,
    )  # fmt: skip
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter("verbose", kind, default=verbose, annotation=int),
        inspect.Parameter("quiet", kind, default=quiet, annotation=bool),
        inspect.Parameter("log_file", kind, default=log_file, annotation=Path | None),
    ]
