"""What the files beside a finished stain say of it, for the summary: scores, verdict, where the report lies.

They may be damaged, or edited by people: what is not what it should be is left out, never guessed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsistain.output.names import READ_ENDINGS

NOT_READ = "the cells were not read: "
"""In the log of a run that was to read them and could not; the reason follows."""


@dataclass(frozen=True)
class Told:
    """One stain.

    verdict  : of the run on the slide ("unlike training", ...); "" where it says nothing.
    trusted  : share of the tissue on which the stain is trusted, 0..1; None where it is not known.
    cells    : how many were read and count; None where none were.
    category : in the guideline's words.
    scores   : by column of the summary: each score of the slide, and `_low` and `_high` of its interval.
    report   : name of the report beside the stain; "" where there is none.
    note     : what is wrong with what was read; "".
    """

    verdict: str = ""
    trusted: float | None = None
    cells: int | None = None
    category: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    report: str = ""
    note: str = ""


def read_told(stain: Path, stem: str) -> Told:
    """What lies beside the OME-Zarr `stain`, whose files are called `<stem>.<ending>`."""
    provenance = _dict(_json(stain.with_name(f"{stem}.run.json")).get("provenance"))
    verdict = _text(_dict(provenance.get("trust")).get("verdict"))
    page, facts = (stain.with_name(f"{stem}.{ending}") for ending in READ_ENDINGS[-2:])
    if not facts.is_file():
        return Told(verdict)
    read = _json(facts)
    scores = _dict(_dict(read.get("scores")).get("slide"))
    if not scores:
        return Told(verdict, note=f"{facts.name} cannot be read; read the stain again (wsistain read --overwrite)")
    of = _dict(_dict(read.get("provenance")).get("stain"))
    if of.get("date") != provenance.get("date"):
        return Told(verdict, note="what was read is of an earlier stain; read it again (wsistain read --overwrite)")
    cells, trusted = scores.get("cells"), _dict(read.get("trust")).get("trusted")
    return Told(
        verdict=verdict,
        trusted=float(trusted) if isinstance(trusted, int | float) and 0 <= trusted <= 1 else None,
        cells=cells if isinstance(cells, int) else None,
        category=_text(scores.get("category")),
        scores=_numbers(scores),
        report=page.name if page.is_file() else "",
    )


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, told in scores.items():
        if isinstance(told, dict):
            for column, key in ((name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                value = told.get(key)
                if isinstance(value, int | float) and math.isfinite(value):
                    found[column] = float(value)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return _dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def why_not_read(log: Path) -> str:
    """The sentence with which a run said that the cells could not be read, from its log; "" where it did not."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.partition(NOT_READ)[2].strip() for line in lines if line.startswith("Warning: ") and NOT_READ in line]
    return f"not read: {said[-1]}"[:500] if said else ""
