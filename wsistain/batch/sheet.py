"""Sample sheets: which slides there are, what they are called, and which files are none."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import openslide

from wsistain.errors import ConfigError, SlideError
from wsistain.markers import parse_markers
from wsistain.runtime.files import replacing
from wsistain.slide.reader import open_slide

SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".zarr"),
)
"""A file with one of these endings is meant to be a slide: one that cannot be opened is a failure, not a stranger."""

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a slide may be called in a sheet: it becomes part of file names, so it must not be a path."""

COLUMNS = ("slide", "path", "markers", "mpp", "folder")
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Entry:
    """A slide to stain.

    slide   : its name in logs and reports; no path.
    path    : file, OME-Zarr folder or URL, absolute where it is a path.
    markers : names of markers.
    mpp     : um per px of level 0, where the slide has none.
    folder  : where its results go, below the output folder: "." or, where two slides share a file name, its own.
    """

    slide: str
    path: str
    markers: tuple[str, ...]
    mpp: float | None = None
    folder: str = "."

    @property
    def tag(self) -> str:
        """The markers as they stand in file names."""
        return "-".join(self.markers)


@dataclass(frozen=True)
class Refused:
    """A file that cannot be stained, and why in one sentence.

    is_slide : it was meant to be a slide (by its ending, or because a sheet names it), so that it counts as failed.
    """

    slide: str
    path: str
    reason: str
    is_slide: bool


def make_id(name: str, taken: Iterable[str]) -> str:
    """A slide's name from its file name: only safe characters, and not one of `taken` (upper or lower case)."""
    stem = name.removesuffix(".ome.zarr")
    stem = stem.rsplit(".", 1)[0] if "." in stem[1:] else stem
    base = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:100] or "slide"
    known = {t.lower() for t in taken}
    made, n = base, 1
    while made.lower() in known:
        n += 1
        made = f"{base}-{n}"
    return made


def _candidates(folder: Path, recursive: bool, without: Path) -> list[Path]:
    """Files and OME-Zarr folders under `folder`, sorted; hidden ones and what lies in `without` are left out."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        zarrs = [f for f in folders if f.endswith(".zarr")]
        found += [here / name for name in (*zarrs, *files) if not name.startswith(".")]
        folders[:] = [f for f in folders if f not in zarrs and not f.startswith(".") and (here / f) != without]
        folders[:] = [f for f in folders if recursive and not _is_mirax_data(here / f)]
    return sorted(found)


def _is_mirax_data(folder: Path) -> bool:
    return folder.with_name(folder.name + ".mrxs").is_file()


def _refusal(path: str, reader: str, mpp: float | None) -> tuple[str | None, str]:
    """Why a slide cannot be opened, or None; and what two names of one slide share."""
    if any(character in path for character in "\t\r\n"):
        return "its name holds a tab or a line break; rename it", ""
    slide = open_slide(path, mpp=mpp, reader=reader)
    try:
        same = slide.info.fingerprint
    finally:
        slide.close()
    if path.lower().endswith(".dcm"):  # OpenSlide opens a series from any of its files
        with openslide.OpenSlide(path) as series:
            same = series.properties.get("openslide.quickhash-1", same)
    if path.rstrip("/").endswith(".zarr") and _is_virtual(Path(path)):
        return "it is a virtual stain, not an H&E slide", same
    return None, same


def _is_virtual(path: Path) -> bool:
    from wsistain.errors import OutputError
    from wsistain.output.reading import read_stain

    try:
        return bool(read_stain(path).provenance.get("virtual"))
    except OutputError:
        return False


def scan_folder(
    folder: Path,
    markers: Sequence[str],
    *,
    mpp: float | None = None,
    reader: str = "auto",
    recursive: bool = False,
    without: Path | None = None,
) -> tuple[list[Entry], list[Refused]]:
    """The slides of a folder, and the files in it that are none, with the reason.

    mpp, reader : as in `open_slide`.
    recursive   : look into folders as well.
    without     : a folder to leave out (the output).

    Every file is opened; a DICOM series counts once. Raises ConfigError when `folder` is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give a folder of slides or a sample sheet (.tsv, .csv)")
    entries: list[Entry] = []
    refused: list[Refused] = []
    seen: dict[str, str] = {}
    for path in _candidates(folder.resolve(), recursive, (without or folder).resolve()):
        is_slide = path.suffix.lower() in SLIDE_SUFFIXES
        name = make_id(path.name, (e.slide for e in entries))
        try:
            reason, same = _refusal(str(path), reader, mpp)
        except SlideError as error:
            refused.append(Refused(name, str(path), _one_line(error), is_slide))
            continue
        if reason is None and same in seen:
            reason, is_slide = f"it is the same slide as {seen[same]}", False
        if reason is not None:
            refused.append(Refused(name, str(path), reason, is_slide and "virtual" not in reason))
            continue
        seen[same] = path.name
        entries.append(Entry(name, str(path), tuple(markers)))
    return with_folders(entries), refused


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def with_folders(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, each with the folder of its results: its own where two slides share a file name."""
    from wsistain.pipeline.run import output_name

    stems = [output_name(e.path, "") for e in entries]
    lowered = [s.lower() for s in stems]
    return [replace(e, folder=e.slide if lowered.count(s) > 1 else ".") for e, s in zip(entries, lowered, strict=True)]


def read_sheet(path: Path, markers: Sequence[str]) -> list[Entry]:
    """The slides of a sample sheet: columns slide, path and, where wanted, markers and mpp.

    path    : .csv with commas, anything else with tabs. Relative paths in it start at the sheet's own folder.
    markers : of the rows that name none.

    Raises ConfigError naming the line for what is no sheet, an unknown column, a name that is no name or there twice.
    """
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise ConfigError(f"{path} is neither a folder nor a sample sheet; wanted .tsv or .csv")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than a sample sheet can be ({MOST_BYTES >> 20} MiB)")
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(text.splitlines(), delimiter="," if path.suffix.lower() == ".csv" else "\t"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a sample sheet: {error}") from None
    rows = [r for r in rows if any(cell.strip() for cell in r) and not r[0].startswith("#")]
    if len(rows) < 2:
        raise ConfigError(f"{path} names no slide; wanted a line of column names (slide, path) and a line for each")
    header = [cell.strip() for cell in rows[0]]
    unknown = sorted(set(header) - set(COLUMNS))
    if unknown or len(set(header)) != len(header) or "path" not in header:
        raise ConfigError(
            f"{path}: the columns are {', '.join(map(repr, header))[:200]}; wanted path and, as needed, slide, markers, mpp"
        )
    entries: list[Entry] = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(header):
            raise ConfigError(f"{path}, row {number}: {len(row)} cells, but {len(header)} columns")
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
        try:
            entries.append(_entry(cells, path.resolve().parent, markers, [e.slide for e in entries]))
        except ConfigError as error:
            raise ConfigError(f"{path}, row {number}: {error}") from None
    return with_folders(entries)


def _entry(cells: dict[str, str], base: Path, markers: Sequence[str], taken: Sequence[str]) -> Entry:
    place = cells.get("path", "")
    if not place or "\0" in place:
        raise ConfigError("the path is missing")
    if "://" not in place:
        place = str((base / place).absolute())
    slide = cells.get("slide") or make_id(Path(place.rstrip("/")).name, taken)
    if not ID.fullmatch(slide):
        raise ConfigError(f"the slide's name {slide[:60]!r} is no name; wanted letters, digits, '.', '_' and '-'")
    if slide.lower() in {t.lower() for t in taken}:
        raise ConfigError(f"the slide {slide!r} is there twice; every slide needs its own name")
    mpp = None
    if cells.get("mpp"):
        try:
            mpp = float(cells["mpp"])
        except ValueError:
            mpp = float("nan")
        if not 0.05 <= mpp <= 20:
            raise ConfigError(f"mpp {cells['mpp'][:40]!r} is no plausible um per px; wanted 0.05 to 20, as 0.25")
    named = parse_markers(cells["markers"]) if cells.get("markers") else ()
    return Entry(slide, place, tuple(m.name for m in named) or tuple(markers), mpp)


def check_entries(entries: Sequence[Entry], *, mpp: float | None, reader: str) -> tuple[list[Entry], list[Refused]]:
    """The entries that open as slides, and those that do not, with the reason."""
    good, refused = [], []
    for entry in entries:
        try:
            reason, _ = _refusal(entry.path, reader, entry.mpp if entry.mpp is not None else mpp)
        except SlideError as error:
            reason = _one_line(error)
        if reason is None:
            good.append(entry)
        else:
            refused.append(Refused(entry.slide, entry.path, reason, True))
    return good, refused


def write_sheet(path: Path, entries: Sequence[Entry]) -> None:
    """Write the sample sheet of the workflow in one move, tab-separated."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for e in entries:
            writer.writerow((e.slide, e.path, ",".join(e.markers), "" if e.mpp is None else f"{e.mpp:.8g}", e.folder))
