"""`wsistain markers`: which markers are known here, and from where."""

import typer

from wsistain.runtime.say import say

HELP = """
List the markers that are known here: those of wsistain, and those of your own file.

Example:

  wsistain markers
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("markers", help=HELP)(markers)


def markers(as_json: bool = typer.Option(False, "--json", help="Print JSON, every field of every row.")) -> None:
    """List the markers; see HELP for the help text."""
    import json

    from wsistain.markers import ENVIRONMENT, known_markers, user_file

    known = known_markers().values()
    if as_json:
        say(json.dumps([m.model_dump(mode="json") for m in known], indent=2))
        return
    head = ("marker", "compartment", "chromogen", "1+ 2+ 3+ from", "also called", "defined in")
    rows = [
        (
            m.name,
            m.compartment,
            m.chromogen.name,
            " ".join(f"{c:.2f}" for c in m.cutoffs),
            ", ".join(m.aliases),
            m.origin,
        )
        for m in known
    ]
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    for row in (head, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    file = user_file()
    where = f"your own: {file}" if file else f"none of your own (a file that {ENVIRONMENT} names; see docs/markers.md)"
    say(where)
