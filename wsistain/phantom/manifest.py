"""What a folder of synthetic tissue says of itself: its parameters, its files and whether it is finished."""

import hashlib
import json
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.runtime.files import reporting, sweep_parts, write_json


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begin(folder: Path, parameters: dict[str, Any], *, overwrite: bool) -> Path:
    """Path of the manifest of a folder that may be filled with these parameters.

    A folder whose manifest has the same parameters is gone on with; raises OutputError for another one, unless
    `overwrite`, which forgets it (files are then made anew).
    """
    manifest = folder / "manifest.json"
    with reporting(folder, retry="run again"):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_parts(folder)
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
            facts = {"parameters": parameters, "finished": False, "wsistain": __version__}
            write_json(manifest, facts, sort_keys=True)
    return manifest
