"""What a batch came to: one row a slide and marker, as `summary.csv` and as a table."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from wsistain.batch.identity import made_from
from wsistain.batch.score import Kept
from wsistain.batch.sheet import Entry, Refused
from wsistain.batch.told import read_told, why_not_read
from wsistain.errors import OutputError, SlideError
from wsistain.markers import find_marker
from wsistain.output.names import output_name
from wsistain.output.same import OTHER_INPUT
from wsistain.pipeline.planning import NO_TISSUE
from wsistain.runtime.files import reporting, write_text
from wsistain.runtime.spreadsheet import csv_text


@dataclass(frozen=True)
class Row:
    """A line of `summary.csv`.

    state             : "done"; "no tissue", for a blank slide, with which nothing is left to do; "failed"; "skipped", for
                        a file that is no slide; "missing", for one not reached.
    minutes           : of the run that finished it.
    mp_per_second     : 10^6 output px a second in that run.
    positive_fraction : share of the tissue that is positive, 0..1 (`wsistain.optics.scoring`).
    result            : the OME-Zarr, below the output folder.
    fingerprint       : of the slide from which the result was made.
    cells, category   : how many cells were read and count, and the guideline's word for the slide.
    verdict           : whether the slide looks like what the weights were trained on.
    trusted           : share of the tissue on which the stain is trusted, 0..1 (`wsistain.reading.trust`).
    report            : the page of what was read, below the output folder.
    note              : of the weights, as that they are a demonstration.
    scores            : each score of the slide and its interval (`<score>`, `<score>_low`, `<score>_high`), a column each.
    """

    slide: str
    marker: str
    state: str
    minutes: float | None = None
    mp_per_second: float | None = None
    positive_fraction: float | None = None
    message: str = ""
    path: str = ""
    result: str = ""
    fingerprint: str = ""
    cells: int | None = None
    category: str = ""
    verdict: str = ""
    trusted: float | None = None
    report: str = ""
    note: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


def stain_path(output: Path, entry: Entry, marker: str) -> Path:
    """Where the stain of a slide lies."""
    return output / entry.folder / f"{output_name(entry.path, marker)}.ome.zarr"


def is_finished(stain: Path) -> bool:
    """Does the folder hold a finished OME-Zarr? What has metadata is finished."""
    return (stain / "zarr.json").is_file() or (stain / ".zattrs").is_file()


def last_words(log: Path) -> str:
    """The sentence with which a run ended, from its log; "" where it said nothing."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    said = [line.removeprefix("wsistain: ") for line in lines if line.startswith("wsistain: ")]
    return (said or [line for line in lines if line] or [""])[-1][:500]


def summarise(
    output: Path, entries: Sequence[Entry], refused: Sequence[Refused], logs: Path, markers: Sequence[str]
) -> list[Row]:
    """The rows of a batch, in the order of the sheet; what was refused comes last.

    logs : folder of the jobs' logs; their done markers lie in `done` beside it.
    """
    kept = Kept(logs.parent / "scores.json")
    rows = [_row(output, entry, marker, logs, kept) for entry in entries for marker in entry.markers]
    for file in refused:
        state, names = ("failed", markers) if file.is_slide else ("skipped", ("",))
        rows += [Row(file.slide, name, state, message=file.reason, path=file.path) for name in names]
    return rows


def _row(output: Path, entry: Entry, marker: str, logs: Path, kept: Kept) -> Row:
    stain = stain_path(output, entry, marker)
    words = last_words(logs / f"{entry.slide}.{entry.tag}.log")
    row = Row(entry.slide, marker, "failed", path=entry.path)
    # No result of this run: why, as far as its log says.
    if not is_finished(stain):
        if NO_TISSUE in words:
            return replace(row, state="no tissue", message=words)
        if not (logs / f"{entry.slide}.{entry.tag}.log").is_file():
            return replace(row, state="missing", message="it was not reached")
        return replace(row, message=words or "the run ended without a word; see its log")
    if not (logs.parent / "done" / f"{entry.slide}.{entry.tag}.done").exists() and OTHER_INPUT in words:
        return replace(row, message=words)  # an older stain

    # A result, but of which slide?
    owner = made_from(stain)
    row = replace(row, result=stain.relative_to(output).as_posix(), fingerprint=owner)
    if owner and entry.fingerprint and owner != entry.fingerprint:
        return replace(
            row,
            message=f"the result there was made from another slide (fingerprint {owner}, this one's is {entry.fingerprint}); "
            "pass --overwrite to replace it, or choose another --output",
        )

    # What the result says of itself.
    try:
        share = kept.count(stain, find_marker(marker)).positive_fraction
        facts = json.loads((stain.parent / f"{output_name(entry.path, marker)}.run.json").read_bytes())
        minutes, speed = round(facts["seconds"]["total"] / 60, 2), float(facts["mp_per_second"])
        unread = int(facts["unreadable_tiles"])
        note = str(facts["provenance"].get("note") or "")
    except (OutputError, SlideError, OSError, ValueError, KeyError, TypeError) as error:
        return replace(row, message=f"the result cannot be read: {error}")
    notes = [f"{unread} native tiles could not be decoded and are glass"] if unread else []
    told = read_told(stain, output_name(entry.path, marker))
    unread_cells = why_not_read(logs / f"{entry.slide}.{entry.tag}.log") if told.cells is None else ""
    notes += [n for n in (told.note, unread_cells, entry.note) if n]
    return replace(
        row,
        state="done",
        minutes=minutes,
        mp_per_second=speed,
        positive_fraction=None if math.isnan(share) else round(share, 4),
        message="; ".join(notes),
        cells=told.cells,
        category=told.category,
        verdict=told.verdict,
        trusted=told.trusted,
        report=(stain.parent / told.report).relative_to(output).as_posix() if told.report else "",
        note=note,
        scores=told.scores,
    )


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write `summary.csv` in one move. Raises OutputError."""
    columns = [f.name for f in fields(Row) if f.name != "scores"]
    columns += dict.fromkeys(name for row in rows for name in row.scores)
    with reporting(path, retry="run again"):
        write_text(path, csv_text(columns, [{**asdict(row), **row.scores} for row in rows]))
