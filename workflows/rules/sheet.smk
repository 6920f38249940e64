"""The configuration and the sample sheet, checked against their schemas."""

import csv
import shlex
from pathlib import Path, PurePosixPath
from urllib.parse import quote

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
        found[row["slide"]] = {
            "markers": config["markers"],
            "folder": ".",
            "mpp": "",
            "series": "",
            "roi": "",
            "roi_class": "",
            **row,
        }
    return found


SLIDES = read_slides(config["slides"])

# Jobs may run on other machines, in other environments: what `wsistain batch` knows of markers goes with them.
KNOWN_MARKERS = f"WSISTAIN_MARKERS={shlex.quote(config['marker_file'])} " if "marker_file" in config else ""

# How `wsistain` is called. Not parameters, which would make Snakemake stain finished slides again when only the call
# differs (it resumes, and the last one did not); resources are told to every job and compare nothing.
CALL = {"known_markers": KNOWN_MARKERS, "mode": config["mode"]}

# one wildcard for slide and markers: Snakemake refuses the value of a wildcard that ends with many equal letters
JOBS = {f"{slide}.{row['markers'].replace(',', '-')}": row for slide, row in SLIDES.items()}


wildcard_constraints:
    job="[A-Za-z0-9][A-Za-z0-9._-]*",
    name="[A-Za-z0-9][A-Za-z0-9_-]*",


def done_file(job):
    """The marker that is written last, when every stain of a slide is finished."""
    return f"batch/done/{job}.done"


def slide_input(wildcards):
    """The slide as an input file, so that a changed slide is noticed.

    URLs are no files here; nor are paths with signs that mean something to Snakemake: the sheet holds them as `file://`.
    """
    path = JOBS[wildcards.job]["path"]
    return [] if "://" in path else path


def stained(row):
    """The finished OME-Zarrs of a slide, one a marker."""
    stem = row.get("stem") or PurePosixPath(row["path"]).name.removesuffix(".ome.zarr").rsplit(".", 1)[0]
    folder = f"file://{quote(str(Path.cwd()))}/{row['folder']}" if row["path"].startswith("file://") else row["folder"]
    return [f"{folder}/{stem}.{marker}.ome.zarr" for marker in row["markers"].split(",")]


def read_pairs(path):
    """Rows of the sheet of pairs by slide and marker; empty cells are left out."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file, delimiter="\t")]
    found = {}
    for row in rows:
        validate(row, "../schemas/pairs.schema.yaml")
        name = f"{row['slide']}.{row['marker']}"
        if name in found:
            raise WorkflowError(f"{path}: {row['slide']!r} is there twice for {row['marker']}; name one otherwise")
        found[name] = row
    return found


PAIRS = read_pairs(config["pairs"]) if config["pairs"] else {}
PAIR_OPTIONS = ("patient", "part", "he_mpp", "ihc_mpp")


def pair_options(wildcards):
    """The options of `wsistain pair` for one pair, beside its slides, marker and name."""
    row = PAIRS[wildcards.pair]
    given = {f"--{key.replace('_', '-')}": row[key] for key in PAIR_OPTIONS if key in row}
    given |= {"--patch-mpp": config["patch_mpp"], "--patch-size": config["patch_size"]}
    return [str(word) for option in given.items() for word in option]
