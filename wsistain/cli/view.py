"""`wsistain view`: H&E and virtual stains side by side in the browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wsistain.errors import ConfigError
from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from wsistain.viewing.gallery import Gallery

EXAMPLES = """
Show H&E and virtual stains side by side in the browser. Virtual stains are for research, not for diagnosis.

Examples:

  wsistain view stained/slide.ER.ome.zarr --slide slide.svs

  wsistain view stained

  wsistain view stained/slide.ER.ome.zarr --slide slide.svs --static page
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("view", help=EXAMPLES)(view)


def view(
    results: list[str] = typer.Argument(..., metavar="RESULT...", help="Stains (.ome.zarr), or folders of them."),
    slides: list[str] = typer.Option(
        [], "--slide", "-s", help="The H&E slide, or a folder of slides; may be repeated."
    ),
    reference: str | None = typer.Option(
        None, "--reference", help="A real IHC of the same block: laid over, registered."
    ),
    roi: str | None = typer.Option(
        None, "--roi", metavar="FILE.geojson", help="Areas to draw over the slide (QuPath)."
    ),
    cells: str | None = typer.Option(
        None, "--cells", metavar="FILE", help="Cells (GeoParquet or GeoJSON) of the result."
    ),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of slides that do not say."),
    port: int = typer.Option(0, "--port", "-p", help="Port; 0 takes a free one."),
    host: str = typer.Option(
        "127.0.0.1", "--host", help="Address to listen at; others than this machine's need the token."
    ),
    no_open: bool = typer.Option(False, "--no-open", help="Do not open a browser."),
    static: Path | None = typer.Option(
        None, "--static", metavar="DIR", help="Write a folder for any web server instead."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the folder of --static."),
) -> None:
    """Show results in the browser, or write them as a folder."""
    from wsistain.viewing.gallery import Gallery
    from wsistain.viewing.samples import make_wanted
    from wsistain.viewing.serve import check_installed, is_loopback, open_browser, serve

    if overwrite and static is None:
        raise ConfigError("--overwrite replaces the folder of --static, which is not given")
    if static is None:
        check_installed()
    wanted = make_wanted(results, slides=slides, reference=reference, roi=roi, cells=cells, mpp=mpp)
    gallery = Gallery(wanted)
    if static is not None:
        _write(gallery, static, overwrite)
        return

    # The address comes first: scripts read it.
    served = serve(gallery, host=host, port=port)
    say(f"wsistain view: {served.url}")
    if is_loopback(host):
        note("Only this machine can open it; Ctrl-C ends it.")
    else:
        say(
            f"Warning: it listens at {host}, so other machines can reach it. Whoever has the token in the address above "
            "sees the slides; it is sent unencrypted. Ctrl-C ends it."
        )
    _tell(gallery)
    if not no_open and not open_browser(served.url):
        say("No browser was opened; open the address above.")
    served.run()


def _tell(gallery: "Gallery") -> None:
    """What is shown, and what of it is not as it should be."""
    listing = gallery.listing()
    for sample in listing["samples"]:
        names = [r for r in listing["results"] if r["sample"] == sample["id"]]
        stains = ", ".join(f"{r['marker']} ({r['state']})" for r in names)
        he = "with its H&E" if "picture" in sample else "without its H&E (name it with --slide)"
        note(f"{sample['name']}: {stains}, {he}")
        for result in names:
            if "problem" in result:
                note(f"Note: {result['name']}: {result['problem']}")
        if "note" in sample:
            note(f"Note: {sample['note']}")
    say(listing["statement"])


def _write(gallery: "Gallery", folder: Path, overwrite: bool) -> None:
    from wsistain.runtime.progress import ProgressBar
    from wsistain.viewing.static import write_static

    note(f"writing what is shown to {folder}, for any web server")
    with ProgressBar("tiles") as bar:
        done = write_static(gallery, folder, overwrite=overwrite, progress=lambda what, n, total: bar(what, n, total))
    _tell(gallery)
    say(f"{folder}: {done.files} files, {done.size / 1e6:.1f} MB; try it with: python -m http.server -d {folder}")
