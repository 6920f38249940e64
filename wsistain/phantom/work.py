"""Doing many independent jobs in several processes, and remembering what is finished."""

import hashlib
import json
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom

J = TypeVar("J")
R = TypeVar("R")
Mapper = Callable[[Callable[[J], R], Iterable[J]], Iterator[R]]
Progress = Callable[[str, int, int], None]


def quiet(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@lru_cache(maxsize=2)
def _open(text: str) -> Phantom:
    return Phantom(PhantomConfig.model_validate_json(text))


def phantom_of(config: PhantomConfig) -> Phantom:
    """The phantom of a configuration, kept open in this process for the next job."""
    return _open(config.model_dump_json())


@contextmanager
def mapper(workers: int) -> Iterator[Any]:
    """An ordered `map`: in this process for one worker, else over spawned processes."""
    if workers <= 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        # A few neighbours at a time go to one process, which keeps what they share.
        yield partial(pool.imap, chunksize=4)


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file by way of `.part`."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def begin(folder: Path, parameters: dict[str, Any], *, overwrite: bool) -> Path:
    """Path of the manifest of a folder that may be filled with these parameters.

    A folder whose manifest has the same parameters is gone on with; raises OutputError for another one, unless
    `overwrite`, which forgets it (files are then made anew).
    """
    manifest = folder / "manifest.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if manifest.is_file() and not overwrite:
            try:
                found = json.loads(manifest.read_text(encoding="utf-8")).get("parameters")
            except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
                raise OutputError(f"{manifest} is not a manifest; pass --overwrite or choose another folder") from None
            if found != json.loads(json.dumps(parameters)):
                raise OutputError(
                    f"{folder} holds a phantom with other parameters; pass --overwrite or choose another folder"
                )
        else:
            write_json(manifest, {"parameters": parameters, "finished": False, "wsistain": __version__})
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from None
    return manifest


class Together:
    """Feeds several writers, each in its own thread, from one stream of strips that is made once for all.

    A strip is made when the first writer asks for it and dropped when the last has taken it; no writer gets more
    than one strip ahead of another, so at most two strips are held.
    """

    def __init__(self, names: Iterable[str], strips: Iterator[Mapping[Any, Any]]) -> None:
        self.strips = strips
        self.waiting: dict[str, list[Any]] = {name: [] for name in names}
        self.turn = threading.Condition()
        self.failure: BaseException | None = None

    def take(self, name: str) -> Any:
        """The next strip of one writer; raises RuntimeError where another writer has failed."""
        with self.turn:
            while not self.waiting[name] and any(self.waiting.values()) and self.failure is None:
                self.turn.wait()
            if self.failure is not None:
                raise RuntimeError("another writer failed") from self.failure
            if not self.waiting[name]:
                for other, strip in next(self.strips).items():
                    self.waiting[other].append(strip)
            strip = self.waiting[name].pop()
            self.turn.notify_all()
            return strip

    def run(self, writers: Mapping[Any, Callable[[], object]]) -> None:
        """Run all writers to their end; raises what the first to fail raised."""

        def guarded(write: Callable[[], object]) -> None:
            try:
                write()
            except BaseException as error:  # noqa: BLE001 - handed to the caller below, never dropped
                with self.turn:
                    self.failure = self.failure or error
                    self.turn.notify_all()

        threads = [threading.Thread(target=guarded, args=(write,)) for write in writers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
