"""`wsistain summary`: what a folder of results came to, as `summary.csv` and a page."""

from pathlib import Path

import typer

from wsistain.runtime.say import say

HELP = """
Write summary.csv and summary.html of a folder of results: one row a slide and marker, with scores, verdict, and links to the
reports. `wsistain batch` does this at its end; this is for whoever ran the workflow, or read stains again, afterwards.

Examples:

  wsistain summary stained

  wsistain summary . --sheet config/slides.tsv --marker ER,PR
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("summary", help=HELP)(summary)


def summary(
    folder: Path = typer.Argument(..., help="Output folder of a batch, or working folder of the workflow."),
    sheet: Path | None = typer.Option(
        None, "--sheet", help="The workflow's sample sheet. Default: FOLDER/batch/slides.tsv."
    ),
    marker: str = typer.Option("ER", "--marker", "-m", help="Of slides for which the sheet names none."),
) -> None:
    """Write the summary of a folder of results; see HELP for the help text."""
    from wsistain.batch.workflow import summarise_folder
    from wsistain.markers import parse_markers

    rows = summarise_folder(folder, sheet, [m.name for m in parse_markers(marker)])
    count = {state: sum(row.state == state for row in rows) for state in dict.fromkeys(row.state for row in rows)}
    say(f"{folder / 'summary.html'}: {', '.join(f'{n} {state}' for state, n in count.items())}")
