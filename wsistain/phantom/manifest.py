"""What a folder of synthetic tissue says of itself: its parameters, its files and whether it is finished."""

import hashlib
import json
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.errors import OutputError


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
