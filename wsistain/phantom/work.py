"""Doing many independent jobs in several processes, and remembering what is finished."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
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


@lru_cache(maxsize=3)
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
        yield pool.imap


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
