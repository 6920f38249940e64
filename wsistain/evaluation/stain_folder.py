"""Pictures in, pictures out: a folder of H&E patches stained by one generator, as PNG."""

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.data.layouts import PatchRef
from wsistain.data.pictures import SUFFIXES, picture_size, read_picture
from wsistain.data.sides import look_of_pictures
from wsistain.data.stated import agreed_mpp
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.evaluation.real import Wanted, refuse_virtual
from wsistain.evaluation.rows import Network
from wsistain.markers import find_marker
from wsistain.output.recognise import virtual_png
from wsistain.runtime.ahead import in_order
from wsistain.runtime.files import local_path, reporting, write_bytes, write_json
from wsistain.runtime.progress import OnProgress

RECORD = "stain.json"


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path


def stain_folder(
    folder: str | Path,
    output: str | Path,
    *,
    weights: str = "demo",
    marker: str = "ER",
    mpp: float | None = None,
    direction: str = "he-to-ihc",
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    sampling: Mapping[str, Any] | None = None,
    any_stain: bool = False,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """What `output`/stain.json says: how many pictures of `folder` (and below it) were stained, with what.

    output   : receives one PNG a picture, of its relative name and size, and stain.json last.
    mpp      : um per px of the pictures; None: what a manifest above them says.
    workers  : pictures that are read, stained and written at a time; None: one a core.
    any_stain: stain also what is plainly not what the weights stain; otherwise some pictures are looked at first, and those
               that look unlike it are named in "warnings".
    progress : called with (what, pictures done, of how many).

    A picture is stained whole, in one pass, resampled to the weights' um per px and back where they differ. Raises
    DataError for pictures that cannot be read (their headers are all looked at first), are virtual or no H&E, ConfigError where the scale is
    not known, WeightsError, and OutputError where `output` holds another stain.
    """
    from wsistain.generators.load import build_generator, find_generator

    # What is wrong with pictures, scale, weights or place shows before anything is stained.
    source, target = Path(folder), local_path(output)
    if (target / RECORD).exists() and not overwrite:
        raise OutputError(f"{target} holds stained pictures already; choose another --output or pass --overwrite")
    tasks = _tasks(source, target)
    known = find_marker(marker)
    spec = find_generator(weights, known.name, direction=direction, sampling=sampling)
    scale = agreed_mpp([PatchRef(t.source.stem, t.source, None) for t in tasks], mpp)
    if scale is None and spec.mpp is not None:
        raise ConfigError(
            f"the um per px of the pictures in {source} is stated nowhere (no manifest.json above them): pass --mpp "
            f"(these weights stain at {spec.mpp:g}; pictures of another scale are resampled for them)"
        )
    wanted = None if any_stain or spec.weights == "identity" else Wanted(direction, known)
    doubt = None
    if wanted is not None:
        refuse_virtual([t.source for t in tasks] if direction == "he-to-ihc" else [])
        doubt = wanted.refuse_other(source, [t.source for t in tasks])
    network = Network(spec.name, build_generator(spec, device=device, precision=precision), scale)

    def one(task: _Task) -> str:
        try:
            picture = read_picture(task.source)
        except DataError as error:
            return str(error)
        if wanted is not None and wanted.why_not(look_of_pictures([picture])) is not None:
            unlike.append(task.source.name)
        task.target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(task.target, virtual_png(network.stain(picture), {"marker": known.name, "system": spec.name}))
        return ""

    faults: list[str] = []
    unlike: list[str] = []
    n_workers = workers or os.cpu_count() or 1
    with reporting(target, retry="run again with --overwrite"), ThreadPoolExecutor(n_workers) as pool:
        target.mkdir(parents=True, exist_ok=True)
        (target / RECORD).unlink(missing_ok=True)
        for done, fault in enumerate(in_order(pool, one, tasks, 2 * n_workers), start=1):
            faults += [fault] if fault else []
            if progress is not None:
                progress("staining", done, len(tasks))
        record = {
            "virtual": True,
            "marker": known.name,
            "pictures": len(tasks) - len(faults),
            "pictures_mpp": scale,
            "wsistain_version": __version__,
            "warnings": [] if wanted is None else wanted.warnings(doubt, sorted(unlike), len(tasks)),
            **network.facts(),
        }
        if not faults:
            write_json(target / RECORD, record)
    if faults:
        raise DataError(
            f"{len(faults)} of {len(tasks)} pictures cannot be stained: {', '.join(faults[:3])}; the others are in {target}, "
            f"without {RECORD}"
        )
    return record


def _tasks(folder: Path, output: Path) -> list[_Task]:
    """Every picture below `folder` with the place of its stain; DataError where one is unusable, or two share a place."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of pictures")
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in folders if (here / name).resolve() != output.resolve()]
        paths = [here / name for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in SUFFIXES]
    if folder.resolve() == output.resolve():
        raise OutputError(f"{output} is the folder that is stained; choose another --output")
    if not found:
        raise DataError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    tasks = [_Task(p, output / p.relative_to(folder).with_suffix(".png")) for p in sorted(found)]
    twice = [place for place, n in Counter(t.target for t in tasks).items() if n > 1]
    if twice:
        raise DataError(f"{folder} holds two pictures called {twice[0].stem}, which would become one; keep one of each")
    with ThreadPoolExecutor(16) as pool:  # the wait is for the file system
        faults = [fault for fault in pool.map(_fault, tasks) if fault]
    if faults:
        raise DataError(f"{len(faults)} of {len(tasks)} pictures cannot be used: {', '.join(faults[:3])}")
    return tasks


def _fault(task: _Task) -> str:
    try:
        picture_size(task.source)
    except DataError as error:
        return str(error)
    return ""
