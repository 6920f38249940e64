"""Sample sheets: the slides that a user names, and the sheet that the workflow reads."""

import codecs
import csv
import difflib
import io
import math
import re
import stat
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsistain.errors import ConfigError, shown
from wsistain.markers import parse_markers
from wsistain.output.names import slide_stem
from wsistain.runtime.files import replacing
from wsistain.slide.place import local_place, plain_place
from wsistain.slide.roi_file import read_roi

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a slide may be called in a sheet: it becomes part of file names, so it must not be a path."""

COLUMNS = ("slide", "path", "markers", "mpp", "series", "roi", "roi_class", "folder", "stem", "fingerprint")
"""Of the workflow's sheet; the first seven are for users, the others are worked out anew."""

MOST_BYTES = 64 * 2**20
_SEPARATOR = re.compile(r'"?sep=([;,\t|]?)"?', re.IGNORECASE)
"""A first line by which Excel knows the sign between the cells."""
_ASKED = COLUMNS[:7]
_SPELLINGS = {"marker": "markers", "stain": "markers", "stains": "markers", "um_per_px": "mpp", "mpp_x": "mpp"}


@dataclass(frozen=True)
class Entry:
    """A slide to stain.

    slide       : its name in logs and reports; no path.
    path        : file, OME-Zarr folder or URL, absolute where it is a path.
    markers     : names of markers.
    mpp         : um per px of level 0, where the slide has none.
    folder      : where its results go, below the output folder: "." or a folder of its own.
    fingerprint : of the slide's content; "" where it is not known.
    is_named    : a sheet gives the name, so it stays.
    note        : what the summary should say of it.
    series      : which picture of a file that holds several; None where `--series` or the file decides.
    roi         : GeoJSON file of the areas to stain, absolute; "" for all of the slide.
    roi_class   : classes of those areas, with commas; "" for all of them.
    """

    slide: str
    path: str
    markers: tuple[str, ...]
    mpp: float | None = None
    folder: str = "."
    fingerprint: str = ""
    is_named: bool = True
    note: str = ""
    roi: str = ""
    roi_class: str = ""
    series: int | None = None

    @property
    def tag(self) -> str:
        """The markers as they stand in file names."""
        return "-".join(self.markers)

    @property
    def stem(self) -> str:
        """What its results are called after, without the marker."""
        return slide_stem(self.path)


@dataclass(frozen=True)
class Refused:
    """A file that cannot be stained, and why in one sentence.

    is_slide : it was meant to be a slide (by its ending or content, or because a sheet names it): it counts as failed.
    """

    slide: str
    path: str
    reason: str
    is_slide: bool


def safe_name(name: str) -> str:
    """A name of plain characters from the name, or the relative path, of a slide."""
    parts = [p for p in name.split("/") if p]
    whole = "_".join([*parts[:-1], slide_stem(parts[-1])]) if parts else ""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", whole).strip("._-")[:100] or "slide"


def fresh_name(base: str, used: Container[str], fingerprint: str = "") -> str:
    """`base`, or with more behind it where that is one of `used` (in lower case).

    The first digits of the slide's fingerprint come first: they tell two slides of one name apart, not their order.
    """
    made, n = base, 1
    if made.lower() in used and fingerprint:
        made = base = f"{base[:100]}-{fingerprint[:8]}"
    while made.lower() in used:
        n += 1
        made = f"{base[:115]}-{n}"
    return made


def parse_sheet(path: Path, markers: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The slides of a sample sheet, and the columns in it that were passed over.

    path    : .csv, .tsv or .txt with a line of column names: path and, where wanted, slide, markers and mpp, in any
              case and order. Commas, semicolons or tabs; UTF-8, or UTF-16 as spreadsheets save it. Relative paths
              start at the sheet's own folder, `~` is the user's.
    markers : of the rows that name none.

    Raises ConfigError naming the row for what is no sheet, a name that is no name or there twice, and for a column
    whose name is nearly one of ours: passed over in silence it would mean other markers, or another scale.
    """
    table = read_table(path)
    header = [cell.casefold() for cell in table[0]]
    _check_header(path, table[0], header)
    known = [(k, name) for k, name in enumerate(header) if name in COLUMNS]
    entries: list[Entry] = []
    used: set[str] = set()
    for number, row in enumerate(table[1:], 2):
        if any(row[len(header) :]):
            raise ConfigError(f"{path}, row {number}: {len(row)} cells, but {len(header)} columns")
        cells = {name: row[k] for k, name in known if k < len(row)}
        try:
            entries.append(_entry(cells, path.absolute().parent, markers, used))
        except ConfigError as error:
            raise ConfigError(f"{path}, row {number}: {error}") from None
        used.add(entries[-1].slide.lower())
    return entries, [name for name, key in zip(table[0], header, strict=True) if name and key not in COLUMNS]


def read_table(path: Path) -> list[list[str]]:
    """The rows of a sheet, cells stripped; empty rows and comments left out."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".tab"):
        raise ConfigError(f"{path} is neither a folder nor a sample sheet; wanted .tsv or .csv")
    try:
        text = _decoded(_bounded(path))
        delimiter = _delimiter(text, path)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a sample sheet: {error}") from None
    rows = [[cell.strip() for cell in row] for row in rows if not _SEPARATOR.fullmatch("".join(row))]
    rows = [row for row in rows if any(row) and not row[0].startswith("#")]
    if len(rows) < 2:
        raise ConfigError(f"{path} names no slide; wanted a line of column names (slide, path) and a line for each")
    return rows


def _bounded(path: Path) -> bytes:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigError(f"{path} is no regular file; wanted a sample sheet (.tsv, .csv)")
    if facts.st_size > MOST_BYTES:
        raise ConfigError(f"{path} is larger than a sample sheet can be ({MOST_BYTES >> 20} MiB)")
    return path.read_bytes()


def _decoded(raw: bytes) -> str:
    """The text of a sheet; bytes that are no UTF-8 stay what they are, as in the names of files."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16")
    if raw[1:2] == b"\0" or raw[:1] == b"\0":  # UTF-16 without a mark: the header's letters are ASCII
        return raw.decode("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be")
    return raw.decode("utf-8-sig", "surrogateescape")


def _delimiter(text: str, path: Path) -> str:
    """The sign between the cells: the one that the first line holds, by the ending where it holds none or several."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = lines[0] if lines else ""
    said = _SEPARATOR.fullmatch(first)
    if said:
        return said[1] or ","
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    return max((usual, "\t", ";", ","), key=lambda sign: first.count(sign))


def _check_header(path: Path, names: Sequence[str], header: Sequence[str]) -> None:
    ours = [name for name in header if name in COLUMNS]
    if "path" not in ours or len(set(ours)) != len(ours):
        raise ConfigError(
            f"{path}: the columns are {', '.join(map(repr, names))[:200]}; wanted path and, as needed, slide, markers, mpp"
        )
    for name in header:
        key = re.sub(r"\W+", "_", name).strip("_")
        near = (
            _SPELLINGS.get(key)
            or next((c for c in ("mpp", "markers") if key.startswith(c.rstrip("s"))), None)
            or next(iter(difflib.get_close_matches(key, _ASKED, n=1, cutoff=0.8)), None)
        )
        if near is not None and name not in COLUMNS and near not in ours:
            raise ConfigError(f"{path}: the column {name!r} is not known; did you mean {near!r}? Rename or remove it")


def _entry(cells: Mapping[str, str], base: Path, markers: Sequence[str], used: Container[str]) -> Entry:
    place = local_place(cells.get("path", ""))
    if not place or "\0" in place:
        raise ConfigError("the path is missing")
    if "://" not in place:
        place = str((base / _home(place)).absolute())
    given = cells.get("slide", "")
    slide = given or fresh_name(safe_name(Path(place.rstrip("/")).name), used)
    if not ID.fullmatch(slide):
        raise ConfigError(
            f"the slide's name {shown(slide[:60])!r} is no name; wanted letters, digits, '.', '_' and '-'"
        )
    if slide.lower() in used:
        raise ConfigError(f"the slide {slide!r} is there twice; every slide needs its own name")
    named = parse_markers(cells["markers"]) if cells.get("markers") else ()
    mpp = slide_mpp(cells["mpp"]) if cells.get("mpp") else None
    roi, roi_class = _areas(cells, base)
    return Entry(
        slide,
        place,
        tuple(m.name for m in named) or tuple(markers),
        mpp,
        is_named=bool(given),
        roi=roi,
        roi_class=roi_class,
        series=_series(cells["series"]) if cells.get("series") else None,
    )


def _areas(cells: Mapping[str, str], base: Path) -> tuple[str, str]:
    """The file of areas of a row and their classes; ConfigError when it cannot be read or holds none of them."""
    roi, classes = local_place(cells.get("roi", "")), cells.get("roi_class", "")
    if not roi:
        if classes:
            raise ConfigError(f"roi_class {shown(classes[:60])!r} names classes of drawn areas, but the row has no roi")
        return "", ""
    if not (classes.isascii() and classes.isprintable()):
        raise ConfigError(
            f"roi_class {shown(classes[:60])!r} is not plain text; name the class with --set roi_class=..."
        )
    path = (base / _home(roi)).absolute()
    read_roi(path, classes.split(","))
    return str(path), classes


def _home(place: str) -> Path:
    """The path with `~` for what it stands for; a name that only begins so stays."""
    try:
        return Path(place).expanduser()
    except RuntimeError:
        return Path(place)


def slide_mpp(cell: str) -> float:
    """um per px from a cell, with a comma for the point where a spreadsheet writes it so."""
    try:
        mpp = float(cell.replace(",", ".")) if cell.isascii() else math.nan
    except ValueError:
        mpp = math.nan
    if not 0.05 <= mpp <= 20:
        raise ConfigError(f"mpp {cell[:40]!r} is no plausible um per px; wanted 0.05 to 20, as 0.25")
    return mpp


def _series(cell: str) -> int:
    """The number of a picture from a cell."""
    if not re.fullmatch(r"[0-9]{1,6}", cell):
        raise ConfigError(
            f"series {shown(cell[:40])!r} is no number of a picture; wanted 0 or more, as info shows them"
        )
    return int(cell)


def write_sheet(path: Path, entries: Sequence[Entry]) -> None:
    """Write the sample sheet of the workflow in one move, tab-separated, in plain characters."""
    with replacing(path) as part, part.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for e in entries:
            place, mpp = plain_place(e.path), "" if e.mpp is None else f"{e.mpp:.8g}"
            stem = plain_place(f"/{e.stem}").removeprefix("file://").removeprefix("/")
            roi = plain_place(e.roi) if e.roi else ""
            markers = ",".join(e.markers)
            series = "" if e.series is None else str(e.series)
            writer.writerow((e.slide, place, markers, mpp, series, roi, e.roi_class, e.folder, stem, e.fingerprint))


def listed_slides(path: Path, markers: Sequence[str]) -> list[Entry]:
    """The slides of the workflow's sample sheet, as `write_sheet` or people write it: what is looked up, not stained.

    markers : of slides for which the sheet names none.

    Raises ConfigError.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(file, delimiter="\t")]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} is no sample sheet that can be read ({error}); name it with --sheet") from None
    entries = []
    for line, row in enumerate(rows, start=2):
        slide, place, folder = row.get("slide", ""), row.get("path", ""), row.get("folder", ".")
        if not ID.fullmatch(slide) or not place or (folder != "." and not ID.fullmatch(folder)):
            raise ConfigError(
                f"{path}, line {line}: wanted the columns slide (letters, digits, '.', '_', '-') and path"
            )
        named = tuple(m.name for m in parse_markers(row["markers"])) if "markers" in row else tuple(markers)
        entries.append(Entry(slide, local_place(place), named, folder=folder, fingerprint=row.get("fingerprint", "")))
    return entries
