"""`wsistain run`: stain one slide."""

from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wsistain.config import Direction, Ngff, Norm, Reader
from wsistain.errors import ConfigError
from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsistain.config import RunConfig
    from wsistain.pipeline.report import RunReport
    from wsistain.slide.roi import Roi
    from wsistain.viewing.serve import Served

EXAMPLES = """
Stain one slide. Virtual stains are for research, not for diagnosis.

Examples:

  wsistain run slide.svs --marker ER

  wsistain run slide.svs --marker ER,PR,Ki67 --output stained --weights my_run/weights.safetensors

  wsistain run slide.svs --marker HER2 --region 10000,8000,4096,4096 --set norm=tile
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("run", help=EXAMPLES)(run)


def read_regions(region: str | None, roi: Path | None, classes: str | None) -> "tuple[Roi | None, Roi | None]":
    """The rectangle and the shapes that the user gave; ConfigError when both are given, or classes without shapes."""
    from wsistain.slide.place import local_place
    from wsistain.slide.roi import parse_region
    from wsistain.slide.roi_file import read_roi

    if region is not None and roi is not None:
        raise ConfigError("--region and --roi exclude each other; draw the rectangle in the GeoJSON file")
    if classes is not None and roi is None:
        raise ConfigError(
            f"--roi-class {classes!r} names classes of drawn shapes; give the shapes with --roi FILE.geojson"
        )
    return (parse_region(region) if region else None), (
        read_roi(Path(local_place(str(roi))), (classes or "").split(",")) if roi else None
    )


def run(
    slide: str = typer.Argument(
        ..., help="Slide: SVS, TIFF, NDPI, MRXS, DICOM, OME-Zarr, URL, or a picture with --mpp."
    ),
    marker: str = typer.Option(
        "ER",
        "--marker",
        "-m",
        help="One or several, with commas: the slide is read once ('wsistain markers' lists them).",
    ),
    output: Path = typer.Option(Path(), "--output", "-o", help="Folder for the results."),
    weights: str | None = typer.Option(
        None, "--weights", "-w", help="File, folder, hub id, or demo, lpstain, identity. Default: demo."
    ),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of the slide, where it has none."),
    region: str | None = typer.Option(None, "--region", metavar="X,Y,W,H", help="Only this rectangle, level-0 pixels."),
    roi: Path | None = typer.Option(None, "--roi", metavar="FILE.geojson", help="Only these shapes (QuPath export)."),
    roi_class: str | None = typer.Option(
        None, "--roi-class", metavar="NAMES", help="Only shapes of these classes, as Tumor,Stroma."
    ),
    all_tiles: bool | None = typer.Option(None, "--all-tiles", help="Stain glass too.", show_default=False),
    any_stain: bool | None = typer.Option(
        None, "--any-stain", help="Stain also what does not look like H&E.", show_default=False
    ),
    probability: bool | None = typer.Option(
        None, "--probability", help="Store p of each marker beside the stain (LPStain).", show_default=False
    ),
    norm: Norm | None = typer.Option(None, "--norm", help="Instance-norm statistics; auto chooses."),
    reader: Reader | None = typer.Option(None, "--reader", help="What reads the slide; auto chooses."),
    series: int | None = typer.Option(
        None, "--series", help="Which picture of a file that holds several ('wsistain info' lists them)."
    ),
    direction: Direction | None = typer.Option(None, "--direction", help="Default: he-to-ihc."),
    device: str | None = typer.Option(None, "--device", help="auto, cpu, cuda, cuda:N."),
    batch_size: int | None = typer.Option(None, "--batch-size", help="Tiles at once on a GPU."),
    workers: int = typer.Option(1, "--workers", min=1, help="Worker processes on this machine."),
    scheduler: str | None = typer.Option(
        None, "--scheduler", metavar="tcp://HOST:PORT", help="An existing Dask scheduler."
    ),
    resume: bool = typer.Option(False, "--resume", help="Continue an interrupted run."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace what is there."),
    strict: bool | None = typer.Option(
        None, "--strict", help="Undecodable native tiles end the run.", show_default=False
    ),
    ngff: Ngff | None = typer.Option(None, "--ngff", help="OME-Zarr version; 0.4 for readers without Zarr v3."),
    formats: str | None = typer.Option(
        None, "--format", metavar="zarr[,ome-tiff]", help="With ome-tiff the same stain beside it for QuPath."
    ),
    view: bool = typer.Option(False, "--view", help="Show finished blocks in the browser as they appear."),
    read: bool | None = typer.Option(
        None, "--read/--no-read", help="Then find, class and score the cells ('wsistain read').", show_default=False
    ),
    plan_only: bool = typer.Option(False, "--plan-only", help="Print the plan as JSON and stop."),
    config: Path | None = typer.Option(None, "--config", metavar="FILE.yaml", help="Configuration file."),
    overrides: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Any key of the configuration."),
) -> None:
    """Stain one slide; see EXAMPLES for the help text."""
    from wsistain.cli.defaults import settle

    # The configuration: what is there by default, file, --set, options.
    stored = {"output.ngff": ngff, "output.formats": formats}
    overrides = [*overrides, *(f"{key}='{value}'" for key, value in stored.items() if value is not None)]
    settled = settle(
        config,
        overrides,
        {
            "weights": weights,
            "mpp": mpp,
            "roi_class": roi_class,
            "all_tiles": all_tiles,
            "any_stain": any_stain,
            "probability": probability,
            "norm": norm,
            "reader": reader,
            "series": series,
            "direction": direction,
            "device": device,
            "batch_size": batch_size,
            "strict": strict,
            "read": read,
        },
    )
    settings = settled.config
    if settings.read and settings.direction != "he-to-ihc":
        raise ConfigError("--read finds cells on the H&E that is stained; with --direction ihc-to-he there is none")

    # Where: all of the slide, a rectangle, or drawn shapes.
    rectangle, shapes = read_regions(region, roi, settings.roi_class)
    for sentence in (*(f"Note: {told}" for told in (shapes.notes if shapes else ())), *settled.told):
        note(sentence, err=plan_only)  # the plan is JSON on stdout
    if plan_only:
        _print_plan(slide, marker, settings, rectangle, shapes)
        return
    from wsistain.markers import parse_markers
    from wsistain.runtime.heap import share_arenas

    markers = [m.name for m in parse_markers(marker)]
    _announce(slide, markers, output, settings)
    share_arenas()  # before the progress bar and the page start their threads
    with _watched(slide, markers, output, settings) if view else nullcontext() as served:
        reports = _stain(
            slide,
            markers,
            output,
            config=settings,
            region=rectangle,
            roi=shapes,
            resume=resume,
            overwrite=overwrite,
            scheduler=scheduler,
            workers=workers,
            settings_from=settled.origins,
        )
        _tell(slide, output, reports)
        if settings.read:
            from wsistain.cli.read import read_after_run

            made = {Path(report.output) for report in reports}
            read_after_run(
                slide, markers, output, made=made, roi=roi, roi_class=settings.roi_class, threads=workers + 1
            )
        if served is not None:
            _stay(served)


def _announce(slide: str, markers: list[str], output: Path, settings: "RunConfig") -> None:
    """What is about to happen, and what is to be known of the weights."""
    from wsistain.generators.load import find_generator

    note(f"Staining {slide} for {', '.join(markers)} with weights '{settings.weights}' into {output}")
    notes = (find_generator(settings.weights, m, direction=settings.direction).note for m in markers)
    for sentence in dict.fromkeys(filter(None, notes)):
        note(f"Note: {sentence}")


def _stain(slide: str, markers: list[str], output: Path, **given: Any) -> "list[RunReport]":
    """The run itself, with a bar; `given` is for `pipeline.run.run`."""
    from wsistain.pipeline.run import run as run_slide
    from wsistain.runtime.event import STAINING, RunEvent
    from wsistain.runtime.progress import ProgressBar

    with ProgressBar("tiles") as bar:

        def show(event: RunEvent) -> None:
            if event.note:
                bar.say(event.note)
            elif event.stage == STAINING:
                bar(event.stage, event.tiles, event.total_tiles, f"block {event.done} of {event.total}")
            else:
                bar(event.stage, event.done, event.total, unit="parts")

        return run_slide(slide, markers, output, on_event=show, **given)


def _tell(slide: str, output: Path, reports: "list[RunReport]") -> None:
    """Where the results are, and what is to be known of them."""
    from wsistain.cli.read import verdict_words

    if not reports:
        say(f"Nothing to do: the results in {output} are finished")
    for sentence in dict.fromkeys(told for report in reports for told in report.provenance["slide"]["notes"]):
        note(f"Note: {slide}: {sentence}")
    for sentence in dict.fromkeys(warning for report in reports for warning in report.warnings):
        say(f"Warning: {slide}: {sentence}")
    for report in reports:
        unread = (
            f"; {report.unreadable_tiles} native tiles could not be decoded and are glass"
            if report.unreadable_tiles
            else ""
        )
        seams = "" if report.seam_score is None else f", seam score {report.seam_score:.2f}"
        say(
            f"{report.output}: {report.tiles_generated} tiles, {report.megapixels:.1f} MP in {report.seconds['total']:.1f} s "
            f"({report.mp_per_second:.1f} MP/s), peak {report.peak_rss_mb:.0f} MB{seams}{unread}{verdict_words(report.provenance['trust'])}"
        )


@contextmanager
def _watched(slide: str, markers: list[str], output: Path, settings: "RunConfig") -> "Iterator[Served]":
    """A page that shows the run; its address is printed."""
    from wsistain.slide.place import local_place
    from wsistain.viewing.live import watching
    from wsistain.viewing.serve import open_browser

    with watching(local_place(slide), markers, output, mpp=settings.mpp) as served:
        say(f"wsistain view: {served.url}")
        open_browser(served.url)
        yield served


def _stay(served: "Served") -> None:
    """Keep the page as long as somebody looks at it."""
    from wsistain.viewing.live import stay

    if served.was_asked:
        note("The run is finished; this ends when the page is closed, or with Ctrl-C")
    with suppress(KeyboardInterrupt):
        stay(served)


def _print_plan(slide: str, marker: str, settings: "RunConfig", region: "Roi | None", roi: "Roi | None") -> None:
    import json

    from wsistain.markers import parse_markers
    from wsistain.pipeline.planning import make_spec, plan_groups
    from wsistain.slide.reader import open_slide

    opened = open_slide(slide, mpp=settings.mpp, reader=settings.reader, series=settings.series)
    try:
        specs = [make_spec(settings, m.name) for m in parse_markers(marker)]
        groups = plan_groups(opened, specs, settings, region or roi, crop=roi is None)
        plans = [{"markers": [s.marker for s in g.specs], **g.plan.describe()} for g in groups]
        say(json.dumps(plans, indent=2))
    finally:
        opened.close()
