"""`wsistain read`: cells, classes and scores of finished stains."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsistain.reading.scored import Reading

EXAMPLES = """
Find the cells of a stained slide, class them by their stain, and score them. For research, not for diagnosis.

Examples:

  wsistain read slide.ER.ome.zarr

  wsistain read slide.ER.ome.zarr slide.PR.ome.zarr --roi annotations.geojson --roi-class Tumor --without Necrosis

  wsistain read slide.Ki67.ome.zarr --cells nuclei.geojson --slide scans/slide.svs

  wsistain read slide.ER.ome.zarr --cells stardist:2D_versatile_he

Writes, beside each stain: cells.parquet (GeoParquet), cells.geojson (QuPath), scores.csv, report.html, read.json; and into it
the trust map.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("read", help=EXAMPLES)(read)


def read(
    stains: list[Path] = typer.Argument(..., metavar="RESULT.ome.zarr", help="Finished stains of one slide."),
    slide: str | None = typer.Option(None, "--slide", help="The H&E. Default: the one that the stain was made of."),
    cells: str | None = typer.Option(
        None,
        "--cells",
        metavar="FILE|DETECTOR",
        help="Your own nuclei: GeoJSON in level-0 px, or a label image (.tif, .npy); or another detector: stardist, cellpose or "
        "instanseg, with :MODEL for another model than its usual one.",
    ),
    cells_mpp: float | None = typer.Option(None, "--cells-mpp", help="um per px of a label image."),
    roi: Path | None = typer.Option(None, "--roi", metavar="FILE.geojson", help="Drawn regions (QuPath export)."),
    roi_class: str | None = typer.Option(
        None, "--roi-class", metavar="NAMES", help="Only cells in shapes of these classes count, as Tumor,DCIS."
    ),
    without: str | None = typer.Option(
        None, "--without", metavar="NAMES", help="Cells in shapes of these classes do not count, as Necrosis,Benign."
    ),
    trust: bool = typer.Option(
        True, "--trust/--no-trust", help="Where the stain can be believed: a map in the stain, a number for each cell."
    ),
    trust_features: bool = typer.Option(
        True,
        "--trust-features/--no-trust-features",
        help="Ask the network what it sees, where its weights keep what it saw in training: a seventh of the time of staining.",
    ),
    trust_jitter: bool = typer.Option(
        False, "--trust-jitter", help="Ask it four times more how steady its answers are: four stainings more."
    ),
    weights: Path | None = typer.Option(
        None, "--weights", metavar="FILE", help="The weights that made the stain, where they were moved since."
    ),
    qupath: bool = typer.Option(False, "--qupath", help="Also a folder from which QuPath makes a project."),
    threads: int = typer.Option(2, "--threads", min=1, max=64, help="Threads that read."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace what is there."),
) -> None:
    """Read finished stains; see EXAMPLES for the help text."""
    from wsistain.errors import ConfigError
    from wsistain.reading.read import read as read_stains
    from wsistain.runtime.progress import ProgressBar

    if roi is None and (roi_class is not None or without is not None):
        raise ConfigError(
            "--roi-class and --without name classes of drawn shapes; give the shapes with --roi FILE.geojson"
        )
    if trust_jitter and not trust:
        raise ConfigError("--trust-jitter is a part of the trust map; leave --no-trust out")
    note(f"Reading {', '.join(map(str, stains))}")
    with ProgressBar("blocks") as bar:
        readings = read_stains(
            stains,
            slide=slide,
            cells=cells,
            cells_mpp=cells_mpp,
            roi=roi,
            roi_class=_names(roi_class),
            without=_names(without),
            trust=trust,
            trust_features=trust_features,
            trust_jitter=trust_jitter,
            weights=weights,
            threads=threads,
            overwrite=overwrite,
            progress=lambda done, n: bar("reading", done, n),
            progress_trust=lambda done, n: bar("trust", done, n),
        )
    for sentence in dict.fromkeys(told for r in readings for told in r.facts["notes"]):
        note(f"Note: {sentence}")
    for reading in readings:
        if qupath:
            from wsistain.reading.project import make_project

            say(f"{make_project(reading, overwrite=overwrite)}: run make_project.groovy in QuPath")
        say(summary(reading))


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def summary(reading: "Reading") -> str:
    """What was read of one stain, in one line."""
    numbers = []
    for name, estimate in reading.slide.numbers.items():
        if estimate.value is None:
            continue
        interval = "" if estimate.low is None else f" ({estimate.low:.1f} to {estimate.high:.1f})"
        numbers.append(f"{name.replace('_', ' ')} {estimate.value:.1f}{interval}")
    category = f", {reading.slide.category}" if reading.slide.category else ""
    unread = f", {reading.slide.not_read} not read" if reading.slide.not_read else ""
    return (
        f"{reading.files['scores']}: {reading.slide.n_cells} cells{unread} in {reading.seconds:.1f} s, "
        f"{', '.join(numbers)}{category}{verdict_words(reading.result.stain.provenance.get('trust'))}{_trust(reading)}"
    )


def verdict_words(trust: object) -> str:
    """What a run said of the slide, for the last line; of results of older versions, which said nothing, that it is not known.

    trust : as `wsistain.pipeline.trust.Trust` describes itself.
    """
    told = trust if isinstance(trust, dict) else {}
    words, why, unlike = str(told.get("verdict") or "not known"), told.get("why"), told.get("unlike")
    if words == "not known":
        return "; not known whether the slide is like training" + (f" ({why})" if why else "")
    share = f"{unlike:.0%} of it unlike" if isinstance(unlike, int | float) else ""
    more = str(why) if why else share
    return f"; slide {words}" + (f" ({more})" if more else "")


def _trust(reading: "Reading") -> str:
    """Where not to believe it, in the summary's line."""
    from wsistain.reading.told import doubted

    if reading.trust is None:
        return ""
    trusted, why = reading.trust.trusted, reading.trust.why
    said = reading.result.stain.provenance.get("trust")
    if isinstance(said, dict) and said.get("why") == why:  # the verdict has said it
        why = ""
    if trusted is None:
        return f"; trust not known: {why}" if why else "; trust not known"
    found = doubted(reading)
    return f"; {trusted:.0%} of the tissue trusted, {found['cells_distrusted']} cells are not" + (
        f" ({why})" if why else ""
    )


def read_after_run(
    slide: str, markers: "Sequence[str]", output: Path, *, made: "set[Path]", roi: Path | None, roi_class: str | None,
    threads: int,
) -> None:  # fmt: skip
    """Read what a run has just stained, and what an earlier one stained and nobody read.

    The stain is finished, so a slide that cannot be read (too coarse, without a nucleus) is a warning and no failure.
    """
    from wsistain.errors import WsistainError
    from wsistain.output.names import output_name
    from wsistain.reading.read import read as read_stains
    from wsistain.slide.place import local_place

    stems = [output_name(local_place(slide), marker) for marker in markers]  # `file://`, as the sheet of a batch has it
    stains = [output / f"{stem}.ome.zarr" for stem in stems]
    unread = [
        stain
        for stem, stain in zip(stems, stains, strict=True)
        if stain in made or not (output / f"{stem}.read.json").is_file()
    ]
    if not unread:
        return
    try:
        readings = read_stains(
            unread, slide=slide, roi=roi, roi_class=_names(roi_class), threads=threads, overwrite=True
        )
    except WsistainError as error:
        say(f"Warning: {slide}: the cells were not read: {error}")
        return
    for reading in readings:
        say(summary(reading))
