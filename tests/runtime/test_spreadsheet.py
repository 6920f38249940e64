"""Tables for spreadsheets: no formula, no control character, any name."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from wsistain.runtime.spreadsheet import csv_text, safe_cell


@given(st.text(max_size=40))
def test_no_text_is_a_formula_or_commands_a_terminal(text):
    cell = safe_cell(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert all(c.isprintable() or c in "\n\t\xa0" for c in cell)
    cell.encode("utf-8")


def test_numbers_stay_numbers_and_what_is_missing_is_empty():
    rows = [{"a": -1.5, "b": None}, {"a": "x,y", "c": "=1+1"}]
    assert list(csv.reader(io.StringIO(csv_text(["a", "b", "c"], rows)))) == [
        ["a", "b", "c"],
        ["-1.5", "", ""],
        ["x,y", "", "'=1+1"],
    ]


def test_a_file_name_that_is_no_text_can_be_written():
    assert csv_text(["name"], [{"name": "Pr\udce4parat"}]).splitlines()[1] == r"Pr\xe4parat"
