"""`wsistain export`: a finished stain in other forms (OME-TIFF, DICOM, SpatialData, a state of Neuroglancer), and to a bucket."""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import typer

from wsistain.errors import OutputError
from wsistain.runtime.files import is_url, refuse_url
from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsistain.output.export import ExportDone

EXAMPLES = """
Write a finished stain as a pyramidal OME-TIFF that QuPath, OpenSlide and tifffile open as brightfield, as DICOM, with its
cells as a SpatialData store, or as what Neuroglancer opens; or copy it to a bucket, where it is finished when all has arrived.

Examples:

  wsistain export slide.ER.ome.zarr slide.ER.ome.tif

  wsistain export slide.ER.ome.zarr slide.ER.ome.tif --lossless --overwrite

  wsistain export slide.ER.ome.zarr slide.ER.dicom --as dicom

  wsistain export slide.ER.ome.zarr slide.ER.spatialdata.zarr --as spatialdata

  wsistain export slide.ER.ome.zarr s3://bucket/results/slide.ER.ome.zarr

  wsistain export s3://bucket/results/slide.ER.ome.zarr slide.ER.ome.tif

  wsistain export slide.ER.ome.zarr slide.ER.json --as neuroglancer --url https://host/results/slide.ER.ome.zarr
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export", help=EXAMPLES)(export)


def export(
    source: str = typer.Argument(
        ..., metavar="OUT.ome.zarr", help="A finished stain; its URL will do, but for SpatialData and for a bucket."
    ),
    target: str = typer.Argument(
        ...,
        metavar="OUT.ome.tif",
        help="The file to write; for DICOM and SpatialData the folder; for a bucket its s3:// or gs:// address, which ends in .ome.zarr.",
    ),
    form: Literal["ome-tiff", "dicom", "spatialdata", "neuroglancer"] = typer.Option(
        "ome-tiff",
        "--as",
        help="dicom: a folder with one file a level (pip install 'wsistain[dicom]'); spatialdata: the stain with the cells that "
        "'wsistain read' found; neuroglancer: a state as JSON.",
    ),
    url: str | None = typer.Option(
        None, "--url", help="For neuroglancer: where OUT.ome.zarr is served (http, https, s3, gs)."
    ),
    quality: int = typer.Option(90, "--quality", help="JPEG quality, 1 to 100."),
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = typer.Option(
        "4:4:4", "--subsampling", help="Of JPEG's colours. Below 4:4:4 DAB cannot be measured."
    ),
    lossless: bool = typer.Option(False, "--lossless", help="Deflate in place of JPEG: exact, about 6 times larger."),
    tile: int = typer.Option(512, "--tile", help="Edge of a tile, px; a multiple of 16."),
    threads: int = typer.Option(2, "--threads", min=1, max=64, help="Threads that read and compress, or send."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace what is there."),
) -> None:
    """Write a finished stain in another form, or to another place."""
    from wsistain.output.export import export_ome_tiff

    to_bucket = is_url(target) and form == "ome-tiff" and target.rstrip("/").endswith(".zarr")
    _refuse_unused(form, to_bucket, url, lossless or subsampling != "4:4:4")
    if to_bucket or form == "spatialdata":
        refuse_url(source)
    given = {"quality": quality, "tile": tile, "overwrite": overwrite, "threads": threads}
    if form == "neuroglancer":
        _neuroglancer(source, target, str(url), overwrite)
    elif form == "spatialdata":
        _spatialdata(source, target, overwrite)
    elif to_bucket:
        _push(source, target, threads, overwrite)
    elif form == "dicom":
        from wsistain.output.dicom import export_dicom

        _write(export_dicom, source, target, f"DICOM, JPEG quality {quality}", given)
    else:
        codec = "lossless" if lossless else f"JPEG quality {quality} {subsampling}"
        _write(export_ome_tiff, source, target, codec, {**given, "subsampling": subsampling, "lossless": lossless})


def _refuse_unused(form: str, to_bucket: bool, url: str | None, of_jpeg: bool) -> None:
    """OutputError for options that a form has no use for, and for an address that it needs."""
    if url is None and form == "neuroglancer":
        raise OutputError("--as neuroglancer needs --url, the address at which the stain is served")
    if url is not None and form != "neuroglancer":
        raise OutputError("--url says where Neuroglancer finds the stain; it goes with --as neuroglancer")
    keeps = {
        "dicom": "DICOM is written as RGB JPEG at full colour resolution",
        "spatialdata": "a SpatialData store keeps the stain as it is",
        "neuroglancer": "a state of Neuroglancer holds no pixels",
    }
    why = "a copy is what the stain is" if to_bucket else keeps.get(form)
    if of_jpeg and why is not None:
        raise OutputError(f"{why}; leave --lossless and --subsampling out")


def _write(make: "Callable[..., ExportDone]", source: str, target: str, what: str, given: dict[str, Any]) -> None:
    """Export with a bar, and say what was written."""
    from wsistain.runtime.progress import ProgressBar

    note(f"exporting {source} to {target}: {what}, tiles of {given['tile']} px")
    with ProgressBar("tiles") as bar:
        done = make(source, target, **given, progress=partial(bar, "exporting"))
    say(f"{done.path}: {done.levels} levels, {done.size / 1e6:.1f} MB")


def _spatialdata(source: str, target: str, overwrite: bool) -> None:
    from wsistain.reading.spatialdata import export_spatialdata
    from wsistain.runtime.progress import ProgressBar

    note(f"exporting {source} and its cells to {target}: SpatialData")
    with ProgressBar("files") as bar:
        done = export_spatialdata(source, target, overwrite=overwrite, progress=partial(bar, "exporting"))
    say(f"{done.path}: {done.levels} levels, {done.size / 1e6:.1f} MB")


def _neuroglancer(source: str, target: str, url: str, overwrite: bool) -> None:
    from wsistain.output.neuroglancer import export_neuroglancer

    fragment = export_neuroglancer(source, target, url, overwrite=overwrite)
    note(f"Put this behind the address of a Neuroglancer: {fragment}")
    say(f"{target}: the state of Neuroglancer for {url}")


def _push(source: str, url: str, threads: int, overwrite: bool) -> None:
    from wsistain.output.push import push_stain
    from wsistain.runtime.progress import ProgressBar

    if overwrite:
        raise OutputError("nothing in a bucket is replaced; delete what is there with the tools of the store first")
    note(f"copying {source} to {url}; it is finished there when its root metadata has arrived, which is sent last")
    with ProgressBar("files") as bar:
        done = push_stain(source, url, threads=threads, progress=partial(bar, "copying"))
    kept = f", {done.files - done.sent} were there" if done.sent < done.files else ""
    say(f"{done.url}: {done.files} files, {done.size / 1e6:.1f} MB, all compared; {done.sent} sent{kept}")
