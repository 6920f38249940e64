"""OME-Zarr metadata of a finished output: scales of the levels, colours as brightfield, provenance.

The metadata is made with zarr-python in memory, checked there with ome-zarr-models, and only then written: arrays
first, the root last, each by a rename; 0.4 has OME-XML too, for Bio-Formats and QuPath. An output whose root has metadata is finished.

Frame: a translation is the place of a level's first pixel centre, and the centre of the first pixel of level 0 is put
at `origin_um`. A pixel of level l is the mean of 2^l x 2^l pixels, so its centre lies (2^l - 1) / 2 pixels of level 0
further on, and each level's translation says so: levels lie right over each other in viewers that honour it.

Source: OME-NGFF 0.4 and 0.5, sections multiscales and omero; Zarr v3 core specification, sharding_indexed.
"""

import json
from collections.abc import Sequence
from typing import Any

import zarr
import zarr.storage

from wsistain import __version__
from wsistain.output.codec import zarr_codec
from wsistain.output.layout import STAIN, OutputSpec
from wsistain.output.ome_xml import ome_xml
from wsistain.output.reading import StoredStain
from wsistain.runtime.files import reporting, write_file

OME_XML = "OME/METADATA.ome.xml"
"""Where Bio-Formats looks for OME-XML in an OME-Zarr."""

AXES = ("c", "y", "x")
_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


def multiscales(spec: OutputSpec, name: str) -> list[dict[str, Any]]:
    """The `multiscales` block: axes, and for each level its scale and the place of its first pixel, um."""
    datasets = []
    for level in range(len(spec.levels)):
        step = 2**level
        # A pixel of a coarse level has its centre in the middle of those that it is the mean of.
        shift = (step - 1) / 2 * spec.mpp
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, spec.mpp * step, spec.mpp * step]},
                    {"type": "translation", "translation": [0.0, *(o + shift for o in spec.origin_um)]},
                ],
            }
        )
    block: dict[str, Any] = {
        "name": name,
        "type": "mean",
        "metadata": {"description": "exact 2 x 2 means, rounded half up", "method": "wsistain.output.pyramid.half"},
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": datasets,
    }
    if spec.storage.ngff == "0.4":
        block["version"] = "0.4"
    return [block]


def omero(name: str, colours: Sequence[tuple[str, str]] = _COLOURS) -> dict[str, Any]:
    """The `omero` block: channels with their colours; by default three that add up to the colours of the stain."""
    model = "color" if len(colours) > 1 else "greyscale"
    channels = [
        {
            "label": label,
            "color": colour,
            "active": True,
            "coefficient": 1,
            "family": "linear",
            "inverted": False,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for label, colour in colours
    ]
    return {"name": name, "channels": channels, "rdefs": {"model": model, "defaultT": 0, "defaultZ": 0}}


def root_attributes(
    spec: OutputSpec, provenance: dict[str, Any], name: str, key: dict[str, Any] | None
) -> dict[str, Any]:
    """Attributes of the root group: OME-NGFF's own, and under `wsistain` where the stain comes from."""
    colours = _COLOURS if spec.layer == STAIN else ((spec.layer.folder, "FFFFFF"),)
    ome: dict[str, Any] = {"multiscales": multiscales(spec, name), "omero": omero(name, colours)}
    ours = {"wsistain": __version__, **provenance, "virtual": True}
    if key is not None:
        ours["key"] = key
    if spec.storage.ngff == "0.4":
        return {**ome, "wsistain": ours}
    return {"ome": {"version": "0.5", **ome}, "wsistain": ours}


def write_metadata(
    spec: OutputSpec, provenance: dict[str, Any], name: str, *, key: dict[str, Any] | None = None
) -> None:
    """Writes the metadata of every level and then of the root: after this the output, or a layer in it, is finished.

    provenance : plain JSON values, stored under `wsistain`; `virtual` is always true there.
    name       : what viewers call the image.
    key        : the journal's key, so that a finished output can be told from one of another plan.

    Raises OutputError when it cannot be written. Metadata that ome-zarr-models refuses is our fault: its
    ValidationError passes through, and nothing is written.
    """
    attributes = json.loads(json.dumps(root_attributes(spec, provenance, name, key), allow_nan=False))
    documents = _documents(spec, attributes)
    root_names = [n for n in (".zgroup", ".zattrs", "zarr.json") if n in documents]
    with reporting(spec.path):
        for path in [*(n for n in documents if n not in root_names), *root_names]:
            write_file(spec.folder, f"{spec.inner}{path}", [documents[path]])


def _documents(spec: OutputSpec, attributes: dict[str, Any]) -> dict[str, bytes]:
    """The metadata files by path, as zarr-python makes them, after the check by ome-zarr-models."""
    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    group = zarr.create_group(store, zarr_format=3 if spec.storage.ngff == "0.5" else 2, attributes=attributes)
    for level, size in enumerate(spec.levels):
        _describe_level(spec, store, str(level), size)
    _check(group, spec)
    documents = {path: _tidy(buffer.to_bytes()) for path, buffer in held.items()}
    if spec.storage.ngff == "0.4" and spec.layer == STAIN:
        documents[OME_XML] = _as_ome_xml(spec, attributes).encode("ascii")
    return documents


def _as_ome_xml(spec: OutputSpec, attributes: dict[str, Any]) -> str:
    """What Bio-Formats, and with it QuPath, takes colours, scale and place from."""
    stain = StoredStain(
        path=spec.path,
        name=attributes["multiscales"][0]["name"],
        mpp=spec.mpp,
        levels=spec.levels,
        provenance=attributes["wsistain"],
        origin_um=spec.origin_um,
    )
    return ome_xml(stain, interleaved=False)


def level_documents(spec: OutputSpec, level: int) -> dict[str, bytes]:
    """The metadata files of one level by path, as they will be once the output is finished."""
    held: dict[str, Any] = {}
    _describe_level(spec, zarr.storage.MemoryStore(held), str(level), spec.levels[level])
    return {path: buffer.to_bytes() for path, buffer in held.items() if path.startswith(f"{level}/")}


def _describe_level(spec: OutputSpec, store: zarr.storage.MemoryStore, path: str, size: tuple[int, int]) -> None:
    chunk = (1, spec.stored_chunk, spec.stored_chunk)
    if spec.storage.ngff == "0.5":
        zarr.create_array(
            store,
            name=path,
            shape=(spec.layer.channels, *size),
            dtype="uint8",
            chunks=chunk,
            shards=(spec.layer.channels, spec.storage.shard, spec.storage.shard),
            compressors=zarr_codec(spec.storage),
            filters=None,
            fill_value=spec.layer.blank,
            dimension_names=AXES,
        )
    else:
        zarr.create_array(
            store,
            name=path,
            shape=(spec.layer.channels, *size),
            dtype="uint8",
            chunks=chunk,
            compressors=zarr_codec(spec.storage),
            filters=None,
            fill_value=spec.layer.blank,
            zarr_format=2,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )


def _check(group: zarr.Group, spec: OutputSpec) -> None:
    """Raises pydantic's ValidationError when ome-zarr-models finds the metadata invalid."""
    if spec.storage.ngff == "0.5":
        from ome_zarr_models.v05 import Image

        Image.from_zarr(group)
    else:
        from ome_zarr_models.v04 import Image as ImageV04

        ImageV04.from_zarr(group)


def _tidy(document: bytes) -> bytes:
    return json.dumps(json.loads(document), indent=2).encode()
