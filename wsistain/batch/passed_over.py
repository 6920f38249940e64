"""The rows of files that a batch could not open or that were no slides: they are in no sheet, and would be forgotten."""

import json
from collections.abc import Sequence
from pathlib import Path

from wsistain.batch.summary import Row
from wsistain.errors import OutputError
from wsistain.runtime.files import reporting, write_json

PASSED_OVER = "passed_over.json"
"""In the work folder."""

_TOLD = ("slide", "marker", "state", "message", "path")


def keep_passed_over(work: Path, rows: Sequence[Row]) -> None:
    """Write down the rows, in place of what was written before. Raises OutputError."""
    with reporting(work, retry="run again"):
        write_json(work / PASSED_OVER, [{name: getattr(row, name) for name in _TOLD} for row in rows])


def read_passed_over(work: Path) -> list[Row]:
    """The rows that the last batch wrote down; none where there was no batch. OutputError where they cannot be read."""
    path = work / PASSED_OVER
    try:
        held = json.loads(path.read_bytes())
        told = [tuple(str(one[name]) for name in _TOLD) for one in held]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise OutputError(f"{path} cannot be read; run the batch again, or remove the file") from None
    return [Row(slide, marker, state, message=message, path=where) for slide, marker, state, message, where in told]
