"""`wsistain benchmark make`, `score` and `table`: the phantom benchmark that others can enter."""

from pathlib import Path

import typer

from wsistain.errors import ConfigError
from wsistain.runtime.say import note, say

MAKE = """
Make the benchmark's data from seeds, in MIST's layout, and hold every picture against the frozen list.

Example:

  wsistain benchmark make data/benchmark --only mist-c3-ER --workers 2

A condition is PAIRING-cCONTRAST-MARKER; a beginning ("mist", "mist-c3") stands for all of them. An interrupted call is gone on
with by the same command. A picture that is not the edition's is refused and named. A folder holds one edition; `score` knows it from
the folder's card.
"""

SCORE = """
Score pictures that any program made of the test H&E, by the truth of every cell and as the papers do; one row as JSON.

Examples:

  wsistain benchmark score stained --data data/benchmark --on mist-c3-ER --output rows/mine-s0.json

  wsistain benchmark score identity --data data/benchmark --on mist-c3-ER --output rows/identity.json

FOLDER holds one picture for each of GROUP/test/MARKER/TrainValAB/valA, of its name and size, and entry.yaml, which says what
made them; the baselines "identity" and "mean_colour" need no folder. The form's keys: docs/benchmark.md.
"""
TABLE = """
Put rows side by side: leaderboard.html, leaderboard.csv and leaderboard.md, with intervals, ranks, and what is told apart.

Example:

  wsistain benchmark table rows --output board
"""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`, under `benchmark`."""
    group = typer.Typer(
        no_args_is_help=True, help="The phantom benchmark: its data, scores of pictures, a leaderboard."
    )
    group.command("make", help=MAKE)(make)
    group.command("score", help=SCORE)(score)
    group.command("table", help=TABLE)(table)
    app.add_typer(group, name="benchmark")


def make(
    root: Path = typer.Argument(..., metavar="ROOT", help="Folder that receives the data and benchmark.json."),
    only: list[str] | None = typer.Option(
        None, "--only", help="Conditions, such as mist-c3-ER; repeatable, or with commas.  [default: all]"
    ),
    name: str = typer.Option("v0", "--edition", help="v0, whose rows are published; v1, nearer to tissue."),
    workers: int = typer.Option(1, "--workers", min=1, max=256, help="Processes."),
) -> None:
    """Make and check benchmark data."""
    from wsistain.benchmark.edition import find_edition
    from wsistain.benchmark.make import make as make_data
    from wsistain.runtime.progress import ProgressBar

    edition = find_edition(name)
    names = [part for text in only or [] for part in text.split(",") if part.strip()]
    if only and not names:
        raise ConfigError("--only names no condition; give one such as mist-c3-ER, or leave it away for all of them")
    chosen = edition.choose(names)
    note(f"benchmark {edition.name}: {len(chosen)} conditions of {edition.pictures()} pictures, into {root}")
    with ProgressBar("patches") as progress:
        told = make_data(root, names, edition=edition, workers=workers, progress=progress)
    for condition, facts in told.items():
        n = facts["differ_by_rounding"]
        differing = f", {n} of them rounded otherwise by this machine" if n else ", equal to the last bit"
        say(f"{condition}: {facts['pictures']} pictures checked{differing}")
    say(f"{root}: edition {edition.name}; train on GROUP/learn, score pictures of GROUP/test")


def score(
    folder: str = typer.Argument(..., metavar="FOLDER", help="Pictures, or identity or mean_colour."),
    data: Path = typer.Option(..., "--data", "-d", help="Folder of 'benchmark make'."),
    condition: str = typer.Option(..., "--on", help="Condition, such as mist-c3-ER."),
    output: Path = typer.Option(..., "--output", "-o", help="The row's file (.json)."),
    chances: Path | None = typer.Option(
        None, "--probability", help="Folder of grey pictures: the probability of a positive cell, 0 to 255."
    ),
    trust_maps: Path | None = typer.Option(
        None, "--trust", help="Folder of grey pictures: how far to trust each place."
    ),
    entry: Path | None = typer.Option(None, "--entry", help="The entry form.  [default: FOLDER/entry.yaml]"),
    nets: Path | None = typer.Option(
        None, "--nets", help="Folder of published network files.  [default: WSISTAIN_MODELS or the cache]"
    ),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    workers: int | None = typer.Option(
        None, "--workers", min=1, max=256, help="Measuring processes.  [default: one a core]"
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a row that is there."),
) -> None:
    """Score pictures."""
    from wsistain.benchmark.score import score as score_pictures
    from wsistain.evaluation.metrics import METRICS
    from wsistain.evaluation.tables import formatted
    from wsistain.generators.network import choose_device
    from wsistain.runtime.progress import ProgressBar

    with ProgressBar("patches") as progress:
        row = score_pictures(
            folder,
            data,
            condition,
            output=output,
            chances=chances,
            trust=trust_maps,
            entry=entry,
            nets=nets,
            device=str(choose_device(device)),
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    shown = (
        "cell_auc",
        "cell_h_error",
        "information_od",
        "information",
        "calibration_error",
        "ssim",
        "psnr",
        "lpips_alex",
    )
    for name in shown:
        if name in row["metrics"]:
            say(f"{METRICS[name].label}: {formatted(row['metrics'][name]['value'], METRICS[name])}")
    for reason in dict.fromkeys(row["missing"].values()):
        note(f"missing: {', '.join(n for n, why in row['missing'].items() if why == reason)}: {reason}")
    say(f"row: {output}")


def table(
    rows: list[Path] = typer.Argument(..., metavar="ROWS...", help="Rows, or folders of them (*.json, also below)."),
    output: Path = typer.Option(Path("leaderboard"), "--output", "-o", help="Folder of the tables."),
    curves: Path | None = typer.Option(
        None, "--curves", help="Points of benchmarks/sensitivity.py (.json), drawn below their table."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace tables that are there."),
) -> None:
    """Make the leaderboard."""
    from wsistain.benchmark.board import write_board

    told = write_board(rows, output, curves=curves, overwrite=overwrite)
    for (edition, condition), n in told.items():
        say(f"{condition}, edition {edition}: {n} rows")
    say(f"{output / 'leaderboard.html'}")
