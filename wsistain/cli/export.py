"""`wsistain export`: the same stain as a pyramidal OME-TIFF."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from wsistain.runtime.say import say

EXAMPLES = """
Write a finished stain as a pyramidal OME-TIFF that QuPath, OpenSlide and tifffile open as brightfield.

Examples:

  wsistain export slide.ER.ome.zarr slide.ER.ome.tif

  wsistain export slide.ER.ome.zarr slide.ER.ome.tif --lossless --overwrite
"""

PLAIN_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export", help=EXAMPLES)(export)


def export(
    source: Path = typer.Argument(..., metavar="OUT.ome.zarr", help="A finished stain."),
    target: Path = typer.Argument(..., metavar="OUT.ome.tif", help="The file to write."),
    quality: int = typer.Option(90, "--quality", help="JPEG quality, 1 to 100."),
    lossless: bool = typer.Option(False, "--lossless", help="Deflate in place of JPEG: exact, about 6 times larger."),
    tile: int = typer.Option(512, "--tile", help="Edge of a tile, px; a multiple of 16."),
    threads: int = typer.Option(2, "--threads", min=1, max=64, help="Threads that read and compress."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace what is there."),
) -> None:
    """Write a finished stain as a pyramidal OME-TIFF."""
    from wsistain.output.export import export_ome_tiff

    codec = "lossless" if lossless else f"JPEG quality {quality}"
    say(f"exporting {source} to {target}: {codec}, tiles of {tile} px")
    with _showing() as show:
        done = export_ome_tiff(
            source,
            target,
            quality=quality,
            lossless=lossless,
            tile=tile,
            overwrite=overwrite,
            threads=threads,
            progress=show,
        )
    say(f"{done.path}: {done.levels} levels, {done.size / 1e6:.1f} MB")


@contextmanager
def _showing() -> Iterator[Callable[[int, int], None]]:
    """A function to call with (tiles done, tiles in all): a bar on a terminal, else a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("exporting", total=None, rate="")
        start = time.monotonic()

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - start, 1e-6)
            bar.update(task, completed=done, total=total, rate=f"tiles, {rate:.0f} a second")

        yield show


def _plain_lines() -> Callable[[int, int], None]:
    start = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS and done < total:
            last = now
            left = (total - done) * (now - start) / done
            say(f"exporting: tile {done} of {total}, {left:.0f} s left", err=True)

    return show
