"""Where a slide lies, in one line of plain characters: a path as it is, or as a `file://` URL where a name holds more."""

import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_PLAIN = re.compile(r"[A-Za-z0-9 _.,/@+=:~()-]+")
_FILE = "file://"


def plain_place(path: str) -> str:
    """`path` unless its characters mean something to a shell, a pattern, a table or a codec; then as a `file://` URL.

    A name is bytes: in the URL each byte stands for itself, also one that is no text in any encoding.
    """
    if "://" in path or _PLAIN.fullmatch(path):
        return path
    return _FILE + quote_from_bytes(os.fsencode(Path(path).absolute()))


def local_place(place: str) -> str:
    """The path that a `file://` URL means, and everything else as it is; undoes `plain_place`."""
    if not place.startswith(_FILE):
        return place
    return os.fsdecode(unquote_to_bytes(place[len(_FILE) :].removeprefix("localhost")))
