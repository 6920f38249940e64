"""Opening what was written: an OME-Zarr of ours as arrays and numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsistain.errors import OutputError, SlideError
from wsistain.slide.ngff import read_attributes
from wsistain.slide.zarr_pictures import sound_array
from wsistain.slide.zarr_store import ZARR_ERRORS, OrdinaryFiles, open_zarr


@dataclass(frozen=True)
class StoredStain:
    """A finished output as its metadata tells it.

    path       : its folder.
    name       : what viewers call it.
    mpp        : um per px of level 0.
    origin_um  : (y, x) of its first pixel from the top left of the H&E, um; zeros where it says nothing.
    levels     : (height, width) of each level, 0 finest.
    provenance : the attributes under `wsistain`; empty where another program wrote it.
    """

    path: str
    name: str
    mpp: float
    levels: tuple[tuple[int, int], ...]
    provenance: dict[str, Any]
    origin_um: tuple[float, float] = (0.0, 0.0)


def open_level(path: Path | str, level: int) -> zarr.Array:
    """One level as a zarr array (3, h, w), for reading. Raises OutputError when it is not there."""
    try:
        store = OrdinaryFiles(Path(path), read_only=True)
        array = sound_array(zarr.open_array(store, path=str(level), mode="r"))
    except ZARR_ERRORS as error:
        raise OutputError(f"{path} has no level {level} that can be read ({error}); is the run finished?") from error
    return array


def read_window(array: zarr.Array, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pixels uint8 (h, w, 3) of a window of a level, clipped at its edge.

    Raises OutputError when a chunk is damaged.
    """
    try:
        planes = np.asarray(array[:, y : y + height, x : x + width])
    except ZARR_ERRORS as error:
        raise OutputError(f"{array.store_path}: a chunk near y {y}, x {x} is damaged ({error})") from error
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def read_stain(path: Path | str) -> StoredStain:
    """What a finished output holds. Raises OutputError when `path` is not a finished RGB OME-Zarr in (c, y, x)."""
    # The folder as OME-Zarr, finished.
    if not Path(path).exists():
        raise OutputError(f"{path} does not exist; give the .ome.zarr folder that `wsistain run` wrote")
    try:
        attributes = open_zarr(path).attrs.asdict()
    except ZARR_ERRORS as error:
        said = " ".join(str(error).split())[:200]
        hint = "the run is unfinished, continue it with --resume" if (Path(path) / ".wsistain").is_dir() else said
        raise OutputError(f"{path} is not a finished OME-Zarr: {hint}") from error
    try:
        image = read_attributes(attributes, str(path)).multiscales[0]
        axes = image.axis_names(3)
        scale = image.scale(0, 3)
    except (SlideError, ValueError) as error:
        said = str(error).removeprefix(f"{path} ")
        raise OutputError(f"{path} has no OME-Zarr multiscales metadata that can be read: {said}") from error

    # Everything that readers of it rely on: axes, colours, type and scale.
    paths = [dataset.path for dataset in image.datasets]
    unit = image.axes[-1].unit if image.axes else None
    kept = attributes.get("wsistain", {})
    provenance: dict[str, Any] = dict(kept) if isinstance(kept, dict) else {}
    levels = tuple(open_level(path, int(p)) for p in paths if p.isdecimal())
    shapes = [level.shape for level in levels]
    if axes != ["c", "y", "x"] or len(levels) != len(paths) or any(len(s) != 3 or s[0] != 3 for s in shapes):
        raise OutputError(f"{path} holds axes {axes} of shapes {shapes}; wanted an RGB stain (3, height, width)")
    if scale is None:
        raise OutputError(f"{path} states no scale; wanted um per px")
    if any(level.dtype != np.uint8 for level in levels) or unit != "micrometer":
        raise OutputError(f"{path} holds {levels[0].dtype} and scales in {unit}; wanted uint8 and micrometer")
    place = image.translation(0, 3) or [0.0] * 3
    return StoredStain(
        path=str(path),
        name=image.name or Path(path).name,
        mpp=scale[-1],
        levels=tuple((int(s[1]), int(s[2])) for s in shapes),
        provenance=provenance,
        origin_um=(place[1], place[2]),
    )
