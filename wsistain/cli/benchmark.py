"""`wsistain benchmark make`, `score` and `table`: the phantom benchmark that others can enter."""

from pathlib import Path

import typer

from wsistain.runtime.say import note, say

MAKE = """
Make the benchmark's data from seeds, in MIST's layout, and hold every picture against the frozen list.

Example:

  wsistain benchmark make data/benchmark --only mist-c3-ER --workers 2

A condition is PAIRING-cCONTRAST-MARKER; a beginning ("mist", "mist-c3") stands for all of them. An interrupted call is gone on
with by the same command. A picture that is not the edition's is refused and named.
"""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`, under `benchmark`."""
    group = typer.Typer(
        no_args_is_help=True, help="The phantom benchmark: its data, scores of pictures, a leaderboard."
    )
    group.command("make", help=MAKE)(make)
    app.add_typer(group, name="benchmark")


def make(
    root: Path = typer.Argument(..., metavar="ROOT", help="Folder that receives the data and benchmark.json."),
    only: list[str] | None = typer.Option(
        None, "--only", help="Conditions, such as mist-c3-ER; repeatable, or with commas.  [default: all]"
    ),
    workers: int = typer.Option(1, "--workers", min=1, max=256, help="Processes."),
) -> None:
    """Make and check benchmark data."""
    from wsistain.benchmark.edition import V0
    from wsistain.benchmark.make import make as make_data
    from wsistain.runtime.progress import ProgressBar

    names = [name for text in only or [] for name in text.split(",") if name.strip()]
    chosen = V0.choose(names)
    note(f"benchmark {V0.name}: {len(chosen)} conditions of {V0.pictures()} pictures, into {root}")
    with ProgressBar("patches") as progress:
        told = make_data(root, names, workers=workers, progress=progress)
    for name, facts in told.items():
        n = facts["differ_by_rounding"]
        differing = f", {n} of them rounded otherwise by this machine" if n else ", equal to the last bit"
        say(f"{name}: {facts['pictures']} pictures checked{differing}")
    say(f"{root}: edition {V0.name}; train on GROUP/learn, score pictures of GROUP/test")
