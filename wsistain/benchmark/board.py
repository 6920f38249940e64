"""The leaderboard: rows read and checked, then put side by side as a page, CSV and Markdown."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from wsistain import __version__
from wsistain.benchmark.agreement import Agreement, agreements
from wsistain.benchmark.cells import arrays_of
from wsistain.benchmark.compare import DRAWS, RANKED, Row, System, ranks, system_of, told_apart
from wsistain.benchmark.curves import Point, drawn, read_curves
from wsistain.benchmark.entry import Entry
from wsistain.benchmark.score import FORMAT
from wsistain.benchmark.sights import check_sights, shown_places
from wsistain.config import validate
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.summary import SlideBootstrap
from wsistain.evaluation.tables import formatted, markdown_table
from wsistain.pages.render import render
from wsistain.runtime.files import local_path, reporting, write_text
from wsistain.runtime.spreadsheet import csv_text

COLUMNS = (
    *RANKED, "information", "calibration_error", "error_at_100", "error_at_80", "ssim_truth", "ssim", "psnr", "lpips_alex",
    "stlpips_alex", "fid", "r_c", "r_p",
)  # fmt: skip
INTERVALS = (
    *RANKED, "information", "calibration_error", "error_at_100", "error_at_80", "ssim_truth", "ssim", "psnr", "lpips_alex", "stlpips_alex", "r_c"
)  # fmt: skip
PAPERS = ("ssim", "psnr", "lpips_alex", "stlpips_alex", "fid", "r_c", "r_p")
"""The papers' metrics, whose order of the systems is held against that of the cells."""
NAMES = {"identity": "Identity (H&E)", "mean_colour": "Mean-colour transfer"}


@dataclass(frozen=True)
class Board:
    """One condition: its systems in the order of the first ranked metric, their ranks, and who is told apart from whom."""

    name: str
    edition: str
    systems: list[System]
    ranks: dict[str, list[tuple[int, int, int] | None]]
    apart: dict[str, set[tuple[int, int]]]
    attainable: dict[str, Any]
    notes: list[str]


Of = tuple[str, str]
"""(edition, condition): rows of two editions never stand in one table."""


def write_board(
    paths: Sequence[str | Path], output: str | Path, *, curves: str | Path | None = None, overwrite: bool = False
) -> dict[Of, int]:
    """(edition, condition) to its number of rows, after leaderboard.html, .csv and .md were written into `output`.

    paths  : rows of `score`, or folders in which every `*.json`, also below, is one.
    curves : file of points of sensitivity, which the page draws below the table of their edition and condition.

    Raises DataError for what is no row, rows of other data, two rows of one run, and points of what has no row.
    """
    folder = local_path(output)
    if (folder / "leaderboard.html").exists() and not overwrite:
        raise OutputError(f"{folder} holds a leaderboard already; choose another --output or pass --overwrite")
    groups = grouped(read_rows(paths))
    points = [] if curves is None else read_curves(Path(curves))
    if lost := sorted({(p.edition, p.condition) for p in points} - groups.keys()):
        raise DataError(
            f"{curves} holds points of {lost[0][1]}, edition {lost[0][0]}, which has no row here; add its rows"
        )
    boards = [board_of(condition, rows) for (_, condition), rows in sorted(groups.items())]
    texts = {
        "leaderboard.csv": to_csv(boards),
        "leaderboard.md": to_markdown(boards),
        "leaderboard.html": to_html(boards, points),
    }
    with reporting(folder, retry="run again"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    return {of: len(rows) for of, rows in groups.items()}


def read_rows(paths: Iterable[str | Path]) -> dict[str, Row]:
    """File to row. Raises DataError for a file that is none."""
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not path.exists():
            raise DataError(f"there is no file or folder {path}; name rows of 'wsistain benchmark score'")
        if not found:
            raise DataError(f"there is no row (*.json) in {path}; 'wsistain benchmark score' writes them")
        files += found
    return {str(path): _row(path) for path in dict.fromkeys(files)}


def _row(path: Path) -> Row:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["format"] != FORMAT:
            raise DataError(f"{path} is a row of format {row['format']}, wanted {FORMAT}; score the pictures again")
        validate(Entry, row["entry"], f"{path}, entry")
        n, cells = len(row["pictures"]["slides"]), arrays_of(row["cells"])
        if len(row["cells"]["counts"]) != n or any(len(v) != n for v in row["pictures"].values()) or "od" not in cells:
            raise ValueError("lists of different lengths")
        for name in ("edition", "condition", "data_sha256"):
            if not isinstance(row[name], str):
                raise TypeError(name)
        if not isinstance(row["metrics"], dict) or not isinstance(row["attainable"], dict):
            raise TypeError("metrics")
        check_sights(row.get("sights", []))
        return {**row}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise DataError(f"{path} is no row of 'wsistain benchmark score' ({type(error).__name__}: {error})") from None


def grouped(rows: dict[str, Row]) -> dict[Of, list[Row]]:
    """(edition, condition) to rows. DataError where they were not scored on the same pictures, or one run is there twice."""
    found: dict[Of, list[tuple[str, Row]]] = {}
    runs: dict[tuple[Any, ...], str] = {}
    for path, row in rows.items():
        of = (row["edition"], row["condition"])
        others = found.setdefault(of, [])
        for key in ("data_sha256", "cutoff"):
            if others and others[0][1][key] != row[key]:
                raise DataError(
                    f"{path} and {others[0][0]} were not scored on the same data ({key} differs); keep them apart"
                )
        if others and others[0][1]["pictures"]["slides"] != row["pictures"]["slides"]:
            raise DataError(f"{path} and {others[0][0]} were not scored on the same pictures; score one of them again")
        run = (*of, row["entry"]["system"], row["entry"]["budget"], row["entry"]["seed"])
        if run in runs:
            raise DataError(f"{path} and {runs[run]} are both seed {run[4]} of {run[2]} ({run[3]}); keep one of them")
        runs[run] = path
        others.append((path, row))
    return {of: [row for _, row in pairs] for of, pairs in found.items()}


def board_of(condition: str, rows: Sequence[Row]) -> Board:
    """The rows of one condition put side by side."""
    boot = SlideBootstrap(rows[0]["pictures"]["slides"], draws=DRAWS)
    kinds: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row["entry"]["system"], row["entry"]["budget"]), []).append(row)
    metrics = [m for m in COLUMNS if any(m in row["metrics"] for row in rows)]
    systems = [system_of(of, metrics, boot) for of in kinds.values()]
    first = RANKED[0]
    systems.sort(key=lambda s: (not np.isfinite(s.value[first]), -s.value[first]))
    one = [label(s) for s in systems if not s.has_seeds]
    notes = []
    if one:
        notes.append(
            f"One seed alone: {', '.join(one)}. Their intervals do not hold what another seed does, and they are told apart from none."
        )
    if boot.why_not:
        notes.append(f"No intervals: {boot.why_not}.")
    lacking = {n: why for row in rows for n, why in row["missing"].items() if n in COLUMNS}
    notes += [f"{METRICS[n].label} is missing in some rows: {why}." for n, why in lacking.items()]
    return Board(
        name=condition,
        edition=rows[0]["edition"],
        systems=systems,
        ranks={m: ranks(systems, m) for m in RANKED if m in metrics},
        apart={m: told_apart(systems, m) for m in RANKED if m in metrics},
        attainable=rows[0]["attainable"],
        notes=notes,
    )


def label(system: System) -> str:
    """A system with its budget, as tables name it."""
    name = NAMES.get(system.name, system.name)
    return name if system.budget == "none" else f"{name} ({system.budget})"


def better_than(board: Board, metric: str, k: int) -> list[str]:
    """The systems that are told apart from system `k` and worse."""
    return [label(board.systems[j]) for i, j in sorted(board.apart[metric]) if i == k]


def to_csv(boards: Sequence[Board]) -> str:
    """One row an edition, condition, system and budget."""
    columns = ["edition", "condition", "system", "budget", "runs"]
    for m in COLUMNS:
        columns += [m, f"{m}_ci_low", f"{m}_ci_high", f"{m}_least", f"{m}_most"]
        columns += [f"{m}_rank", f"{m}_rank_low", f"{m}_rank_high", f"{m}_better_than"] if m in RANKED else []
    rows = []
    for board in boards:
        for k, s in enumerate(board.systems):
            row: dict[str, Any] = {"edition": board.edition, "condition": board.name}
            row |= {"system": s.name, "budget": s.budget, "runs": len(s.rows)}
            for m in s.value:
                if not np.isfinite(s.value[m]):
                    continue
                low, high = (s.interval(m) if m in INTERVALS else None) or (None, None)
                row |= {
                    m: s.value[m],
                    f"{m}_ci_low": low,
                    f"{m}_ci_high": high,
                    f"{m}_least": s.spread[m][0],
                    f"{m}_most": s.spread[m][1],
                }
                rank = board.ranks[m][k] if m in board.ranks else None
                if rank is not None:
                    row |= {f"{m}_rank": rank[0], f"{m}_rank_low": rank[1], f"{m}_rank_high": rank[2]}
                    row[f"{m}_better_than"] = "; ".join(better_than(board, m, k))
            rows.append(row)
    return csv_text(columns, rows)


def _text(system: System, metric: str) -> str:
    return formatted(system.value.get(metric), METRICS[metric])


def _interval(system: System, metric: str) -> str:
    pair = system.interval(metric) if metric in INTERVALS and metric in system.draws else None
    return "" if pair is None else " to ".join(formatted(v, METRICS[metric]) for v in pair)


def _ranked(rank: tuple[int, int, int] | None) -> str:
    return "" if rank is None else f"{rank[0]} ({rank[1]} to {rank[2]})"


ARROWS = {"higher": " ↑", "lower": " ↓", "zero": " →0", "none": ""}


def to_markdown(boards: Sequence[Board]) -> str:
    """A table for each condition."""
    parts = ["# Leaderboard of the phantom benchmark\n", f"{HOW}\n"]
    for board in boards:
        names = [m for m in COLUMNS if m in board.systems[0].value]
        head = [
            "",
            "runs",
            *(METRICS[m].label + ARROWS[METRICS[m].better] for m in names),
            "rank by cell AUC",
            "better in cell AUC than",
        ]
        rows = []
        for k, s in enumerate(board.systems):
            cells = [f"{_text(s, m)} [{_interval(s, m)}]" if _interval(s, m) else _text(s, m) for m in names]
            rows.append(
                [
                    label(s),
                    str(len(s.rows)),
                    *cells,
                    _ranked(board.ranks["cell_auc"][k]),
                    ", ".join(better_than(board, "cell_auc", k)) or "none",
                ]
            )
        parts += [f"## {board.name}, edition {board.edition}\n", f"{reach(board)}\n", markdown_table(head, rows)]
        parts += [f"- {note}" for note in board.notes] + [""]
        if told := agreements(board.systems, PAPERS):
            head = [agreement_title(told), "rank correlation with the cell AUC"]
            parts += [markdown_table(head, [[METRICS[a.metric].label, _agreement(a)] for a in told]), ""]
    return "\n".join(parts)


def agreement_title(told: Sequence[Agreement]) -> str:
    """What is asked of the papers' metrics on a board."""
    return f"Do the papers' metrics tell the order of {max(a.n for a in told)} systems as their cells do?"


def _agreement(found: Agreement) -> str:
    span = "" if found.low is None else f" [{found.low:.2f} to {found.high:.2f}]"
    return f"{found.value:.2f}{span}"


HOW = (
    "Intervals are 95 % over slides and seeds, drawn together for all systems; ranks are those of the draws. Better than: only where the "
    "difference is one at 5 % over all pairs together (Bonferroni), and both were trained from two seeds or more. What is not "
    "named there is not told apart."
)


def reach(board: Board) -> str:
    """What could be reached on a condition, in a sentence."""
    a = board.attainable
    best = "not known" if a["cell_auc"] is None else f"{a['cell_auc']:.3f}"
    return (
        f"The best reader of the H&E would reach a cell AUC of {best} and {a['information']:.3f} bits a cell; the aligned truth itself, read "
        f"as every picture is, has {a['truth_cell_auc']:.3f}; {100 * a['positive_share']:.0f} % of the tumour cells are positive."
    )


def to_html(boards: Sequence[Board], points: Sequence[Point] = ()) -> str:
    """The page: a table for each condition, to be sorted by any column, and its curves."""
    return render(
        "leaderboard.html",
        title="Leaderboard of the phantom benchmark",
        how=HOW,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        boards=[
            {
                **_shown(board),
                "curves": Markup(drawn([p for p in points if (p.edition, p.condition) == (board.edition, board.name)])),
            }
            for board in boards
        ],
        conventions=[(METRICS[m].label, METRICS[m].convention) for m in COLUMNS],
    )


def _shown(board: Board) -> dict[str, Any]:
    names = [m for m in COLUMNS if m in board.systems[0].value]
    rows = []
    for k, s in enumerate(board.systems):
        cells = [
            {
                "sort": repr(s.value[m]) if np.isfinite(s.value[m]) else "",
                "text": _text(s, m),
                "interval": _interval(s, m),
                "rank": _ranked(board.ranks[m][k]) if m in board.ranks else "",
            }
            for m in names
        ]
        entry = s.rows[0]["entry"]
        crops = [r["entry"]["crops"] for r in s.rows if r["entry"]["crops"] is not None]
        seconds = [r["entry"]["cpu_seconds"] for r in s.rows if r["entry"]["cpu_seconds"] is not None]
        rows.append(
            {
                "name": NAMES.get(s.name, s.name),
                "budget": s.budget,
                "runs": len(s.rows),
                "crops": max(crops, default=None),
                "seconds": max(seconds, default=None),
                "note": entry["note"],
                "is_baseline": s.budget == "none",
                "cells": cells,
                "better": {METRICS[m].label: better_than(board, m, k) for m in board.apart if better_than(board, m, k)},
            }
        )
    told = agreements(board.systems, PAPERS)
    heads = [{"label": METRICS[m].label + ARROWS[METRICS[m].better], "why": METRICS[m].convention} for m in names]
    return {
        "name": board.name,
        "edition": board.edition,
        "heads": heads,
        "rows": rows,
        "notes": board.notes,
        "reach": reach(board),
        "places": shown_places([(_caption(s), _first(s)) for s in board.systems]),
        "ranking": _ranking(board),
        "agreement": [(METRICS[a.metric].label, _agreement(a)) for a in told],
        "agreement_title": agreement_title(told) if told else "",
    }


def _first(system: System) -> Row:
    return min(system.rows, key=lambda row: row["entry"]["seed"] or 0)


def _caption(system: System) -> str:
    """A system, the seed whose picture is shown, and what that run alone has."""
    row = _first(system)
    seed, m = row["entry"]["seed"], RANKED[0]
    value = formatted(row["metrics"].get(m, {}).get("value"), METRICS[m])
    return f"{label(system)}{'' if seed is None else f', seed {seed}'}: {value}"


def _ranking(board: Board) -> dict[str, Any] | None:
    """The first ranked metric of all systems with its interval and range of seeds, as shares of an axis; None where none has it."""
    m = RANKED[0]
    seen = [s for s in board.systems if np.isfinite(s.value[m])]
    if not seen:
        return None
    spans = [s.interval(m) or (s.value[m], s.value[m]) for s in seen]
    best = board.attainable["cell_auc"]
    low = min(0.5, *(a for a, _ in spans), *(s.spread[m][0] for s in seen))
    high = max(*(b for _, b in spans), *(s.spread[m][1] for s in seen), best or 0.0, low + 0.05)
    low, high = float(np.floor(low * 20) / 20), float(np.ceil(high * 20) / 20)

    def at(value: float) -> float:
        return round((value - low) / (high - low), 4)

    lines = [
        {"name": label(s), "value": at(s.value[m]), "low": at(a), "high": at(b), "text": _text(s, m)}
        | {"seeds": [at(r["metrics"][m]["value"]) for r in s.rows if r["metrics"][m]["value"] is not None]}
        for s, (a, b) in zip(seen, spans, strict=True)
    ]
    ticks = [(at(v), f"{v:.2f}") for v in np.arange(low, high + 1e-9, 0.05 if high - low <= 0.4 else 0.1)]
    return {"lines": lines, "ticks": ticks, "best": None if best is None else at(best), "what": METRICS[m].label}
