"""What a folder of synthetic tissue says of itself: its parameters, its files and whether it is finished."""

import hashlib
import json
from collections.abc import Collection, Iterator
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
    wanted = json.loads(json.dumps(parameters))
    if not isinstance(found, dict) or {**OLDEST, **found} != {**OLDEST, **wanted}:
        raise OutputError(
            f"{folder} holds a phantom with other parameters{_of_version(found, wanted)}; pass --overwrite or choose another folder"
        )


OLDEST = {"version": "v0"}
"""What a manifest means that was written before there were versions."""


def version_of(parameters: Any) -> str:
    """The version of the phantom in a manifest's parameters."""
    return str({**OLDEST, **parameters}["version"])


def _of_version(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict) or version_of(found) == version_of(wanted):
        return ""
    return f" (version {version_of(found)}, wanted {version_of(wanted)})"


def refuse_other_version(root: Path, version: str, but: Collection[str]) -> None:
    """OutputError where patches of a marker that is not in `but` lie below `root` and are of another version of the phantom."""
    for manifest in sorted(root.glob("*/manifest.json")):
        if manifest.parent.name in but:
            continue
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))["parameters"]
            other = version_of(found) if found["kind"] == "patches" else version
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # another program's
        if other != version:
            raise OutputError(
                f"{root} holds patches of {manifest.parent.name} of version {other} of the phantom, wanted {version}; choose "
                "another folder: markers of one folder are trained on together"
            )
