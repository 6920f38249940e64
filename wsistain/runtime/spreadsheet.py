"""CSV files that people open with a spreadsheet: no cell of ours is a formula, and no name breaks the file."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wsistain.errors import shown

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes Excel, LibreOffice or a Japanese Excel compute a text cell."""


def safe_cell(value: Any) -> Any:
    """A value as it may stand in such a file: text is printable and never begins a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    return shown(f"'{value}" if value.lstrip(" \xa0").startswith(FORMULA_STARTS) else value)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file: a line of column names, then one a row; what a row lacks, and None, are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([safe_cell(column) for column in columns])
    writer.writerows([safe_cell(row.get(column, "")) for column in columns] for row in rows)
    return text.getvalue()
