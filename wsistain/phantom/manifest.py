"""What a folder of synthetic tissue says of itself: its parameters, its files and whether it is finished."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.runtime.files import reporting, sweep_parts, write_json
from wsistain.runtime.lock import locked


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def claimed(folder: Path, parameters: dict[str, Any], *, overwrite: bool) -> Iterator[Path]:
    """Path of the manifest of a folder that is filled with these parameters; nobody else fills it meanwhile.

    A folder whose manifest has the same parameters is gone on with; raises OutputError for another one, unless
    `overwrite`, which forgets it (files are then made anew), and where another process is filling it. A write that
    fails inside is told as an OutputError too.
    """
    manifest = folder / "manifest.json"
    busy = f"another phantom is being made in {folder}; wait for it or choose another folder"
    with reporting(folder, retry="run again"):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, busy):
            _begin(manifest, parameters, overwrite=overwrite)
            yield manifest


def _begin(manifest: Path, parameters: dict[str, Any], *, overwrite: bool) -> None:
    folder = manifest.parent
    sweep_parts(folder)
    if not manifest.is_file() or overwrite:
        write_json(manifest, {"parameters": parameters, "finished": False, "wsistain": __version__}, sort_keys=True)
        return
    try:
        found = json.loads(manifest.read_text(encoding="utf-8")).get("parameters")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        raise OutputError(f"{manifest} is not a manifest; pass --overwrite or choose another folder") from None
    if found != json.loads(json.dumps(parameters)):
        raise OutputError(f"{folder} holds a phantom with other parameters; pass --overwrite or choose another folder")
