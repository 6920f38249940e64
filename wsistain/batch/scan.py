"""The slides of a folder: every file opened once, and each that is none with its reason."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsistain.batch.dicom import Instance, is_dicom, read_instance
from wsistain.batch.sheet import Entry, Refused, safe_name
from wsistain.errors import ConfigError, SlideError, shown
from wsistain.output.names import PICTURE_SUFFIXES, SLIDE_SUFFIXES
from wsistain.output.recognise import virtual_stain
from wsistain.slide.reader import open_slide

_HALF = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".opdownload", ".!ut", ".aspera-ckpt")
_PACKED = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".lz4")
_ZARR = ("zarr.json", ".zgroup", ".zattrs")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_LEVEL = "it is DICOM, but no level of a whole slide"


@dataclass(frozen=True)
class Terms:
    """On what terms files are opened.

    mpp        : um per px of the slides that have none.
    reader, series : as in `open_slide`.
    wants_ihc  : virtual stains are meant as input (--direction ihc-to-he).
    """

    mpp: float | None = None
    reader: str = "auto"
    wants_ihc: bool = False
    series: int | None = None


@dataclass
class _Tree:
    """What a walk over a folder came upon: files and OME-Zarr folders, DICOM files by series, and what is left out."""

    files: list[Path] = field(default_factory=list)
    series: dict[tuple[Path, str], list[tuple[Path, Instance]]] = field(default_factory=lambda: defaultdict(list))
    refused: list[tuple[Path, str, bool]] = field(default_factory=list)


def scan_folder(
    folder: Path,
    markers: Sequence[str],
    terms: Terms = Terms(),
    *,
    recursive: bool = False,
    without: Path | None = None,
) -> tuple[list[Entry], list[Refused]]:
    """The slides of a folder, in the order of their names, and the files in it that are none, with the reason.

    recursive : look into folders as well, linked ones too.
    without   : a folder to leave out (the output).

    A slide's name is made of its path below `folder`; where two are alike, `identify` tells them apart. A DICOM series
    is one slide, named after its finest level. Raises ConfigError when `folder` is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give a folder of slides or a sample sheet (.tsv, .csv)")
    home = folder.absolute()
    tree = _walk(home, recursive, without.resolve() if without else None)
    entries: list[Entry] = []

    def name_of(path: Path) -> str:
        return path.relative_to(home).as_posix()

    def label(path: Path) -> str:  # of what is no slide: its ending can be any
        return safe_name(name_of(path.with_suffix("")) if path != home else path.name)

    refused = [Refused(label(p), str(p), reason, fatal) for p, reason, fatal in tree.refused]
    for path in sorted(tree.files):
        found = examine(Entry(safe_name(name_of(path)), str(path), tuple(markers), is_named=False), terms)
        if isinstance(found, Refused):
            meant = found.is_slide and _is_meant(path, terms)
            refused.append(replace(found, slide=label(path), is_slide=meant))
            continue
        entries.append(found)
    return entries, sorted(refused, key=lambda r: r.path)


def check_entries(entries: Sequence[Entry], terms: Terms) -> tuple[list[Entry], list[Refused]]:
    """The entries of a sheet that open as slides, and those that do not, with the reason; each was meant as a slide."""
    good: list[Entry] = []
    refused: list[Refused] = []
    for entry in entries:
        found = examine(entry, terms)
        if isinstance(found, Refused):
            refused.append(replace(found, is_slide=True))
        else:
            good.append(found)
    return good, refused


def examine(entry: Entry, terms: Terms) -> Entry | Refused:
    """The entry with the fingerprint of its slide, and its mpp only where the slide has none; or why it is none.

    Whatever goes wrong with one file is about this file: no error of any kind leaves this function.
    """
    try:
        what = None if terms.wants_ihc else virtual_stain(entry.path)
        if what is not None:
            return Refused(entry.slide, entry.path, f"it is {what}, not an H&E slide", False)
        aside = _aside(entry.path)
        if aside:
            return Refused(entry.slide, entry.path, aside, False)
        return _opened(entry, terms)
    except SlideError as error:
        reason = " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - a reader's fault with one file must not end the others
        reason = f"it cannot be examined ({type(error).__name__}: {shown(' '.join(str(error).split()))[:300]})"
    return Refused(entry.slide, entry.path, reason, True)


def _opened(entry: Entry, terms: Terms) -> Entry:
    given = entry.mpp if entry.mpp is not None else terms.mpp
    series = terms.series if entry.series is None else entry.series
    try:
        slide, used = open_slide(entry.path, reader=terms.reader, series=series), None
    except SlideError:
        if given is None:
            raise
        slide, used = open_slide(entry.path, mpp=given, reader=terms.reader, series=series), given
    info = slide.info
    slide.close()
    note = ""
    if used is None and entry.mpp is not None and abs(entry.mpp / info.mpp - 1) > 0.05:
        note = f"the sheet's mpp {entry.mpp:g} was not used: the slide says {info.mpp:.4g}"
    return replace(entry, mpp=used, fingerprint=info.fingerprint, note=note)


def _aside(path: str) -> str:
    """Why a DICOM file is no slide though OpenSlide opens the series from it; "" for all others."""
    if "://" in path or not _is(Path.is_file, Path(path)) or not is_dicom(Path(path)):
        return ""
    instance = read_instance(Path(path))
    if instance is None or instance.modality != "SM" or instance.kind in ("VOLUME", "THUMBNAIL", ""):
        return ""
    return f"{_NO_LEVEL} ({instance.kind[:16].lower()}); name an instance of the slide itself"


def _is_meant(path: Path, terms: Terms) -> bool:
    """Was a file that cannot be stained meant to be a slide?"""
    name = path.name.lower()
    if name.endswith(SLIDE_SUFFIXES) or (terms.mpp is not None and name.endswith(PICTURE_SUFFIXES)):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head.startswith(_TIFF) or head[128:] == b"DICM"


def _walk(home: Path, recursive: bool, without: Path | None) -> _Tree:
    """Files and OME-Zarr folders below `home`; linked folders after all others, so that none is entered twice."""
    # Folders still to be entered; those behind links come last, so that a slide is found under its own name.
    tree = _Tree()
    entered = {without} if without else set()
    waiting: list[Path] = [home]
    linked: list[Path] = []
    while waiting or linked:
        here = waiting.pop(0) if waiting else linked.pop(0)
        real = here.resolve()
        if real in entered and here != home:
            if real != without:
                tree.refused.append((here, f"it is a link to {real}, which is searched already", False))
            continue
        entered.add(real)

        # What lies in the folder. Parts of a slide are named by the slide that owns them, not as slides of their own.
        try:
            inside = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError as error:
            tree.refused.append((here, f"the folder cannot be read: {error.strerror}", True))
            continue
        passed = _parts_of_slides(here, inside)

        # Each entry is a slide, a folder to enter, or refused with the reason.
        for item in inside:
            path = here / item.name
            if item.name.startswith("._") or path in passed:  # the first is what a Mac keeps beside a file
                continue
            if item.name.startswith("."):
                if item.name.lower().endswith(SLIDE_SUFFIXES):
                    tree.refused.append(
                        (path, "it is hidden (its name begins with a dot); rename it to stain it", False)
                    )
            elif not _is(Path.is_dir, path):
                _add_file(tree, path)
            elif item.name.lower().endswith(".zarr") or _has_any(path, _ZARR):
                _add_zarr(tree, path)
            elif _has_any(path, ("Slidedat.ini",)):
                tree.refused.append(
                    (path, f"it is the data of an MRXS slide, but {path.name}.mrxs is not beside it", True)
                )
            elif recursive:
                (linked if item.is_symlink() else waiting).append(path)
            elif path.resolve() != without:
                tree.refused.append((path, "it is a folder, and those are entered with --recursive only", False))
    _choose_levels(tree)
    return tree


def _has_any(folder: Path, names: Sequence[str]) -> bool:
    return any(_is(Path.is_file, folder / name) for name in names)


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    """What a test of a path says; False where it may not look."""
    try:
        return test(path)
    except OSError:
        return False


def _parts_of_slides(here: Path, inside: Sequence["os.DirEntry[str]"]) -> set[Path]:
    """Files and folders that belong to a slide beside them: MRXS data, CellSens data, pictures that a VMS names."""
    names = {item.name for item in inside}
    parts = {here / Path(n).stem for n in names if n.lower().endswith(".mrxs")}
    parts |= {here / f"_{Path(n).stem}_" for n in names if n.lower().endswith(".vsi")}
    for name in names:
        if name.lower().endswith((".vms", ".vmu")):
            parts |= {here / value for value in _values_of(here / name) if value in names}
    return parts


def _values_of(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            text = file.read(1 << 20).decode("latin-1")
    except OSError:
        return
    for line in text.splitlines():
        yield line.partition("=")[2].strip()


def _add_zarr(tree: _Tree, path: Path) -> None:
    if _is(Path.is_dir, path / ".wsistain") and not _has_any(path, _ZARR):
        tree.refused.append((path, "it is an unfinished stain of wsistain", False))
    else:
        tree.files.append(path)


def _add_file(tree: _Tree, path: Path) -> None:
    """Sort a file by what it is; links that lead nowhere are left to `open_slide`, which says so."""
    lower = path.name.lower()
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            tree.refused.append((path, "it is no regular file", lower.endswith(SLIDE_SUFFIXES)))
        elif lower.endswith(_HALF) and lower[: lower.rindex(".")].endswith(SLIDE_SUFFIXES):
            tree.refused.append((path, "it is a slide whose copy is not finished, by its name; copy it again", True))
        elif lower.endswith(_PACKED) and lower[: lower.rindex(".")].endswith(SLIDE_SUFFIXES):
            tree.refused.append((path, "it is a packed slide; unpack it first", True))
        elif path.exists() and is_dicom(path):
            _add_dicom(tree, path)
        else:
            tree.files.append(path)
    except OSError:
        tree.files.append(path)


def _add_dicom(tree: _Tree, path: Path) -> None:
    instance = read_instance(path)
    if instance is None or not instance.modality:
        tree.files.append(path)
    elif instance.modality != "SM":
        tree.refused.append((path, f"{_NO_LEVEL} (modality {instance.modality[:16]})", False))
    else:
        tree.series[path.parent, instance.series or path.name].append((path, instance))


def _choose_levels(tree: _Tree) -> None:
    """One file for each DICOM series: its finest level. A series without one is no slide."""
    for members in tree.series.values():
        levels = [(path, instance) for path, instance in members if instance.is_volume]
        if levels:
            tree.files.append(min(levels, key=lambda m: (-m[1].pixels, m[0].name))[0])
        else:
            tree.refused += [(p, f"{_NO_LEVEL} ({i.kind[:16].lower() or 'no kind'})", False) for p, i in members]
