"""Opening what was written: an OME-Zarr of ours as arrays and numbers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsistain.errors import OutputError

_DAMAGED = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What zarr and its codecs raise for metadata and chunks that were tampered with; zarr's own errors are ValueErrors."""


@dataclass(frozen=True)
class StoredStain:
    """A finished output as its metadata tells it.

    path       : its folder.
    name       : what viewers call it.
    mpp        : um per px of level 0.
    levels     : (height, width) of each level, 0 finest.
    provenance : the attributes under `wsistain`; empty where another program wrote it.
    """

    path: str
    name: str
    mpp: float
    levels: tuple[tuple[int, int], ...]
    provenance: dict[str, Any]


def open_level(path: Path | str, level: int) -> zarr.Array:
    """One level as a zarr array (3, h, w), for reading. Raises OutputError when it is not there."""
    try:
        array = zarr.open_array(str(path), path=str(level), mode="r")
    except _DAMAGED as error:
        raise OutputError(f"{path} has no level {level} that can be read ({error}); is the run finished?") from error
    return array


def read_window(array: zarr.Array, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pixels uint8 (h, w, 3) of a window of a level, clipped at its edge.

    Raises OutputError when a chunk is damaged.
    """
    try:
        planes = np.asarray(array[:, y : y + height, x : x + width])
    except _DAMAGED as error:
        raise OutputError(f"{array.store_path}: a chunk near y {y}, x {x} is damaged ({error})") from error
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def read_stain(path: Path | str) -> StoredStain:
    """What a finished output holds. Raises OutputError when `path` is not a finished RGB OME-Zarr in (c, y, x)."""
    if not Path(path).exists():
        raise OutputError(f"{path} does not exist; give the .ome.zarr folder that `wsistain run` wrote")
    try:
        group = zarr.open_group(str(path), mode="r")
    except _DAMAGED as error:
        hint = "the run is unfinished, continue it with --resume" if (Path(path) / ".wsistain").is_dir() else str(error)
        raise OutputError(f"{path} is not a finished OME-Zarr: {hint}") from error
    attributes: dict[str, Any] = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    try:
        block = ome["multiscales"][0]
        axes = [axis["name"] for axis in block["axes"]]
        paths = [dataset["path"] for dataset in block["datasets"]]
        mpp = float(block["datasets"][0]["coordinateTransformations"][0]["scale"][-1])
        unit = block["axes"][-1].get("unit")
        name = str(block.get("name") or Path(path).name)
        provenance = dict(attributes.get("wsistain", {}))
    except _DAMAGED as error:
        raise OutputError(f"{path} has no OME-Zarr multiscales metadata that can be read ({error!r})") from error
    levels = tuple(open_level(path, int(p)) for p in paths if str(p).isdecimal())
    shapes = [level.shape for level in levels]
    if axes != ["c", "y", "x"] or len(levels) != len(paths) or any(len(s) != 3 or s[0] != 3 for s in shapes):
        raise OutputError(f"{path} holds axes {axes} of shapes {shapes}; wanted an RGB stain (3, height, width)")
    if not (0 < mpp < math.inf):
        raise OutputError(f"{path} has a scale of {mpp} um; wanted a positive number")
    if any(level.dtype != np.uint8 for level in levels) or unit != "micrometer":
        raise OutputError(f"{path} holds {levels[0].dtype} and scales in {unit}; wanted uint8 and micrometer")
    return StoredStain(
        path=str(path),
        name=name,
        mpp=mpp,
        levels=tuple((int(s[1]), int(s[2])) for s in shapes),
        provenance=provenance,
    )
