"""Which blocks are finished: an append-only file of JSON lines, one a block, forced to the disk after its shards.

A glass block leaves no file, so files are no proof of work: the journal is. Its first line ties it to what was
planned; a line a session tells who was at it; with each block goes a note for the report of the whole run. It lives in the work folder inside the output and goes when the output is finished; a finished output
carries the same key in the attributes of its root.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import google_crc32c

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.output.layout import WORK
from wsistain.output.same import compare, compare_finished
from wsistain.output.store import BlockDone
from wsistain.runtime.files import PART, reporting

_FORMAT = 3
_LOG = logging.getLogger(__name__)


class Journal:
    """The finished blocks of one output, held under a lock for the life of the process or until `close`.

    key      : what the output was planned from; compared on resume.
    finished : the output is complete; nothing is left to do.
    sessions : what `begin_session` was told by every run that was at this output, in order.
    Made by `open_journal`.
    """

    def __init__(self, folder: Path, key: dict[str, Any], lock: int | None, *, finished: bool = False) -> None:
        self.folder = folder
        self.key = key
        self.finished = finished
        self._lock = lock
        self._done: dict[tuple[int, int], BlockDone] = {}
        self._notes: dict[tuple[int, int], dict[str, Any]] = {}
        self.sessions: list[dict[str, Any]] = []
        self._handle: int | None = None

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self.folder / WORK / "journal.jsonl"

    def done(self) -> dict[tuple[int, int], BlockDone]:
        """The finished blocks by (row, col): those found on resume and those appended since."""
        return dict(self._done)

    def notes(self) -> dict[tuple[int, int], dict[str, Any]]:
        """What was noted with each finished block, by (row, col)."""
        return {place: self._notes[place] for place in self._done}

    def begin_session(self, facts: dict[str, Any]) -> None:
        """Records that a run begins or continues here, with plain JSON values that tell what it is. Raises OutputError."""
        with reporting(self.path):
            self._write({"session": facts})
        self.sessions.append(facts)

    def append(self, block: BlockDone, note: dict[str, Any] | None = None) -> None:
        """Records a block whose files are in place; it is on the disk when this returns. Raises OutputError.

        note : plain JSON values, given back by `notes`.
        """
        if self._handle is None:
            raise ValueError(f"the journal of {self.folder} is closed")
        with reporting(self.path):
            self._write({"block": block.to_json(), "note": note or {}})
        self._done[block.row, block.col] = block
        self._notes[block.row, block.col] = note or {}

    def check(self) -> None:
        """Raises OutputError when what was written is no longer there: someone removed or replaced the output."""
        with reporting(self.folder):
            in_place = (
                self.path.is_file()
                and self._handle is not None
                and (self.path.stat().st_ino == os.fstat(self._handle).st_ino)
            )
            if not in_place:
                raise OutputError(f"{self.folder} was removed while it was written; delete what is left and run again")
            gone = [name for block in self._done.values() for name in damaged_files(self.folder, block)]
        if gone:
            raise OutputError(
                f"{self.folder} was changed while it was written: {len(gone)} files are gone or differ, {gone[0]} the first; "
                "run again with --resume"
            )

    def restart(self) -> None:
        """Forgets every block: what was written does not belong to what was planned. Raises OutputError."""
        with reporting(self.path):
            if self._handle is not None:
                os.close(self._handle)
            self._done.clear()
            self.sessions.clear()
            self._begin()

    def finish(self) -> None:
        """Removes the work folder, once the metadata is written, and lets go of the lock. Raises OutputError."""
        with reporting(self.folder):
            self.close()
            _sweep_work(self.folder)
        self.finished = True

    def close(self) -> None:
        """Lets go of the journal and its lock; what is recorded stays. Safe to repeat."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, values: dict[str, Any]) -> None:
        if self._handle is None:
            raise ValueError(f"the journal of {self.folder} is closed")
        line = json.dumps(values, separators=(",", ":"), sort_keys=True).encode() + b"\n"
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        # A line counts once it is on the disk: what it says is done is never done again.
        os.fsync(self._handle)

    def _begin(self) -> None:
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._write({"wsistain": __version__, "format": _FORMAT, "key": self.key})
        # The folder too, or the file's name may be lost with the power.
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _continue(self, lines: list[dict[str, Any]], length: int) -> None:
        for line in lines:
            if "session" in line:
                self.sessions.append(line["session"])
                continue
            block = BlockDone.from_json(line["block"])
            self._done[block.row, block.col] = block
            self._notes[block.row, block.col] = line.get("note", {})
        # The torn end of an interrupted line is cut off.
        self._handle = os.open(self.path, os.O_WRONLY)
        os.ftruncate(self._handle, length)
        os.lseek(self._handle, 0, os.SEEK_END)

    def _forget_lost(self) -> None:
        """Drops blocks of which a file is gone or has another size; they will be done again."""
        for place, block in list(self._done.items()):
            if damaged_files(self.folder, block):
                del self._done[place]


def damaged_files(folder: Path, block: BlockDone, *, contents: bool = False) -> list[str]:
    """Paths of a block's files that are gone or have another size; with `contents`, also another CRC-32C."""
    found = []
    for file in block.files:
        path = folder / file.path
        good = path.is_file() and path.stat().st_size == file.size
        if not good or (contents and google_crc32c.value(path.read_bytes()) != file.crc):
            found.append(file.path)
    return found


def open_journal(path: str, key: dict[str, Any], resume: bool, overwrite: bool) -> Journal:
    """The journal of the output at `path`, new or continued, with its lock held.

    key       : what decides the bytes (hashes of plan, slide and weights, versions): plain JSON values.
    resume    : continue an output that has the same key; nothing there: begin. A finished one has `finished` set.
    overwrite : remove what is there, if wsistain wrote it, and begin.

    Raises OutputError: the output exists and neither flag is given (or both are); its key differs, naming what;
    another process holds it; it is not an output of wsistain; or it cannot be written.
    """
    folder = Path(path)
    if resume and overwrite:
        raise OutputError("--resume and --overwrite exclude each other; choose one")
    # As it will be read back: tuples are lists, and keys are strings.
    key = json.loads(json.dumps(key))
    with reporting(folder):
        # What can be refused without the lock is refused before anything is made.
        exists = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if exists:
            _refuse(folder, key, resume, overwrite)
            if resume and is_finished(folder):
                _sweep_work(folder)
                return Journal(folder, key, None, finished=True)
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        # Under the lock the journal is read again: another run may have begun one meanwhile.
        journal = Journal(folder, key, _take_lock(folder))
        try:
            _open_locked(journal, resume, overwrite)
        except BaseException:
            journal.close()
            raise
    return journal


def check_place(path: str, key: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Whether the output at `path` is finished already. Raises OutputError as `open_journal` would; touches nothing."""
    folder = Path(path)
    if resume and overwrite:
        raise OutputError("--resume and --overwrite exclude each other; choose one")
    # As it will be read back: tuples are lists, and keys are strings.
    key = json.loads(json.dumps(key))
    with reporting(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            _refuse(folder, key, resume, overwrite)
            if resume and is_finished(folder):
                return True
            lines, _ = _read(folder / WORK / "journal.jsonl")
            if resume and lines:
                _compare_begun(folder, lines[0], key)
        nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not os.access(nearest, os.W_OK | os.X_OK) or not nearest.is_dir():
            raise OutputError(f"the output folder {folder.parent} cannot be made or written; choose another --output")
    return False


def begun_key(folder: Path) -> dict[str, Any] | None:
    """What an unfinished output was planned from; None where there is none, or a finished one."""
    if is_finished(folder):
        return None
    lines, _ = _read(folder / WORK / "journal.jsonl")
    return dict(lines[0]["key"]) if lines else None


def read_journal(folder: Path) -> dict[tuple[int, int], BlockDone]:
    """The blocks of an unfinished output that are done, by (row, col), read without its lock; empty where it has none."""
    lines, _ = _read(folder / WORK / "journal.jsonl")
    blocks = [BlockDone.from_json(line["block"]) for line in lines[1:] if "block" in line]
    return {(block.row, block.col): block for block in blocks}


def is_finished(folder: Path) -> bool:
    """Whether an output has its root metadata, which is written last."""
    return (folder / "zarr.json").is_file() or (folder / ".zattrs").is_file()


def _refuse(folder: Path, key: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Raises OutputError for an existing path that may not be continued or replaced; touches nothing."""
    if not folder.is_dir():
        raise OutputError(f"{folder} exists and is a file; move it away or choose another --output")
    foreign = f"{folder} exists and was not written by wsistain; move it away or choose another --output"
    # Ours is what has our metadata or, unfinished, a work folder.
    finished = is_finished(folder)
    if not finished and not (folder / WORK).is_dir():
        raise OutputError(foreign)
    if finished:
        stored = _finished_key(folder)
        if stored is None:
            raise OutputError(
                f"{folder} exists and was not written by wsistain; move it away or choose another --output"
            )
        if resume:
            compare_finished(folder, stored, key)
        if not resume and not overwrite:
            raise OutputError(
                f"{folder} exists and is finished; pass --overwrite to replace it, or --resume to keep it"
            )
    elif not resume and not overwrite:
        lines, _ = _read(folder / WORK / "journal.jsonl")
        count = sum("block" in line for line in lines)
        raise OutputError(
            f"{folder} exists and is unfinished ({count} blocks done); "
            "pass --resume to continue or --overwrite to begin anew"
        )


def _finished_key(folder: Path) -> dict[str, Any] | None:
    """The key in the attributes of a finished output, {} where it has none; None where wsistain did not write it."""
    try:
        if (folder / "zarr.json").is_file():
            attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        else:
            attributes = json.loads((folder / ".zattrs").read_bytes())
        stored = attributes["wsistain"].get("key", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return stored if isinstance(stored, dict) else None


def _open_locked(journal: Journal, resume: bool, overwrite: bool) -> None:
    folder = journal.folder
    if overwrite:
        _clear(folder)
        journal._begin()
        return
    lines, length = _read(journal.path)
    if not lines:
        journal._begin()
        return
    if not resume:
        raise OutputError(f"{folder} was begun by another run a moment ago; wait for it or pass --resume later")
    _compare_begun(folder, lines[0], journal.key)
    journal._continue(lines[1:], length)
    # Files that were being written when the run ended.
    for stray in folder.rglob(f"*{PART}"):
        stray.unlink(missing_ok=True)
    journal._forget_lost()


def _compare_begun(folder: Path, first: dict[str, Any], key: dict[str, Any]) -> None:
    """Raises OutputError where an unfinished output cannot be continued; `first` is the first line of its journal."""
    if first.get("format") != _FORMAT:
        raise OutputError(
            f"{folder} was begun by wsistain {first.get('wsistain', 'of another time')}, whose unfinished outputs "
            f"{__version__} does not continue; pass --overwrite to begin anew or choose another --output"
        )
    compare(folder, first["key"], key)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal and the length in bytes up to the last of them; a torn end is left out."""
    if not path.is_file():
        return [], 0
    lines: list[dict[str, Any]] = []
    length = 0
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(raw)
            kind = "session" if lines and "session" in values else "block" if lines else "key"
            whole = raw.endswith(b"\n") and isinstance(values[kind], dict)
            if whole and kind == "block":
                BlockDone.from_json(values[kind])
                whole = isinstance(values.get("note", {}), dict)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            break
        lines.append(values)
        length += len(raw)
    return lines, length


def _take_lock(folder: Path) -> int:
    """Descriptor of the lock file, locked; the kernel frees it when the process ends, however it ends."""
    path = folder / WORK / "lock"
    held = f"{folder} is being written by another run; wait for it or choose another --output"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(held) from None
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                _LOG.warning("%s: this file system has no locks; see to it that only one run writes here", folder)
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run that held this file finished and removed it between our two calls
        path.parent.mkdir(exist_ok=True)


def _clear(folder: Path) -> None:
    """Removes an earlier output, what says that it is done first, but for the lock that is held."""
    for name in ("zarr.json", ".zattrs", ".zgroup", f"{WORK}/journal.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.name == WORK:
            for inner in entry.iterdir():
                if inner.is_dir():
                    shutil.rmtree(inner)
                elif inner.name != "lock":
                    inner.unlink()
        elif entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sweep_work(folder: Path) -> None:
    if (folder / WORK).exists():
        shutil.rmtree(folder / WORK)
