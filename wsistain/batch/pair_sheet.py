"""Sample sheets of pairs: an H&E slide and an IHC slide a row."""

import re
from pathlib import Path
from typing import Any

from wsistain.batch.sheet import ID, read_table, safe_name, slide_mpp
from wsistain.errors import ConfigError, shown
from wsistain.markers import find_marker
from wsistain.slide.place import local_place

COLUMNS = ("he", "ihc", "slide", "marker", "patient", "part", "he_mpp", "ihc_mpp")


def parse_pairs(path: Path, marker: str, part: str) -> list[dict[str, Any]]:
    """The pairs of a sheet as keyword arguments of `PairJob`: he, ihc, marker, slide, patient, part and the um per px.

    path   : .csv, .tsv or .txt with a line of column names, he and ihc among them. Relative paths start at its folder.
    marker, part : of the rows that name none.

    Raises ConfigError naming the row for what is missing, unknown or there twice.
    """
    table = read_table(path)
    header = [cell.casefold() for cell in table[0]]
    odd = sorted({name for name in header if name not in COLUMNS or header.count(name) > 1})
    if odd or not {"he", "ihc"} <= set(header):
        raise ConfigError(
            f"{path}: the columns are {', '.join(map(repr, header))[:200]}; wanted he and ihc and, as needed, "
            f"{', '.join(COLUMNS[2:])}, each once"
        )
    pairs: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(table[1:], 2):
        cells = {name: row[k] for k, name in enumerate(header) if k < len(row) and row[k]}
        try:
            pair = _pair(cells, path.absolute().parent, marker, part)
        except ConfigError as error:
            raise ConfigError(f"{path}, row {number}: {error}") from None
        key = (pair["marker"], pair["slide"].lower())
        if key in seen:
            raise ConfigError(
                f"{path}, row {number}: {pair['slide']} is there twice for {pair['marker']}; name one in the column slide"
            )
        seen.add(key)
        pairs.append(pair)
    return pairs


def slide_name(file: str) -> str:
    """The name of a slide from that of its file: of plain characters, and not ending like the place of a patch (`_3_4`)."""
    return re.sub(r"_(?=\d+$)", "-", safe_name(file))


def _pair(cells: dict[str, str], base: Path, marker: str, part: str) -> dict[str, Any]:
    for side in ("he", "ihc"):
        if side not in cells:
            raise ConfigError(f"the {side} slide is missing")
    he, ihc = (_place(cells[side], base) for side in ("he", "ihc"))
    slide = cells.get("slide") or slide_name(Path(he.rstrip("/")).name)
    if not ID.fullmatch(slide):
        raise ConfigError(f"the name {shown(slide[:60])!r} is no name; wanted letters, digits, '.', '_' and '-'")
    chosen = cells.get("part", part)
    if chosen not in ("auto", "train", "val"):
        raise ConfigError(f"the part {shown(chosen[:40])!r} is not known; wanted auto, train or val")
    found: dict[str, Any] = {
        "he": he, "ihc": ihc, "marker": find_marker(cells.get("marker", marker)).name, "slide": slide,
        "patient": cells.get("patient"), "part": chosen,
    }  # fmt: skip
    return found | {name: slide_mpp(cells[name]) for name in ("he_mpp", "ihc_mpp") if name in cells}


def _place(cell: str, base: Path) -> str:
    place = local_place(cell)
    return place if "://" in place else str((base / Path(place).expanduser()).absolute())
