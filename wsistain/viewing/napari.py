"""A reader for napari: a stain as one RGB picture with its scale and place, its H&E under it, and what was read as labels.

napari calls `get_reader` for paths that end as `wsistain/napari.yaml` says. Nothing here imports napari: layers are plain
tuples of (data, options, kind).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr

from wsistain.errors import WsistainError
from wsistain.output.reading import open_level, read_stain
from wsistain.output.trust import has_trust
from wsistain.slide.reader import open_slide
from wsistain.viewing.results import Result, check_slide, find_slide, is_result, look_at
from wsistain.viewing.tables import cells_file
from wsistain.viewing.trust import trust_picture

Layer = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | Sequence[str]], list[Layer]]

MOST_LABELLED = 2_000_000
"""Cells that are shown as points at most."""


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """The reader for a result of wsistain; None for anything else, which napari then offers to others."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or not all(is_result(Path(p)) and look_at(Path(p)).state == "finished" for p in paths):
        return None
    return read


def read(path: str | Sequence[str]) -> list[Layer]:
    """The layers of one or several results: H&E (once a slide), stains, trust, cells. WsistainError where one cannot be read."""
    results = [look_at(Path(p)) for p in ([path] if isinstance(path, str) else path)]
    layers: list[Layer] = []
    shown: set[str] = set()
    for result in results:
        mark = str(result.slide.get("fingerprint") or result.path)
        if mark not in shown:
            layers += _slide(result)
            shown.add(mark)
    for result in results:
        layers += [_stain(result), *_trust(result), *_cells(result)]
    return layers


def _placed(name: str, mpp: float, y_um: float, x_um: float, **more: Any) -> dict[str, Any]:
    # napari puts the centre of the first pixel at `translate`.
    shift = mpp / 2
    options = {"name": name, "scale": (mpp, mpp), "translate": (y_um + shift, x_um + shift), "units": ("um", "um")}
    return {**options, **more}


def _stain(result: Result) -> Layer:
    frame = result.frame
    if frame is None:
        raise WsistainError(f"{result.path} cannot be shown: {result.problem}")
    levels = [_rgb(open_level(result.path, level)) for level in range(len(read_stain(result.path).levels))]
    told = _placed(f"{result.name} (virtual)", frame.mpp, frame.y_um, frame.x_um, rgb=True, multiscale=True)
    told["metadata"] = {"wsistain": result.about, "statement": "for research only, not for diagnosis"}
    return levels, told, "image"


def _rgb(array: "zarr.Array[Any]") -> Any:
    """A level as a dask array (h, w, 3); nothing is read before it is shown."""
    return dask.array.from_array(array, chunks=(3, *array.chunks[1:]), name=False).transpose(1, 2, 0)


def _slide(result: Result) -> list[Layer]:
    """The H&E where it can be found; another slide is never shown in its place."""
    path = find_slide(result, [])
    if path is None:
        return []
    told = result.slide
    mpp = float(told["mpp"]) if told.get("mpp_source") == "given" else None
    try:
        slide = open_slide(path, mpp=mpp, series=result.about.get("series") or None)
        check_slide(result, slide.info.size_l0, slide.info.mpp, slide.info.fingerprint, str(path))
    except WsistainError:
        return []
    info = slide.info
    levels = []
    for level, size in enumerate(info.level_sizes):

        def block(where: Any, level: int = level) -> Any:
            (y0, y1), (x0, x1) = where[None]["array-location"][:2]
            return slide.read_level(level, y0, x0, y1 - y0, x1 - x0)

        chunks = dask.array.core.normalize_chunks((1024, 1024, 3), (*size, 3), dtype=np.uint8)
        levels.append(
            dask.array.map_blocks(
                lambda block_info=None, block=block: block(block_info),
                chunks=chunks,
                dtype=np.uint8,
                name=f"he-{level}-{id(slide)}",
            )
        )
    return [(levels, _placed(f"{path.name} (H&E)", info.mpp, 0.0, 0.0, rgb=True, multiscale=True), "image")]


def _trust(result: Result) -> list[Layer]:
    if not has_trust(result.path):
        return []
    picture = trust_picture(result.path, result.stamp)
    frame = picture.frame
    place = _placed(f"{result.name} trust", frame.mpp, frame.y_um, frame.x_um, rgb=True, visible=False, opacity=0.7)
    return [(picture.pixels, place, "image")]


def _cells(result: Result) -> list[Layer]:
    """Cells as outlines would be slow by the million: they are points with their class."""
    path = cells_file(result.path, None)
    if path is None:
        return []
    from wsistain.viewing.cells import read_cells

    cells = read_cells(path, float(result.slide.get("mpp") or 1.0))
    if len(cells) > MOST_LABELLED:
        return []
    names = np.array(cells.classes)[cells.kind] if len(cells) else np.array([], str)
    colours = np.array([(*c, 255) for c in cells.colours()], np.float64).reshape(-1, 4) / 255
    options = {
        "name": f"{result.name} cells",
        "features": {"class": names},
        "face_color": colours[cells.kind],
        "size": 6.0,
        "units": ("um", "um"),
        "visible": False,
    }
    return [(np.stack([cells.y, cells.x], axis=1), options, "points")]
