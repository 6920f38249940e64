"""The same picture under two names: what was trained on, among what is measured."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_SAMPLE = 65_536


def copies(files: Iterable[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """Those of `files` that are byte for byte one of `others`, and which one.

    Cheap where there are none: sizes are compared first, then the middle of files of one size, and only then all of them.
    Files that cannot be read are passed over: they are reported where they are used.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for other in others:
        size = _size(other)
        if size:
            by_size[size].append(other)
    found = {}
    for file in files:
        alike = [other for other in by_size.get(_size(file), ()) if _middle(other) == _middle(file)]
        match = next((other for other in alike if _digest(other) == _digest(file)), None) if alike else None
        if match is not None:
            found[file] = match
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _middle(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, (_size(path) - _SAMPLE) // 2))
            return file.read(_SAMPLE)
    except OSError:
        return b""


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path}"
