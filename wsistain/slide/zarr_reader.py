"""OME-Zarr folders (0.4 and 0.5, our own output among them) as slides."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, Window
from wsistain.slide.mpp import Found, choose_mpp
from wsistain.slide.pyramid import downsamples

_CHUNK_PX = 1024
_UM_PER_UNIT = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_OPEN_ERRORS = (ValueError, KeyError, TypeError, OSError, RuntimeError)
_READ_ERRORS = (ValueError, RuntimeError, OSError, TypeError)


def is_zarr(path: Path) -> bool:
    """Whether a folder holds Zarr metadata (version 2 or 3)."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


class OmeZarr(GridSlide):
    """An OME-Zarr picture with channels red, green, blue; see `Slide` for what it does."""

    def __init__(self, path: Path, *, mpp: float | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Open `path`; `mpp` as in `open_slide`. SlideError when it is no OME-Zarr, not 8-bit RGB or has no mpp."""
        try:
            group = zarr.open_group(str(path), mode="r")
            attributes, group = _image(group)
            image = attributes["multiscales"][0]
            datasets = image["datasets"]
            self._arrays: list[Any] = [group[dataset["path"]] for dataset in datasets]
            axes = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in image["axes"]]
            y, x = axes.index("y"), axes.index("x")
        except _OPEN_ERRORS as error:
            raise SlideError(
                f"{path} is no OME-Zarr picture that can be read ({type(error).__name__}: {error})"
            ) from None
        self._y, self._x, self._c = y, x, axes.index("c") if "c" in axes else -1
        self._refuse_other_pixels(path, attributes)
        found = _mpp(image, y, x)
        chosen, source = choose_mpp(str(path), mpp, found, None)
        sizes = tuple((int(array.shape[y]), int(array.shape[x])) for array in self._arrays)
        grids = tuple(self._grid(array, size) for array, size in zip(self._arrays, sizes, strict=True))
        info = SlideInfo(
            path=str(path),
            size_l0=sizes[0],
            mpp=chosen,
            mpp_source=source,
            level_sizes=sizes,
            downsamples=_downsamples(image, y, x, sizes),
            tile_px=(int(self._arrays[0].chunks[y]), int(self._arrays[0].chunks[x])),
            vendor="ome-zarr",
            reader="zarr",
            fingerprint=fingerprint(path),
        )
        super().__init__(info, grids, cache_bytes)
        self._refuse_if_unreadable()

    def close(self) -> None:
        """Forget the chunks; Zarr holds no file open."""
        self._cache.clear()

    def _refuse_other_pixels(self, path: Path, attributes: dict[str, Any]) -> None:
        array = self._arrays[0]
        others = [n for i, n in enumerate(array.shape) if i not in (self._y, self._x, self._c)]
        channels = array.shape[self._c] if self._c >= 0 else 1
        if array.dtype != np.uint8 or channels != 3 or any(n != 1 for n in others):
            raise SlideError(
                f"{path} holds {tuple(array.shape)} of {array.dtype}, not 8-bit RGB; "
                "wsistain stains brightfield RGB slides"
            )
        shown = [channel.get("color", "").lower() for channel in attributes.get("omero", {}).get("channels", [])]
        if shown and shown != ["ff0000", "00ff00", "0000ff"]:
            raise SlideError(
                f"{path} shows its channels as {', '.join(shown)}, not red, green and blue; "
                "wsistain stains brightfield RGB slides"
            )

    def _grid(self, array: Any, size: tuple[int, int]) -> Grid:
        tile_h, tile_w = (int(array.chunks[axis]) for axis in (self._y, self._x))
        return Grid(*size, tile_h * max(1, _CHUNK_PX // tile_h), tile_w * max(1, _CHUNK_PX // tile_w))

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        window = self._window_of(key)
        try:
            return self._read(window)
        except _READ_ERRORS:
            chunks = self._arrays[key[0]].chunks
            return self._piecewise(window, (int(chunks[self._y]), int(chunks[self._x])), self._read, _READ_ERRORS)

    def _read(self, window: Window) -> RGB:
        """A window inside a level; raises one of _READ_ERRORS."""
        level, y, x, height, width = window
        array = self._arrays[level]
        index: list[Any] = [0] * array.ndim
        index[self._y], index[self._x], index[self._c] = slice(y, y + height), slice(x, x + width), slice(None)
        order = np.argsort(np.argsort([self._y, self._x, self._c]))
        return np.ascontiguousarray(np.asarray(array[tuple(index)]).transpose(tuple(order)))


def _image(group: Any) -> tuple[dict[str, Any], Any]:
    """The OME attributes and group of the (first) picture; bioformats2raw keeps it one folder down."""
    attributes = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    if "multiscales" not in attributes and "bioformats2raw.layout" in attributes:
        return _image(group["0"])
    return attributes, group


def _scale(dataset: dict[str, Any], y: int, x: int) -> tuple[float, float] | None:
    for transform in dataset.get("coordinateTransformations", []):
        if transform.get("type") == "scale":
            return float(transform["scale"][y]), float(transform["scale"][x])
    return None


def _mpp(image: dict[str, Any], y: int, x: int) -> Found | None:
    scale = _scale(image["datasets"][0], y, x)
    units = [str(image["axes"][i].get("unit")) if isinstance(image["axes"][i], dict) else "" for i in (y, x)]
    if scale is None or any(unit not in _UM_PER_UNIT for unit in units):
        return None
    return scale[0] * _UM_PER_UNIT[units[0]], scale[1] * _UM_PER_UNIT[units[1]]


def _downsamples(image: dict[str, Any], y: int, x: int, sizes: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
    """From the scales as stated; from the sizes where a level states none."""
    scales = [scale for dataset in image["datasets"] if (scale := _scale(dataset, y, x)) is not None]
    if len(scales) != len(sizes):
        return downsamples(sizes)
    return tuple((scale[0] / scales[0][0] + scale[1] / scales[0][1]) / 2 for scale in scales)
