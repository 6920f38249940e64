"""A coarse map beside a finished stain, as a label-like picture of OME-Zarr: the trust map.

It appears in one move: written whole beside its place, and renamed. The layout is that of OME-NGFF's `labels`, in the version
of the stain, so that what reads labels finds it and what does not passes it over.

Source: OME-NGFF 0.4 and 0.5, section labels.
"""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsistain.errors import OutputError
from wsistain.output.reading import StoredStain
from wsistain.runtime.files import PART, reporting
from wsistain.slide.ngff import read_attributes
from wsistain.slide.zarr_pictures import sound_array
from wsistain.slide.zarr_store import ZARR_ERRORS, open_zarr

LABELS, TRUST = "labels", "trust"
PARTS = "parts"
"""Array (part, y, x) beside level 0 of a map: what it was combined of."""

MOST_CHUNK = 2048
MOST_CELLS = 64_000_000


def map_folder(stain: Path | str, name: str = TRUST) -> Path:
    """Where the map `name` of a stain lies."""
    return Path(stain) / LABELS / name


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map that was read: `read_map` fills all of it, `read_values` all but parts.

    values, parts, cell_um, corner_um, facts : as `write_map` takes them.
    """

    values: NDArray[np.uint8]
    parts: dict[str, NDArray[np.uint8]]
    cell_um: float
    corner_um: tuple[float, float]
    facts: dict[str, Any]


def read_values(stain: Path | str, name: str = TRUST) -> StoredMap:
    """The map `name` of the stain at a path, by whomever it was written. OutputError where it cannot be read."""
    place = map_folder(stain, name)
    try:
        return _placed(open_zarr(place), str(place))
    except ZARR_ERRORS as error:
        raise OutputError(f"{place} is no {name} map that can be read ({error})") from None


def read_map(stain: StoredStain, name: str = TRUST) -> StoredMap | None:
    """The map `name` of a stain as `write_map` wrote it; None where there is none, or none of ours that can be read."""
    place = map_folder(stain.path, name)
    try:
        group = open_zarr(place)
        found = _placed(group, str(place))
        stack = sound_array(group[PARTS])
        if stack.shape != (len(found.facts[PARTS]), *found.values.shape):
            return None
        parts = dict(zip(found.facts[PARTS], np.asarray(stack[...]), strict=True))
        return replace(found, parts=parts, cell_um=float(found.facts["cell_um"]))
    except (*ZARR_ERRORS, OutputError):
        return None


def _placed(group: zarr.Group, place: str) -> StoredMap:
    """The first level of a map and where it lies. Raises OutputError or one of ZARR_ERRORS."""
    attributes = group.attrs.asdict()
    image = read_attributes(attributes, place).multiscales[0]
    array = sound_array(group[image.datasets[0].path])
    n_axes = len(array.shape)
    scale, shift = image.scale(0, n_axes), image.translation(0, n_axes) or [0.0] * n_axes
    if scale is None or int(np.prod(array.shape[-2:])) > MOST_CELLS or array.dtype != np.uint8:
        raise OutputError(f"{place} is no map: wanted uint8 with a scale, at most {MOST_CELLS / 1e6:.0f} MP")
    facts = attributes.get("wsistain")
    facts = facts if isinstance(facts, dict) else {}
    corner = _corner(facts) or (shift[-2], shift[-1])
    return StoredMap(np.asarray(array[(0,) * (n_axes - 2)]), {}, scale[-1], corner, facts)


def _corner(facts: dict[str, Any]) -> tuple[float, float] | None:
    """(y, x) um of the corner of a map of ours; None where it says nothing: its translation is that of a centre."""
    corner = facts.get("corner_um")
    if not isinstance(corner, list) or len(corner) != 2 or not all(isinstance(v, int | float) for v in corner):
        return None
    return float(corner[0]), float(corner[1])


def write_map(
    stain: StoredStain,
    values: NDArray[np.uint8],
    parts: Mapping[str, NDArray[np.uint8]],
    *,
    cell_um: float,
    corner_um: tuple[float, float],
    facts: Mapping[str, Any],
    name: str = TRUST,
) -> Path:
    """Write a map of a finished stain, in the place of one that was there; returns its folder.

    values    : uint8 (h, w), 0 where nothing is known; parts: what they are combined of, uint8 (h, w) each.
    cell_um   : edge of a cell; corner_um: (y, x) of the map's upper left corner from that of the slide.
    facts     : plain JSON values, kept under `wsistain`.

    Raises OutputError when it cannot be written; until it is whole, what was there before stays.
    """
    # The centre of a stain's first px lies at its origin; that of a cell lies half a cell less half such a px further on.
    shift = (cell_um - stain.mpp) / 2
    is_v3 = (Path(stain.path) / "zarr.json").is_file()
    levels = _pyramid(values, len(stain.levels))
    block = _multiscales(name, cell_um, (corner_um[0] + shift, corner_um[1] + shift), len(levels), is_v3=is_v3)
    label = {"version": "0.5" if is_v3 else "0.4", "source": {"image": "../../"}}
    ours = {**facts, "corner_um": list(corner_um), "cell_um": cell_um, PARTS: list(parts)}
    ome = {"multiscales": [block], "image-label": label}
    attributes = {"ome": {"version": "0.5", **ome}, "wsistain": ours} if is_v3 else {**ome, "wsistain": ours}
    target = map_folder(stain.path, name)
    part = target.with_name(f".{name}.{uuid.uuid4().hex[:12]}{PART}")
    with reporting(target, retry="run again"):
        try:
            _write_group(part, attributes, levels, np.stack(list(parts.values())), is_v3=is_v3)
            _tell_labels(target.parent, name, is_v3=is_v3)
            if target.exists():
                # Renamed first: a folder cannot be replaced in one move, and half of one must never be read.
                old = part.with_suffix(f".old{PART}")
                target.rename(old)
                part.rename(target)
                shutil.rmtree(old)
            else:
                part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _pyramid(values: NDArray[np.uint8], n_levels: int) -> list[NDArray[np.uint8]]:
    """As many levels as the stain has, as OME-NGFF wants of a label picture: means of 2 x 2 cells, of those where something is known."""
    levels = [values]
    while len(levels) < n_levels:
        fine = levels[-1].astype(np.uint16)
        fine = np.pad(fine, ((0, fine.shape[0] % 2), (0, fine.shape[1] % 2)))
        four = np.stack([fine[y::2, x::2] for y in (0, 1) for x in (0, 1)])
        known = np.maximum((four > 0).sum(0), 1)
        levels.append(((four.sum(0) + known // 2) // known).astype(np.uint8))
    return levels


def _multiscales(
    name: str, cell_um: float, first: tuple[float, float], n_levels: int, *, is_v3: bool
) -> dict[str, Any]:
    datasets = []
    for level in range(n_levels):
        step = 2**level
        further = (step - 1) / 2 * cell_um
        steps = [
            {"type": "scale", "scale": [cell_um * step, cell_um * step]},
            {"type": "translation", "translation": [first[0] + further, first[1] + further]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    version = {} if is_v3 else {"version": "0.4"}
    return {"name": name, "axes": axes, "datasets": datasets, **version}


def _write_group(
    folder: Path, attributes: dict[str, Any], levels: list[NDArray[np.uint8]], parts: NDArray[np.uint8], *, is_v3: bool
) -> None:
    plain = json.loads(json.dumps(attributes, allow_nan=False))
    group = zarr.create_group(zarr.storage.LocalStore(folder), zarr_format=3 if is_v3 else 2, attributes=plain)
    for path, data in [*((str(level), values) for level, values in enumerate(levels)), (PARTS, parts)]:
        extra: dict[str, Any] = (
            {"dimension_names": ("part", "y", "x")[-data.ndim :]}
            if is_v3
            else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        )
        chunks = (*((1,) * (data.ndim - 2)), *(min(n, MOST_CHUNK) for n in data.shape[-2:]))
        array = group.create_array(path, shape=data.shape, dtype=data.dtype, chunks=chunks, fill_value=0, **extra)
        array[...] = data
    _check(group, is_v3=is_v3)


def _check(group: zarr.Group, *, is_v3: bool) -> None:
    """Raises pydantic's ValidationError when ome-zarr-models finds the metadata invalid: our fault."""
    if is_v3:
        from ome_zarr_models.v05.image_label import ImageLabel

        ImageLabel.from_zarr(group)
    else:
        from ome_zarr_models.v04.image_label import ImageLabel as ImageLabelV04

        ImageLabelV04.from_zarr(group)


def _tell_labels(folder: Path, name: str, *, is_v3: bool) -> None:
    """The group `labels` with `name` among its labels."""
    store = zarr.storage.LocalStore(folder)
    group = zarr.open_group(store, mode="a", zarr_format=3 if is_v3 else 2)
    told: dict[str, Any] = group.attrs.asdict()
    known = told.get("ome", {}) if is_v3 else told
    names = [*(n for n in known.get("labels", []) if n != name), name]
    group.attrs.update({"ome": {"version": "0.5", "labels": names}} if is_v3 else {"labels": names})
