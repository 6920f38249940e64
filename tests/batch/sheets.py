"""Sample sheets as tests read them."""

from collections.abc import Sequence
from pathlib import Path

from wsistain.batch.sheet import Entry, parse_sheet


def read_sheet(path: Path, markers: Sequence[str]) -> list[Entry]:
    """The slides of a sample sheet; see `parse_sheet`."""
    return parse_sheet(path, markers)[0]
