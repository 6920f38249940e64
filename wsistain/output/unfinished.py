"""Looking at an output while it is written: its layout, the blocks that are done, and their pixels.

A run leaves a description beside its journal, in the work folder, which goes when the output is finished. Whoever
looks touches nothing and takes no lock.
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import BufferPrototype, default_buffer_prototype

from wsistain.config import OutputConfig
from wsistain.errors import OutputError
from wsistain.output.journal import is_finished, read_journal
from wsistain.output.layout import GLASS, WORK, OutputSpec
from wsistain.output.metadata import level_documents
from wsistain.output.pyramid import window_from_pieces
from wsistain.runtime.files import reporting, write_json
from wsistain.slide.zarr_store import ZARR_ERRORS, OrdinaryFiles

BEGUN = "begun.json"
"""Name of the description, in the work folder."""

_KEPT = ("height", "width", "mpp", "block", "origin_um")
"""Of the layout of the stain itself; pyramids beside it are not shown while it is written."""


@dataclass(frozen=True)
class Begun:
    """An output that is not finished.

    spec  : its layout.
    facts : what the run says of itself: marker, and the slide's name, path, fingerprint and um per px.
    """

    spec: OutputSpec
    facts: dict[str, Any]

    def blocks_done(self) -> frozenset[tuple[int, int]]:
        """(row, col) of the blocks whose files are in place, by the journal."""
        return frozenset(read_journal(self.spec.folder))


def describe_begun(spec: OutputSpec, facts: dict[str, Any]) -> None:
    """Leave the description of an output that is being begun or continued. Raises OutputError."""
    values = {name: getattr(spec, name) for name in _KEPT} | {"storage": spec.storage.model_dump(mode="json")}
    with reporting(spec.path):
        write_json(spec.folder / WORK / BEGUN, {"spec": values, "facts": facts})


def read_begun(folder: Path) -> Begun | None:
    """The description of an unfinished output; None where there is none, or the output is finished.

    Raises OutputError where it is damaged.
    """
    if is_finished(folder):
        return None
    try:
        values = json.loads((folder / WORK / BEGUN).read_bytes())
    except OSError:
        return None
    except ValueError as error:
        raise OutputError(f"{folder} is unfinished and its description is damaged ({error}); resume the run") from None
    try:
        held = {name: values["spec"][name] for name in _KEPT} | {
            "path": str(folder),
            "storage": OutputConfig.model_validate(values["spec"]["storage"]),
            "origin_um": (float(values["spec"]["origin_um"][0]), float(values["spec"]["origin_um"][1])),
        }
        return Begun(OutputSpec(**held), dict(values["facts"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise OutputError(f"{folder} is unfinished and its description is damaged ({error}); resume the run") from None


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the lock of an unfinished output.

    Where the kernel lists its locks they are looked up there, so that no run ever meets a lock of ours.
    """
    path = folder / WORK / "lock"
    try:
        inode = path.stat().st_ino
    except OSError:
        return False
    with suppress(OSError):
        lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
        return any("FLOCK" in line and f":{inode} " in line for line in lines)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


class _WithMetadata(OrdinaryFiles):
    """The folder of an unfinished output, with the metadata that it will have."""

    documents: dict[str, bytes] | None = None

    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: Any = None) -> Any:
        document = (self.documents or {}).get(key)
        if document is not None:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(document)
        return await super().get(key, prototype, byte_range)


def open_begun_level(begun: Begun, level: int) -> zarr.Array:
    """A level of an unfinished output that the blocks write themselves, (3, h, w); glass where nothing is yet."""
    spec = begun.spec
    if level >= spec.block_levels:
        raise ValueError(f"level {level} is built when all blocks are done")
    store = _WithMetadata(spec.folder, read_only=True)
    store.documents = level_documents(spec, level)
    return zarr.open_array(store, path=str(level), mode="r")


def read_begun_window(begun: Begun, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pixels uint8 (h, w, 3) of what is written so far, 255 elsewhere; window inside the level.

    level : up to `block_levels`, which is read from the pieces that the blocks left. Raises OutputError for a damaged file.
    """
    spec = begun.spec
    try:
        if level < spec.block_levels:
            planes = np.asarray(open_begun_level(begun, level)[:, y : y + height, x : x + width])
        else:
            found = window_from_pieces(spec, y, x, (height, width))
            planes = np.full((3, height, width), GLASS, np.uint8) if found is None else found
    except ZARR_ERRORS as error:
        raise OutputError(f"{spec.path}: level {level} near y {y}, x {x} cannot be read ({error})") from error
    return np.ascontiguousarray(planes.transpose(1, 2, 0))
