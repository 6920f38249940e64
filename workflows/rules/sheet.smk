"""The configuration and the sample sheet, checked against their schemas."""

import csv
import shlex

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

validate(config, "../schemas/config.schema.yaml")


def read_slides(path):
    """Rows of the sample sheet by the slide's id; empty cells are left out."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file, delimiter="\t")]
    found = {}
    for row in rows:
        validate(row, "../schemas/slides.schema.yaml")
        if row["slide"] in found:
            raise WorkflowError(f"{path}: the slide {row['slide']!r} is there twice; every slide needs its own name")
        found[row["slide"]] = {"markers": config["markers"], "folder": ".", "mpp": "", **row}
    return found


SLIDES = read_slides(config["slides"])

# Jobs may run on other machines, in other environments: what `wsistain batch` knows of markers goes with them.
KNOWN_MARKERS = f"WSISTAIN_MARKERS={shlex.quote(config['marker_file'])} " if "marker_file" in config else ""


wildcard_constraints:
    slide="[A-Za-z0-9][A-Za-z0-9._-]*",
    markers="[A-Za-z0-9_-]+",
    name="[A-Za-z0-9][A-Za-z0-9_-]*",


def tag(row):
    """The markers of a slide as they stand in file names: ER-PR."""
    return row["markers"].replace(",", "-")


def done_file(row):
    """The marker that is written last, when every stain of a slide is finished."""
    return f"batch/done/{row['slide']}.{tag(row)}.done"


def slide_input(wildcards):
    """The slide as an input file, so that a changed slide is noticed; URLs are no files."""
    path = SLIDES[wildcards.slide]["path"]
    return [] if "://" in path else path


def stained(row):
    """The finished OME-Zarrs of a slide, one a marker."""
    stem = row["path"].rstrip("/").rsplit("/", 1)[-1].removesuffix(".ome.zarr").rsplit(".", 1)[0]
    return [f"{row['folder']}/{stem}.{marker}.ome.zarr" for marker in row["markers"].split(",")]
