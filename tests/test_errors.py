"""Sentences: printable whatever the name of a file holds, and never megabytes long."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsistain.errors import SlideError, shown

CLI = Path(__file__).parents[1] / "wsistain"


@given(st.text(max_size=60))
def test_what_is_shown_cannot_command_a_terminal(text):
    assert all(c.isprintable() or c in "\n\t\xa0" for c in shown(text))
    assert shown(shown(text)) == shown(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("Pr\udce4parat", r"Pr\xe4parat"),
        ("a\u202eb", r"a\u202eb"),
        ("Präparat é 組織", "Präparat é 組織"),
        ("\x9b31m\x07\r", r"\x9b31m\x07\r"),
    ],
)
def test_escapes_are_written_out_and_letters_stay(text, wanted):
    assert shown(text) == wanted
    assert str(SlideError(f"{text} is bad")) == f"{wanted} is bad"


def test_a_long_message_is_cut():
    assert len(str(SlideError("\x1b" * 10**6))) < 1000


def test_no_command_prints_by_another_way():
    for path in CLI.rglob("*.py"):
        if path.name != "say.py":
            assert "typer.echo(" not in path.read_text(encoding="utf-8"), path
