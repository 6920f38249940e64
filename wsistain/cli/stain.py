"""`wsistain stain`: a folder of pictures, stained into PNGs by one generator."""

from pathlib import Path

import typer

from wsistain.config import Direction, Precision
from wsistain.runtime.say import note, say

HELP = """
Stain a folder of H&E pictures (patches, not slides) into PNGs of the same names and sizes, with one generator.

Examples:

  wsistain stain MIST/ER/TrainValAB/valA --marker ER --weights runs/cut --mpp 0.4661 --output stained

  wsistain evaluate --data MIST --marker ER --pictures stained

Slides are stained by 'wsistain run'. The um per px comes from a manifest.json above the pictures, or --mpp.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("stain", help=HELP)(stain)


def stain(
    folder: Path = typer.Argument(..., metavar="FOLDER", help="Pictures, also in folders below."),
    output: Path = typer.Option(..., "--output", "-o", help="Folder of the PNGs."),
    marker: str = typer.Option("ER", "--marker", "-m", help="Marker to stain for."),
    weights: str = typer.Option("demo", "--weights", "-w", help="File, run, folder, hub id or built-in name."),
    mpp: float | None = typer.Option(None, "--mpp", min=0.05, max=20, help="um per px of the pictures."),
    direction: Direction = typer.Option("he-to-ihc", "--direction", help="What is stained into what."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    precision: Precision = typer.Option("auto", "--precision", help="Of the network's numbers."),
    workers: int | None = typer.Option(None, "--workers", min=1, max=256, help="Pictures at a time.  [default: cores]"),
    any_stain: bool = typer.Option(False, "--any-stain", help="Stain also what does not look like H&E."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace pictures that were stained before."),
) -> None:
    """Stain a folder of pictures."""
    from wsistain.evaluation.stain_folder import stain_folder
    from wsistain.runtime.progress import ProgressBar

    with ProgressBar("pictures") as progress:
        record = stain_folder(
            folder,
            output,
            weights=weights,
            marker=marker,
            mpp=mpp,
            direction=direction,
            device=device,
            precision=precision,
            workers=workers,
            any_stain=any_stain,
            overwrite=overwrite,
            progress=progress,
        )
    if record.get("note"):
        note(f"note: {record['note']}")
    for warning in record["warnings"]:
        say(f"Warning: {folder}: {warning}")
    say(f"{record['pictures']} pictures stained for {record['marker']}: {output}")
