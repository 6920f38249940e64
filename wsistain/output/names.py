"""What the files of a run are called."""

import hashlib
from pathlib import Path

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".jp2", ".j2k")
SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff", ".ndpi", ".ndpis", ".mrxs", ".scn", ".bif"),
    *(".svslide", ".vms", ".vmu", ".dcm", ".dicom", ".zarr", ".czi", ".isyntax", ".i2syntax", ".vsi", ".ets"),
    *(".lif", ".nd2", ".oib", ".oif", ".zvi", ".lsm", ".sdpc", ".kfb", ".tmap", ".mds", ".mdsx", ".dsx", ".afi"),
    *(".trn", ".jxr", ".iris", ".ims", ".avs", ".ptif", ".ptiff", ".bigtiff"),
)
"""Endings of slides, readable here or not: whoever has such a file means it to be a slide."""

_STEM_BYTES = 200
"""Longest stem, so that `<stem>.<MARKER>.ome.zarr` and the temporary files beside it fit into 255 bytes."""


def slide_stem(name: str) -> str:
    """The name of a slide less its ending: what its results are called after.

    Only an ending that is one is taken off, so `scan.01.ome.zarr` is `scan.01`, `1.2.840` stays whole, and two slides of
    one folder are called alike only when they differ in nothing but the ending. A stem too long for the names of
    the results is cut, and a hash of the whole stands in for the rest.
    """
    name = Path(name.rstrip("/")).name
    for ending in (".ome.zarr", *SLIDE_SUFFIXES, *PICTURE_SUFFIXES):
        if len(name) > len(ending) and name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= _STEM_BYTES:
        return name
    digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
    return f"{raw[: _STEM_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def output_name(slide: str, marker: str) -> str:
    """Stem of everything that a run writes for a slide and marker: `<slide stem>.<MARKER>`."""
    return f"{slide_stem(slide)}.{marker}"


READ_ENDINGS = ("cells.parquet", "cells.geojson", "scores.csv", "report.html", "read.json")
"""Endings of what `wsistain read` writes beside a stain, `<slide stem>.<MARKER>.<ending>`; the last is written last."""

READ_WORK = "read.work"
"""Ending of the folder beside a stain in which an unfinished reading lies."""
