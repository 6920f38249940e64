"""The command line: parse, call one function, print, exit code.

Commands live in one module each beside this one and import what they need when they run, so that
`wsistain --help` answers at once and never imports torch.
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path

import typer

from wsistain import __version__
from wsistain.errors import WsistainError
from wsistain.runtime.say import say

app = typer.Typer(
    name="wsistain",
    help="Virtual staining of whole-slide images. Virtual stains are for research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        say(f"wsistain {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Virtual staining of whole-slide images. Virtual stains are for research, not for diagnosis."""


def _register() -> None:
    from wsistain.cli import commands

    commands.register(app)


_register()


def _log_fault(error: BaseException) -> Path:
    handle, name = tempfile.mkstemp(prefix="wsistain-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        log.write(f"wsistain {__version__}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exception(error, file=log)
    return Path(name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 0, 2 (bad input, one sentence) or 1 (our fault, traceback in a log file)."""
    try:
        app(args=arguments, standalone_mode=True)
    except WsistainError as error:
        say(f"wsistain: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        say("wsistain: stopped by the user", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last line of defence: every fault becomes one line and a log
        path = _log_fault(error)
        say(f"wsistain: internal error: {type(error).__name__}: {error}. The traceback is in {path}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
