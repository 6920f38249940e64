"""One writer at a time: a lock that the kernel frees however its holder ends."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsistain.errors import OutputError

_LOG = logging.getLogger(__name__)
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF}  # EBADF: a folder on a network file system


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Nothing, while `path` is held: a folder that exists, or a file, which is made.

    busy : what the OutputError says when another process (or another `locked` of this one) holds it.

    A file system without locks is used without one, with a warning in the log. OSError passes through.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(busy) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.warning("%s: this file system has no locks; see to it that only one process writes here", path)
        yield
    finally:
        os.close(descriptor)
