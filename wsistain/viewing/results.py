"""What is to be shown: results among the paths that the user named, and what each says of itself."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsistain.errors import OutputError, SlideError, WsistainError
from wsistain.output.journal import is_finished
from wsistain.output.layout import WORK
from wsistain.output.reading import read_stain
from wsistain.output.unfinished import Begun, is_being_written, read_begun
from wsistain.slide.ngff import read_attributes
from wsistain.slide.place import local_place
from wsistain.slide.zarr_store import ZARR_ERRORS, open_zarr
from wsistain.viewing.frame import Frame

DEEPEST = 4
"""Folders below the one that was named in which results are looked for."""

MOST_RESULTS = 2000


@dataclass(frozen=True)
class Result:
    """One stain, finished or not.

    id      : short name, the same as long as the path is.
    name    : `<slide>.<MARKER>`.
    state   : "finished", "running", "unfinished" or "damaged".
    frame   : where it lies; None where that cannot be known.
    slide   : what it says of the H&E slide: name, fingerprint, mpp, size_l0, ...; `path` of unfinished ones.
    about   : marker, system, statement, date and the rest for people; plain JSON values.
    problem : why it is damaged.
    blocks  : (done, of how many) of an unfinished one.
    stamp   : changes when what is shown of it does.
    """

    id: str
    path: Path
    name: str
    state: str
    frame: Frame | None = None
    slide: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    blocks: tuple[int, int] | None = None
    begun: Begun | None = None
    stamp: str = ""

    @property
    def marker(self) -> str:
        """Name of the marker, "?" where it is not known."""
        return str(self.about.get("marker", "?"))


def id_of(path: Path) -> str:
    """A short name for a place."""
    return hashlib.blake2b(os.fsencode(path.absolute()), digest_size=5).hexdigest()


def is_result(path: Path) -> bool:
    """Whether a folder is an output of `wsistain run`, finished or begun, by its look."""
    return path.is_dir() and (is_finished(path) or (path / WORK).is_dir())


def find_results(path: Path) -> list[Path]:
    """The results that a path means: itself, or those in a folder, sorted by name.

    OutputError where there are none, or more than `MOST_RESULTS`.
    """
    if not path.exists():
        raise OutputError(f"{path} does not exist; give a .ome.zarr that `wsistain run` wrote, or a folder of them")
    if not path.is_dir():
        raise OutputError(
            f"{path} is a file; give a .ome.zarr folder that `wsistain run` wrote (and slides as --slide)"
        )
    if is_result(path):
        return [path]
    found = sorted(_below(path, DEEPEST))
    if not found:
        raise OutputError(f"{path} holds no results; give a folder to which `wsistain run` or `wsistain batch` wrote")
    if len(found) > MOST_RESULTS:
        raise OutputError(f"{path} holds {len(found)} results; name a folder with at most {MOST_RESULTS}")
    return found


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # a folder that may not be read hides nothing that could be shown
        return
    for entry in entries:
        if is_result(entry):
            if entry.name.endswith(".ome.zarr"):
                yield entry
        elif depth and not entry.is_symlink():
            yield from _below(entry, depth - 1)


def look_at(path: Path) -> Result:
    """What a result says of itself; one that cannot be read says why, and is never an error."""
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    base: dict[str, Any] = {"id": id_of(path), "path": path, "name": name}
    try:
        if is_finished(path):
            return _finished(path, base)
        begun = read_begun(path)
        if begun is None:
            if is_finished(path):  # it ended between the two looks
                return _finished(path, base)
            return Result(**base, state="unfinished", problem="it has just begun, or an older wsistain began it")
        return _begun(begun, base)
    except (WsistainError, *ZARR_ERRORS) as error:
        return Result(**base, state="damaged", problem=str(error))


def _finished(path: Path, base: dict[str, Any]) -> Result:
    stain = read_stain(path)
    if stain.provenance.get("virtual") is not True:
        raise OutputError(f"{path} is no virtual stain of wsistain; give slides as --slide, real IHC as --reference")
    # The corner lies where the first pixel's centre is put (see output.metadata).
    attributes = open_zarr(path).attrs.asdict()
    y, x = (read_attributes(attributes, str(path)).multiscales[0].translation(0, 3) or [0.0, 0.0, 0.0])[1:]
    told = stain.provenance
    kept = ("marker", "system", "statement", "note", "date", "mpp", "reader", "series", "marker_definition", "wsistain")
    about = {name: told[name] for name in kept if name in told}
    if isinstance(told.get("weights"), dict):
        about["weights"] = {k: told["weights"].get(k) for k in ("name", "training_data", "licence")}
    root = next(path / n for n in ("zarr.json", ".zattrs") if (path / n).is_file())
    return Result(
        **base,
        state="finished",
        frame=Frame(*stain.levels[0], stain.mpp, y, x),
        slide=_dict(told.get("slide")),
        about=about,
        stamp=str(root.stat().st_mtime_ns),
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _begun(begun: Begun, base: dict[str, Any]) -> Result:
    spec, facts = begun.spec, begun.facts
    done = len(begun.blocks_done())
    return Result(
        **base,
        state="running" if is_being_written(spec.folder) else "unfinished",
        frame=Frame(spec.height, spec.width, spec.mpp, *spec.origin_um),
        slide=_dict(facts.get("slide")),
        about={name: facts[name] for name in ("marker", "system", "series") if name in facts},
        blocks=(done, int(facts.get("blocks", 0))),
        begun=begun,
        stamp=f"begun-{done}",
    )


def find_slide(result: Result, given: Sequence[Path]) -> Path | None:
    """The H&E of a result without `--slide`: the file of that name beside it, or where the run found it.

    given : more places to look.
    """
    name = result.slide.get("name")
    if not isinstance(name, str) or not name or Path(name).name != name:
        return None
    places = [*given, result.path.parent / name, result.path.parent.parent / name]
    told = result.slide.get("path")  # of an unfinished result; a finished one has it in its run.json
    if told is None and isinstance(plan := run_facts(result.path).get("plan"), dict):
        told = plan.get("slide")
    if isinstance(told, str) and "://" not in (place := local_place(told)):
        places.append(Path(place))
    return next((place for place in places if place.exists()), None)


def check_slide(result: Result, size_l0: tuple[int, int], mpp: float, fingerprint: str, path: str) -> str:
    """ "" where a slide is the one that was stained; else what to tell: another file of the same size on the glass.

    SlideError where it is another slide: nothing would lie where it belongs.
    """
    told = result.slide
    if not told or told.get("fingerprint") == fingerprint:
        return ""
    size, told_mpp = told.get("size_l0"), told.get("mpp")
    if isinstance(size, list) and len(size) == 2 and isinstance(told_mpp, int | float):
        same = all(abs(n * mpp - m * told_mpp) <= 2 * max(mpp, told_mpp) for n, m in zip(size_l0, size, strict=True))
        if not same:
            raise SlideError(
                f"{path} is not the slide of {result.name}: it has {size_l0[1] * mpp:.0f} x {size_l0[0] * mpp:.0f} um, and "
                f"{told.get('name')} had {size[1] * told_mpp:.0f} x {size[0] * told_mpp:.0f} um; name the slide that was stained"
            )
    return (
        f"{Path(path).name} is not the file that {result.name} was stained from ({told.get('name')}), but of its size"
    )


def run_facts(path: Path) -> dict[str, Any]:
    """The run.json beside a result, {} where there is none that can be read."""
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    try:
        found = json.loads(path.with_name(f"{name}.run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
