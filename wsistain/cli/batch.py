"""`wsistain batch`: stain a folder of slides."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wsistain.config import Direction, Norm
from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsistain.batch.summary import Row

HELP = """
Stain every slide of a folder or sample sheet. A failed slide does not stop the others; a second call does only what is
missing.

Examples:

  wsistain batch slides --marker ER,PR --output stained

  wsistain batch sheet.tsv --marker HER2 --output stained --weights my_run/weights.safetensors

  wsistain batch slides --marker ER --output stained -- --profile slurm

Writes summary.csv beside the results. What follows -- goes to Snakemake.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("batch", help=HELP)(batch)


def batch(
    source: Path = typer.Argument(..., help="Folder of slides, or sample sheet (.tsv, .csv)."),
    flags: list[str] | None = typer.Argument(None, metavar="[-- SNAKEMAKE FLAGS]", help="Flags for Snakemake."),
    marker: str = typer.Option(
        "ER", "--marker", "-m", help="One or several, with commas ('wsistain markers' lists them)."
    ),
    output: Path = typer.Option(Path("stained"), "--output", "-o", help="Folder for the results."),
    weights: str | None = typer.Option(
        None, "--weights", "-w", help="File, folder, hub id, or demo, lpstain, identity. Default: demo."
    ),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of the slides, where they have none."),
    norm: Norm | None = typer.Option(None, "--norm", help="Instance-norm statistics; auto chooses."),
    direction: Direction | None = typer.Option(None, "--direction", help="Default: he-to-ihc."),
    device: str | None = typer.Option(None, "--device", help="auto, cpu, cuda, cuda:N."),
    recursive: bool = typer.Option(False, "--recursive", "-r", help="Look into folders of the folder as well."),
    read: bool | None = typer.Option(
        None,
        "--read/--no-read",
        help="Find, class and score the cells of every stain. Default: yes.",
        show_default=False,
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace results that are there."),
    config: Path | None = typer.Option(None, "--config", metavar="FILE.yaml", help="Configuration of every run."),
    overrides: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Any key of the configuration."),
) -> None:
    """Stain every slide of a folder; see HELP for the help text."""
    from wsistain.batch.workflow import run_batch
    from wsistain.cli.defaults import settle
    from wsistain.errors import ConfigError
    from wsistain.markers import parse_markers
    from wsistain.weights.find import find_weights

    # One folder or sheet, and the configuration of every run.
    if flags and not flags[0].startswith("-"):
        raise ConfigError(
            f"{flags[0]!r} is one argument too many; name one folder or sheet, and Snakemake's flags after --"
        )
    settled = settle(
        config, overrides, {"weights": weights, "mpp": mpp, "norm": norm, "direction": direction, "device": device}
    )
    settings = settled.config
    # Every stain is read, but those that hold nothing to read: the H&E as it was, and an H&E made from IHC.
    is_stain = settings.weights != "identity" and settings.direction == "he-to-ihc"
    if read and settings.direction != "he-to-ihc":
        raise ConfigError("--read finds cells on the H&E that is stained; with --direction ihc-to-he there is none")
    settings = settings.model_copy(update={"read": is_stain if read is None else read})
    # A name stays a name; a path is made absolute, since the jobs run in another folder.
    if settings.weights not in ("demo", "identity"):
        known = Path(settings.weights).exists()
        settings = (
            settings.model_copy(update={"weights": str(Path(settings.weights).absolute())}) if known else settings
        )

    # Weights that are not there end the batch here, not every slide of it.
    markers = [m.name for m in parse_markers(marker)]
    for name in markers if settings.weights != "identity" else ():
        find_weights(settings.weights, name, settings.direction)
    for sentence in settled.told:
        note(sentence)
    note(f"Staining {source} for {', '.join(markers)} with weights '{settings.weights}' into {output}")
    rows = run_batch(
        source,
        markers,
        output,
        config=settings,
        recursive=recursive,
        overwrite=overwrite,
        flags=flags or [],
        settings_from=settled.origins,
        tell=note,
    )

    # What became of the slides.
    if not rows:
        return
    _print_table(rows)
    count = {
        state: sum(r.state == state for r in rows) for state in ("done", "no tissue", "failed", "skipped", "missing")
    }
    told = ", ".join(f"{n} {state}" for state, n in count.items() if n)
    say(f"{output / 'summary.csv'}: {told}")
    if count["failed"] or count["missing"]:
        raise typer.Exit(2)


def _print_table(rows: "Sequence[Row]") -> None:
    from rich.console import Console
    from rich.table import Table

    from wsistain.errors import shown

    table = Table(box=None)
    for name in ("slide", "marker", "state"):
        table.add_column(name)
    for name in ("minutes", "MP/s", "positive"):
        table.add_column(name, justify="right")
    table.add_column("message", overflow="fold")
    for row in rows:
        positive = None if row.positive_fraction is None else f"{100 * row.positive_fraction:.1f} %"
        cells = (row.slide, row.marker, row.state, row.minutes, row.mp_per_second, positive, row.message)
        table.add_row(*("" if cell is None else shown(cell) for cell in cells))
    console = Console()
    Console(width=max(120, console.width), markup=False).print(table)
