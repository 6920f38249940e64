"""`summary.html`: all slides of a batch on one page, to be sorted, looked through and printed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsistain import __version__
from wsistain.batch.summary import Row
from wsistain.pages.pictures import jpeg_data
from wsistain.pages.render import number, render
from wsistain.runtime.files import reporting, write_text

THUMB_PX = 208
"""Twice as many as are shown, for fine screens and paper."""

STATEMENT = "Virtual stains, computed from H&E slides; for research use only, not for diagnosis."
SCORES = (("percent_positive", "Positive cells", " %"), ("h_score", "H-score", ""))
"""Scores that every marker has, with a column each; the marker's own ones stand under its category."""

OTHERS = {"allred": ("Allred", 0), "ki67_index": ("Ki67 index", 1), "her2_score": ("HER2", 0)}
KINDS = {"unlike training": "bad", "partly unlike training": "warn", "like training": "good"}
DEMONSTRATION = "DEMONSTRATION"
"""In the note of weights that show what wsistain does, and nothing more."""

STATES = {"done": "good", "failed": "bad", "missing": "bad", "no tissue": "warn"}


def write_page(path: Path, rows: Sequence[Row]) -> None:
    """Write the page at `path`, in the folder to which the rows' results are relative. Raises OutputError."""
    with reporting(path, retry="run again"):
        write_text(path, to_html(rows, path.parent))


def to_html(rows: Sequence[Row], folder: Path) -> str:
    """The page; `folder`: where `Row.result` and `Row.report` are looked for."""
    # What holds for all stains is said once.
    is_demonstration = [DEMONSTRATION in row.note for row in rows if row.state == "done"]
    if is_demonstration and all(is_demonstration):
        rows = [replace(row, note="") for row in rows]
    states = {state: sum(row.state == state for row in rows) for state in dict.fromkeys(row.state for row in rows)}
    return render(
        "batch.html",
        title="Virtual stains",
        statement=STATEMENT,
        told=", ".join(f"{n} {state}" for state, n in states.items()) or "nothing",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        heads=[label for _, label, _ in SCORES],
        rows=[_row(row, folder) for row in rows],
        demonstration="All" if all(is_demonstration) and is_demonstration else "Some" if any(is_demonstration) else "",
    )


def _row(row: Row, folder: Path) -> dict[str, Any]:
    result = Path(row.result)
    preview = result.with_name(f"{result.name.removesuffix('.ome.zarr')}.preview.jpg") if row.result else None
    others = [
        f"{label} {number(row.scores[name], digits)}" for name, (label, digits) in OTHERS.items() if name in row.scores
    ]
    return {
        "row": row,
        "thumb": thumbnail(folder / preview) if preview else "",
        "preview": preview.as_posix() if preview and (folder / preview).is_file() else "",
        "state": STATES.get(row.state, "unknown"),
        "verdict": KINDS.get(row.verdict, "unknown"),
        "scores": [_score(row, name, unit) for name, _, unit in SCORES],
        "others": ", ".join(others),
    }


def _score(row: Row, name: str, unit: str) -> dict[str, Any]:
    value, low, high = (row.scores.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    return {
        "sort": "" if value is None else repr(value),
        "text": "" if value is None else number(value) + unit,
        "interval": "" if low is None or high is None else f"{number(low)} to {number(high)}",
    }


def thumbnail(path: Path) -> str:
    """A small picture of a preview as a data address; "" where there is none that can be read."""
    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            picture.draft("RGB", (THUMB_PX, THUMB_PX))
            small = picture.convert("RGB")
            small.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BOX)
            return jpeg_data(np.asarray(small))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return ""
