"""The command line: parse, call one function, print, exit code.

Commands live in one module each beside this one and import what they need when they run, so that
`wsistain --help` answers at once and never imports torch.
"""

import errno
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

import typer

from wsistain import __version__
from wsistain.cli.stopping import STOPPED, StoppableGroup, heed_sigterm
from wsistain.errors import WsistainError
from wsistain.runtime.say import say

app = typer.Typer(
    name="wsistain",
    cls=StoppableGroup,
    help="Virtual staining of whole-slide images. Virtual stains are for research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=True,
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
        False, "--version", "-V", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Virtual staining of whole-slide images. Virtual stains are for research, not for diagnosis."""


def _register() -> None:
    from wsistain.cli import commands

    commands.register(app)


_register()


NO_WINDOWS = (
    "wsistain: Windows is not supported: runs are kept whole by file locks and reads that it has not; "
    "use Linux, macOS, or WSL 2 on Windows (wsl --install)"
)

_OF_THE_MACHINE = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a link to itself; name the file",
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room and run again",
    errno.EROFS: "choose a folder that you may write to",
    errno.EACCES: "choose what you may read and write",
    errno.EPERM: "choose what you may read and write",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EIO: "look at the health of the disk",
    errno.ESTALE: "mount the network folder again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What the system may say of a path or a disk wherever it is touched, and what to try: no fault of ours."""


def _log_fault(error: BaseException) -> Path:
    handle, name = tempfile.mkstemp(prefix="wsistain-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        log.write(f"wsistain {__version__}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exception(error, file=log)
    return Path(name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 0, 2 (bad input, one sentence), 1 (our fault, traceback in a log file) or 130 (stopped)."""
    if sys.platform == "win32":
        say(NO_WINDOWS, err=True)
        sys.exit(2)
    try:
        heed_sigterm()
        app(args=arguments, standalone_mode=True)
    except WsistainError as error:
        say(f"wsistain: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        say("wsistain: stopped by the user", err=True)
        sys.exit(STOPPED)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            _end_with_log(error)
        name = f"{error.filename} " if error.filename else ""
        say(
            f"wsistain: {name[:300]}cannot be used: {(error.strerror or str(error)).lower()}; {_OF_THE_MACHINE[error.errno]}",
            err=True,
        )
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 - the last line of defence: every fault becomes one line and a log
        _end_with_log(error)


def _end_with_log(error: BaseException) -> NoReturn:
    path = _log_fault(error)
    say(f"wsistain: internal error: {type(error).__name__}: {error}. The traceback is in {path}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
