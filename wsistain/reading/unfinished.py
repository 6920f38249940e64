"""A reading under way: the cells of finished blocks, kept beside the stain until the reading is whole.

One folder a stain, `<stem>.read.work`, so that stains that are read together may be gone on with apart. A file a block,
each in one move; the key says what the cells depend on, and what another key has made is thrown away. `read.json` is
taken away before the first old file is replaced and is written last: what has it is whole.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.output.names import READ_WORK
from wsistain.reading.cells import Nuclei
from wsistain.reading.grid import Grid
from wsistain.reading.source import Result
from wsistain.reading.stain import Readings
from wsistain.reading.table import Rows
from wsistain.runtime.files import PART, replacing, reporting, write_json
from wsistain.runtime.lock import locked
from wsistain.slide.base import SlideInfo
from wsistain.slide.fingerprint import fingerprint

_KEY = "key.json"
_FORMAT = 3
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def work_folder(result: Result) -> Path:
    """Where the blocks of a reading lie until it is whole."""
    return result.beside(READ_WORK)


def is_whole(result: Result) -> bool:
    """Whether the files beside a stain are those of one reading that came to its end."""
    return result.beside("read.json").exists()


class KeptBlocks:
    """The finished blocks of the stains that are read together. Made by `kept_blocks`; safe to use from several threads."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self.resumed = 0
        """Blocks that an earlier session had finished."""

    def load(self, number: int) -> list[Rows] | None:
        """The cells of a block, one `Rows` a stain; None where a stain has not got it, or not whole."""
        try:
            rows = [_load(folder / f"{number}.npz") for folder in self._folders]
        except _DAMAGED:
            return None
        self.resumed += 1
        return rows

    def keep(self, number: int, rows: Sequence[Rows]) -> None:
        """Keep a block. Raises OutputError."""
        for folder, one in zip(self._folders, rows, strict=True):
            path = folder / f"{number}.npz"
            with reporting(folder, retry="run again"), replacing(path) as part, part.open("wb") as file:
                np.savez(file, allow_pickle=False, **_arrays(one))

    def remove(self) -> None:
        """Forget all blocks: the reading is whole, or nothing is worth keeping."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def is_empty(self) -> bool:
        """Whether no block is kept."""
        return not any(next(folder.glob("*.npz"), None) for folder in self._folders)


@contextmanager
def kept_blocks(results: Sequence[Result], keys: Sequence[Mapping[str, Any]]) -> Iterator[KeptBlocks]:
    """The blocks that were read of `results`, held under a lock.

    keys : what the cells of each depend on (`key_of`); blocks of another key are thrown away.

    Where the body fails before a block was kept, nothing stays. Raises OutputError: another process reads the same stain, or
    the folder cannot be written.
    """
    folders = [work_folder(result) for result in results]
    with ExitStack() as stack:
        for folder, result, key in zip(folders, results, keys, strict=True):
            with reporting(folder, retry="run again"):
                folder.mkdir(exist_ok=True)
                stack.enter_context(locked(folder, f"{result.stain.path} is being read by another process; let it end"))
                _begin(folder, key)
        kept = KeptBlocks(folders)
        try:
            yield kept
        finally:
            if kept.is_empty:
                kept.remove()


def _begin(folder: Path, key: Mapping[str, Any]) -> None:
    """An empty folder with `key`, or one that has it, less what a killed session had half written."""
    plain = json.loads(json.dumps(key))
    try:
        same = json.loads((folder / _KEY).read_bytes()) == plain
    except (OSError, ValueError):
        same = False
    for file in folder.iterdir():
        if not same or file.name.endswith(PART):
            file.unlink()
    if not same:
        write_json(folder / _KEY, plain)


def key_of(result: Result, info: SlideInfo, grid: Grid, cells: str, choices: Mapping[str, Any]) -> dict[str, Any]:
    """What the cells of a stain depend on, plain JSON values.

    cells : what says where they are (`Source.key`); choices: drawn regions and which of them count.
    """
    told = json.dumps(result.stain.provenance, sort_keys=True, default=str)
    roi = choices.get("roi")
    return {
        "format": _FORMAT,
        "wsistain": __version__,
        "slide": info.fingerprint,
        "mpp": info.mpp,
        "block": grid.block,
        "stain": hashlib.sha256(told.encode()).hexdigest(),
        "marker": result.marker.model_dump(mode="json"),
        "cells": cells,
        **choices,
        "roi": None if roi is None else fingerprint(Path(roi)),
    }


def _arrays(rows: Rows) -> dict[str, NDArray[Any]]:
    """Everything about the cells of a block but their trust, by name."""
    readings = {f.name: getattr(rows.readings, f.name) for f in fields(Readings)}
    return {
        **{f"nuclei.{f.name}": getattr(rows.nuclei, f.name) for f in fields(Nuclei)},
        **{f"readings.{name}": values for name, values in readings.items() if values is not None},
        "region": rows.region.astype(str),
        "counted": rows.counted,
    }


def _load(path: Path) -> Rows:
    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    return Rows(
        Nuclei(**{f.name: held[f"nuclei.{f.name}"] for f in fields(Nuclei)}),
        Readings(**{f.name: held.get(f"readings.{f.name}") for f in fields(Readings)}),  # type: ignore[arg-type]
        held["region"].astype(object),
        held["counted"],
    )
