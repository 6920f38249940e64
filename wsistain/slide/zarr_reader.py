"""OME-Zarr folders (0.1 to 0.5, our own output among them) as slides."""

from pathlib import Path
from typing import Any

import numpy as np

from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, Window, without_levels
from wsistain.slide.mpp import choose_mpp
from wsistain.slide.pyramid import downsamples
from wsistain.slide.zarr_pictures import choose_picture, downsamples_of
from wsistain.slide.zarr_store import ZARR_ERRORS

_CHUNK_PX = 1024


def is_zarr(path: Path) -> bool:
    """Whether a folder holds Zarr metadata (version 2 or 3)."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


class OmeZarr(GridSlide):
    """An OME-Zarr picture with channels red, green, blue; see `Slide` for what it does."""

    def __init__(
        self,
        path: Path,
        *,
        mpp: float | None = None,
        series: int | None = None,
        needs_mpp: bool = True,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Open `path`; options as in `open_slide`. SlideError when it is no OME-Zarr, not 8-bit RGB or has no mpp."""
        # Which picture of the store, and in which order its axes lie.
        picture = choose_picture(path, series)
        self._arrays = picture.arrays
        self._planes = picture.planes
        self._y, self._x, self._c = picture.y, picture.x, picture.c

        # Its scale: the first that is stated, the others being compared with it.
        best, others = picture.mpp, picture.others
        if best is None and others:
            best, others = others[0][1], others[1:]
        scale = choose_mpp(str(path), mpp, best, None, others=others, needed=needs_mpp)

        # Its levels, and what is known of the slide.
        sizes = picture.sizes
        grids = tuple(self._grid(array, size) for array, size in zip(self._arrays, sizes, strict=True))
        info = SlideInfo(
            path=str(path),
            size_l0=sizes[0],
            mpp=scale.mpp,
            mpp_source=scale.source,
            level_sizes=sizes,
            downsamples=downsamples_of(picture, tuple(range(len(sizes)))) or downsamples(sizes),
            tile_px=(int(self._arrays[0].chunks[self._y]), int(self._arrays[0].chunks[self._x])),
            vendor="ome-zarr",
            reader="zarr",
            fingerprint=fingerprint(path),
            series=picture.series,
            parts=picture.parts,
            notes=(*picture.notes, *scale.notes),
            problem=scale.problem,
        )

        # Tiles that cannot be read, and levels that show something else, are found now and not in the middle of a run.
        super().__init__(info, grids, cache_bytes)
        self._refuse_if_unreadable()
        kept = self._proved_levels()
        self._arrays = tuple(self._arrays[k] for k in kept)
        self._planes = tuple(self._planes[k] for k in kept)
        self._grids = tuple(self._grids[k] for k in kept)
        self.info = without_levels(self.info, kept)

    def close(self) -> None:
        """Forget the chunks; Zarr holds no file open."""
        self._cache.clear()

    def _grid(self, array: Any, size: tuple[int, int]) -> Grid:
        tile_h, tile_w = (int(array.chunks[axis]) for axis in (self._y, self._x))
        return Grid(*size, tile_h * max(1, _CHUNK_PX // tile_h), tile_w * max(1, _CHUNK_PX // tile_w))

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        window = self._window_of(key)
        try:
            return self._read(window)
        except ZARR_ERRORS:
            chunks = self._arrays[key[0]].chunks
            return self._piecewise(window, (int(chunks[self._y]), int(chunks[self._x])), self._read, ZARR_ERRORS)

    def _read(self, window: Window) -> RGB:
        """A window inside a level; raises one of ZARR_ERRORS."""
        level, y, x, height, width = window
        array = self._arrays[level]
        index: list[Any] = [self._planes[level].get(axis, 0) for axis in range(array.ndim)]
        index[self._y], index[self._x], index[self._c] = slice(y, y + height), slice(x, x + width), slice(None)
        order = np.argsort(np.argsort([self._y, self._x, self._c]))
        return np.ascontiguousarray(np.asarray(array[tuple(index)]).transpose(tuple(order)))
