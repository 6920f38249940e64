"""Opening what was written: an OME-Zarr of ours as arrays and numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import FsspecStore

from wsistain.errors import OutputError, SlideError, WsistainError
from wsistain.runtime.files import is_url, url_text
from wsistain.slide.ngff import read_attributes
from wsistain.slide.zarr_pictures import sound_array
from wsistain.slide.zarr_store import ZARR_ERRORS, open_zarr, store_of


@dataclass(frozen=True)
class StoredStain:
    """A finished output as its metadata tells it.

    path       : its folder, or the URL of one.
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
    """One level as a zarr array (3, h, w), for reading; of a folder or a URL. Raises OutputError when it is not there."""
    try:
        with _told(path):
            array = sound_array(zarr.open_array(store_of(path), path=str(level), mode="r"))
    except ZARR_ERRORS as error:
        raise OutputError(f"{path} has no level {level} that can be read ({error}); is the run finished?") from error
    return array


def read_window(array: zarr.Array, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pixels uint8 (h, w, 3) of a window of a level, clipped at its edge.

    Raises OutputError when a chunk is damaged.
    """
    place, hint = str(array.store_path), ""
    if isinstance(array.store, FsspecStore):
        place = f"{array.store.fs.unstrip_protocol(array.store.path)}/{array.path}"
        hint = ", or its server does not answer requests of ranges"
    try:
        with _told(place if hint else ""):
            planes = np.asarray(array[:, y : y + height, x : x + width])
    except ZARR_ERRORS as error:
        raise OutputError(f"{place}: a chunk near y {y}, x {x} is damaged{hint} ({error})") from error
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


_OF_ZARR = (WsistainError, FileNotFoundError, LookupError, ValueError, RuntimeError, TypeError)
"""What is no word of a store's but of what lies there."""


@contextmanager
def _told(place: Path | str) -> Iterator[None]:
    """What the store behind a URL raises as one sentence; its libraries have errors of many families."""
    try:
        yield
    except ImportError as error:
        raise OutputError(f"{place} needs a package ({error}); pip install 'wsistain[remote]'") from None
    except Exception as error:
        if not is_url(place) or isinstance(error, _OF_ZARR):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise OutputError(f"{place} cannot be read: {said}; look at the address and your credentials") from error


def read_stain(path: Path | str) -> StoredStain:
    """What a finished output holds, in a folder or behind a URL that fsspec opens.

    Raises OutputError when `path` is not a finished RGB OME-Zarr in (c, y, x), or its store refuses.
    """
    # The folder as OME-Zarr, finished.
    if is_url(path):
        path = url_text(path)
    elif not Path(path).exists():
        raise OutputError(f"{path} does not exist; give the .ome.zarr folder that `wsistain run` wrote")
    try:
        with _told(path):
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
