"""How much a command tells: -v, -q and --log-file, for every command alike.

Modules log under their own names (`logging.getLogger(__name__)`, all below "wsistain"); who uses wsistain as a library
decides for himself where that goes. Standard output is left to results.
"""

import logging
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from wsistain.errors import ConfigError, OutputError, WsistainError, shown
from wsistain.runtime.files import local_path
from wsistain.runtime.say import SAID, silenced

_OURS = logging.getLogger("wsistain")
_STAMP = re.compile(rb"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}")
"""How every record of a log of ours begins."""


class _Tame(logging.Filter):
    """No name in a file commands the terminal or forges a line of the log; see `shown`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = " ".join(shown(record.getMessage()).splitlines()), None
        return True


@contextmanager
def speaking(verbose: int = 0, quiet: bool = False, log_file: Path | None = None, version: str = "") -> Iterator[None]:
    """Inside, a command tells as much as was asked for.

    verbose  : 1 shows what it does (devices, plan, stages), 2 every step; on standard error.
    quiet    : only results, warnings and errors are printed.
    log_file : receives everything with its time, also what is not printed; added to when it is there.
    version  : of wsistain, for the head of the log.

    Raises ConfigError for verbose and quiet together, OutputError where the log cannot be written.
    """
    if verbose and quiet:
        raise ConfigError("--verbose and --quiet exclude each other; give one")
    with ExitStack() as stack:
        stack.enter_context(silenced(quiet))
        if verbose or log_file is not None:
            stack.enter_context(_to_terminal(verbose))
        if log_file is not None:
            stack.enter_context(_to_file(log_file, version))
        try:
            yield
        except WsistainError as error:  # printed by whoever called, when the log is closed
            SAID.error("%s", error)
            _OURS.debug("%s", type(error).__name__, exc_info=True)
            raise
        except KeyboardInterrupt:
            SAID.error("stopped by the user")
            raise
        except Exception as error:
            SAID.error("internal error: %s", error, exc_info=True)
            raise


@contextmanager
def _to_terminal(verbose: int) -> Iterator[None]:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(
        (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)],
        Console(stderr=True, soft_wrap=True),
        show_path=verbose > 1,
        omit_repeated_times=False,
        log_time_format="%H:%M:%S",
        highlighter=None,
        markup=False,
    )
    handler.addFilter(_Tame())
    with _listening(_OURS, handler):
        yield


@contextmanager
def _to_file(path: Path, version: str) -> Iterator[None]:
    place = local_path(path)
    try:
        if place.exists():
            with place.open("rb") as there:
                head = there.read(40)
            if head and not _STAMP.match(head):  # a slide, say, named here by mistake
                raise OutputError(f"{path} is there and is no log of wsistain; choose another --log-file")
        handler = logging.FileHandler(place, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"the log {path} cannot be written ({reason}); choose another --log-file") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_Tame())
    with closing(handler), _listening(_OURS, handler), _listening(SAID, handler):
        words = " ".join(["wsistain", *sys.argv[1:]])
        SAID.info("%s (wsistain %s, Python %s, %s)", words, version, platform.python_version(), platform.platform())
        yield


@contextmanager
def _listening(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    """`handler` hears everything that `logger` is told."""
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
