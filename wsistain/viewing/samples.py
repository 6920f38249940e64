"""What the user named, and what it comes to: results, by the H&E slide that they were stained from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsistain.errors import OutputError
from wsistain.runtime.files import refuse_url
from wsistain.slide.place import local_place
from wsistain.viewing.frame import Frame
from wsistain.viewing.results import Result, find_results, find_slide


@dataclass(frozen=True)
class Wanted:
    """What the user named.

    paths      : results, or folders of them.
    slides     : H&E slides, or folders in which those that results name lie.
    reference  : a real IHC of the same block.
    roi        : areas drawn in QuPath, shown over the slide.
    cells      : cells, where they do not lie beside the result.
    mpp        : um per px of slides that do not say.
    expected   : results that a run is about to begin.
    """

    paths: tuple[Path, ...]
    slides: tuple[Path, ...] = ()
    reference: Path | None = None
    roi: Path | None = None
    cells: Path | None = None
    mpp: float | None = None
    expected: tuple[Path, ...] = ()


@dataclass
class Sample:
    """One H&E slide and the results that were stained from it."""

    id: str
    name: str
    frame: Frame | None
    path: Path | None
    results: list[Result] = field(default_factory=list)


def make_wanted(
    paths: Sequence[str | Path],
    *,
    slides: Sequence[str | Path] = (),
    reference: str | Path | None = None,
    roi: str | Path | None = None,
    cells: str | Path | None = None,
    mpp: float | None = None,
    expected: Sequence[Path] = (),
) -> Wanted:
    """What a user named, as paths; `file://` addresses are paths too. OutputError, ConfigError for what is not there."""
    for text in (*paths, *slides, reference, roi, cells):
        if text is not None:
            refuse_url(local_place(str(text)))
        if text is not None and not Path(local_place(str(text))).exists():
            raise OutputError(f"{text} does not exist; give results, slides and files that are on this machine")
    local = [tuple(Path(local_place(str(p))) for p in group) for group in (paths, slides)]
    one = [None if p is None else Path(local_place(str(p))) for p in (reference, roi, cells)]
    return Wanted(local[0], local[1], one[0], one[1], one[2], mpp, tuple(expected))


def places_of(wanted: Wanted, *, must_exist: bool) -> list[Path]:
    """The results in what was named, and those that a run has begun; each once.

    must_exist : whether a place without a result is an OutputError, or passed over (it may have gone since).
    """
    places: dict[Path, None] = {}
    for path in wanted.paths:
        try:
            places |= dict.fromkeys(find_results(path))
        except OutputError:
            if must_exist:
                raise
    return list(places | dict.fromkeys(p for p in wanted.expected if p.is_dir()))


def samples_of(results: Iterable[Result], slides: Sequence[Path]) -> dict[str, Sample]:
    """Results by their H&E slide: one sample a fingerprint, by its id, with its file where `slides` or the result lead to it."""
    samples: dict[str, Sample] = {}
    for result in results:
        id = str(result.slide.get("fingerprint") or result.id)[:10]
        if id not in samples:
            samples[id] = Sample(id, str(result.slide.get("name") or result.name), *_slide_of(result, slides))
        samples[id].results.append(result)
    return samples


def _slide_of(result: Result, slides: Sequence[Path]) -> tuple[Frame | None, Path | None]:
    files = [p for p in slides if not _is_folder(p)]
    name = str(result.slide.get("name") or "")
    inside = [p / name for p in slides if _is_folder(p) and name and Path(name).name == name]
    named = [p for p in files if p.name == name]
    path = find_slide(result, [*named, *inside])
    if len(files) == 1 and not named:  # the one slide that was named, whatever it is called
        path = files[0]
    size, mpp = result.slide.get("size_l0"), result.slide.get("mpp")
    if isinstance(size, list) and len(size) == 2 and isinstance(mpp, int | float):
        return Frame(int(size[0]), int(size[1]), float(mpp)), path
    return None, path


def stamp_of(path: Path) -> str:
    """When a result's metadata were written; empty where there are none. What is finished changes only with them."""
    for name in ("zarr.json", ".zattrs"):
        try:
            return str((path / name).stat().st_mtime_ns)
        except OSError:
            continue
    return ""


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder of slides, not a slide that is a folder."""
    return path.is_dir() and not any((path / n).is_file() for n in ("zarr.json", ".zgroup", ".zattrs"))
