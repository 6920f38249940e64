"""`wsistain export`: the same stain as a pyramidal OME-TIFF."""

from functools import partial
from pathlib import Path
from typing import Literal

import typer

from wsistain.errors import OutputError
from wsistain.runtime.say import note, say

EXAMPLES = """
Write a finished stain as a pyramidal OME-TIFF that QuPath, OpenSlide and tifffile open as brightfield, as DICOM, or with its
cells as a SpatialData store.

Examples:

  wsistain export slide.ER.ome.zarr slide.ER.ome.tif

  wsistain export slide.ER.ome.zarr slide.ER.ome.tif --lossless --overwrite

  wsistain export slide.ER.ome.zarr slide.ER.dicom --as dicom

  wsistain export slide.ER.ome.zarr slide.ER.spatialdata.zarr --as spatialdata
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export", help=EXAMPLES)(export)


def export(
    source: Path = typer.Argument(..., metavar="OUT.ome.zarr", help="A finished stain."),
    target: Path = typer.Argument(
        ..., metavar="OUT.ome.tif", help="The file to write; for DICOM and SpatialData the folder."
    ),
    form: Literal["ome-tiff", "dicom", "spatialdata"] = typer.Option(
        "ome-tiff",
        "--as",
        help="dicom: a folder with one file a level (pip install 'wsistain[dicom]'); spatialdata: the stain with the cells that "
        "'wsistain read' found.",
    ),
    quality: int = typer.Option(90, "--quality", help="JPEG quality, 1 to 100."),
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = typer.Option(
        "4:4:4", "--subsampling", help="Of JPEG's colours. Below 4:4:4 DAB cannot be measured."
    ),
    lossless: bool = typer.Option(False, "--lossless", help="Deflate in place of JPEG: exact, about 6 times larger."),
    tile: int = typer.Option(512, "--tile", help="Edge of a tile, px; a multiple of 16."),
    threads: int = typer.Option(2, "--threads", min=1, max=64, help="Threads that read and compress."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace what is there."),
) -> None:
    """Write a finished stain as a pyramidal OME-TIFF or a DICOM series."""
    from wsistain.output.export import export_ome_tiff
    from wsistain.runtime.progress import ProgressBar

    if form == "dicom":
        if lossless or subsampling != "4:4:4":
            raise OutputError(
                "DICOM is written as RGB JPEG at full colour resolution; leave --lossless and --subsampling out"
            )
        from wsistain.output.dicom import export_dicom

        note(f"exporting {source} to {target}: DICOM, JPEG quality {quality}, tiles of {tile} px")
        with ProgressBar("tiles") as bar:
            done = export_dicom(
                source,
                target,
                quality=quality,
                tile=tile,
                overwrite=overwrite,
                threads=threads,
                progress=partial(bar, "exporting"),
            )
        say(f"{done.path}: {done.levels} levels, {done.size / 1e6:.1f} MB")
        return
    if form == "spatialdata":
        if lossless or subsampling != "4:4:4":
            raise OutputError("a SpatialData store keeps the stain as it is; leave --lossless and --subsampling out")
        from wsistain.reading.spatialdata import export_spatialdata

        note(f"exporting {source} and its cells to {target}: SpatialData")
        with ProgressBar("files") as bar:
            done = export_spatialdata(source, target, overwrite=overwrite, progress=partial(bar, "exporting"))
        say(f"{done.path}: {done.levels} levels, {done.size / 1e6:.1f} MB")
        return
    codec = "lossless" if lossless else f"JPEG quality {quality} {subsampling}"
    note(f"exporting {source} to {target}: {codec}, tiles of {tile} px")
    with ProgressBar("tiles") as bar:
        done = export_ome_tiff(
            source,
            target,
            quality=quality,
            subsampling=subsampling,
            lossless=lossless,
            tile=tile,
            overwrite=overwrite,
            threads=threads,
            progress=partial(bar, "exporting"),
        )
    say(f"{done.path}: {done.levels} levels, {done.size / 1e6:.1f} MB")
