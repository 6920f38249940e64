"""Writing files so that a reader sees all of a file or none of it, and saying clearly why a write failed."""

import errno
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from wsistain.errors import ConfigError, OutputError

PART = ".part"
"""Ending of a file that is still being written."""

_IN_RUST = re.compile(r"\(os error (\d+)\)")

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and {retry}",
    errno.EDQUOT: "the disk quota is used up; free some space and {retry}",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose a folder that you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another output",
    errno.EISDIR: "it is a folder; choose another output",
    errno.ENAMETOOLONG: "the path is too long; choose a shorter one",
    errno.EIO: "the disk reported an error; look at its health and {retry}",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and {retry}",
}


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/:]")


def is_url(path: Path | str) -> bool:
    """Whether `path` names a place by a scheme, as s3://bucket/x does."""
    return _URL.match(str(path)) is not None


def url_text(path: Path | str) -> str:
    """A URL as it was given: made a path, `s3://bucket/x` has lost a slash."""
    return re.sub(r":/+", "://", str(path), count=1)


def refuse_url(path: Path | str) -> None:
    """ConfigError for a URL of what is read from local and mounted folders only."""
    if is_url(path):
        raise ConfigError(
            f"{url_text(path)} is a URL, and here a file or folder on this machine is wanted; copy it first ('aws s3 sync', "
            "'rclone copy', 'curl -O') and name the copy"
        )


def local_path(path: Path | str) -> Path:
    """`path` of something to write. OutputError for a URL: results are written to local and mounted folders only.

    As a path `s3://bucket/x` would be a folder called `s3:` in the current one.
    """
    if is_url(path):
        raise OutputError(
            f"{url_text(path)} is a URL, and results are written to local folders only; write to a folder here (or a mounted bucket) "
            "and copy it there: 'wsistain export slide.ER.ome.zarr URL' for a finished stain, 'aws s3 sync' or 'rclone copy' for a folder"
        )
    return Path(path)


@contextmanager
def reporting(path: Path | str, *, retry: str = "run again with --resume") -> Iterator[None]:
    """Nothing; an OSError inside becomes an OutputError that names `path`, the reason and what to try.

    retry : what to do once the fault is mended, in words that the command at hand understands.
    """
    try:
        yield
    except Exception as error:
        number = _system_number(error)
        if number is None:
            raise
        strerror = getattr(error, "strerror", None)
        reason = _REASONS.get(number, f"{strerror or error}; look at the disk and {{retry}}")
        raise OutputError(f"{path} cannot be written: {reason.format(retry=retry)}") from error


def _system_number(error: Exception) -> int | None:
    """The number of the system's error, 0 where an OSError has none; None for what the system has no part in.

    Writers in Rust, such as that of safetensors, raise errors of their own and tell the number in their text.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    told = _IN_RUST.search(str(error))
    return int(told[1]) if told else None


@dataclass(frozen=True)
class FileDone:
    """A file that was written whole: path relative to the output, size in bytes, CRC-32C of its bytes."""

    path: str
    size: int
    crc: int


def part_of(path: Path) -> Path:
    """A name beside `path` that no other writer uses; a second writer of the same file is harmless."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{PART}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to `path` at the end, removed when the body fails."""
    part = part_of(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | bytearray) -> None:
    """Write a small file in one move. OSError passes through."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a small file of UTF-8 text in one move; what is no text, as in names of files, as escapes. OSError passes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, values: Any, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Write plain JSON values in one move, ended by a newline; ValueError on NaN and infinity, which JSON has not."""
    write_text(path, json.dumps(values, indent=indent, sort_keys=sort_keys, allow_nan=False) + "\n")


def sweep_parts(folder: Path, *, idle_s: float = 3600.0) -> None:
    """Remove what writers that were killed left directly in `folder`: unfinished files untouched for `idle_s` seconds."""
    for part in folder.glob(f"*{PART}"):
        with suppress(OSError):  # another writer may finish or sweep it meanwhile
            if part.is_file() and time.time() - part.stat().st_mtime > idle_s:
                part.unlink()


def write_file(folder: Path, name: str, buffers: Sequence[bytes]) -> FileDone:
    """Writes `buffers` one after another as `folder/name`, by a rename; makes missing folders.

    The bytes are not forced to the disk: on journalling file systems a size that is in the directory means
    data that is on the disk, so the check of sizes on resume finds what a power cut lost. OSError passes through.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    crc = size = 0
    with replacing(path) as part, part.open("wb", buffering=0) as handle:
        for buffer in buffers:
            crc = google_crc32c.extend(crc, buffer)
            size += len(buffer)
        _write_all(handle.fileno(), buffers)
    return FileDone(name, size, crc)


def _write_all(descriptor: int, buffers: Sequence[bytes]) -> None:
    """Gathered write of all buffers; the kernel may take fewer bytes or buffers at a time than asked."""
    views = [memoryview(b) for b in buffers if len(b)]
    most = 512  # below IOV_MAX everywhere
    while views:
        taken = os.writev(descriptor, views[:most])
        while views and taken >= len(views[0]):
            taken -= len(views.pop(0))
        if taken:
            views[0] = views[0][taken:]


def remove_file(folder: Path, name: str) -> None:
    """Removes `folder/name` where it is."""
    (folder / name).unlink(missing_ok=True)
