"""Our own reader for the TIFF family (SVS, tiled TIFF, OME-TIFF): every stored tile is decoded about once.

tifffile finds the tiles, `os.pread` fetches their bytes from any thread, imagecodecs decodes them outside Python's
lock, and `grid` keeps the decoded ones. The pixels are those of OpenSlide.
"""

import os
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsistain.errors import SlideError
from wsistain.slide.base import RGB, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, without_levels
from wsistain.slide.mpp import Found, choose_mpp
from wsistain.slide.pyramid import downsamples
from wsistain.slide.tiff_codec import DECODE_ERRORS, decode_tile
from wsistain.slide.tiff_structure import TiffLevel, TiffStructure, read_structure

_PROBES = 5
"""Tiles of level 0 tried at open; when none of them can be decoded the slide is refused."""

_TRANSPOSED = (5, 6, 7, 8)
_FLIP_Y = (3, 4, 7, 8)  # after the transpose, where there is one
_FLIP_X = (2, 3, 6, 7)


class TiledTiff(GridSlide):
    """A TIFF-family slide; see `Slide` for what it does. Orientation tags are honoured (OpenSlide ignores them)."""

    def __init__(
        self,
        path: Path,
        *,
        mpp: float | None = None,
        series: int | None = None,
        needs_mpp: bool = True,
        structure: TiffStructure | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Open `path`; `mpp`, `series` and `needs_mpp` as in `open_slide`; `structure` when it has been read already.

        SlideError when it is damaged, not 8-bit RGB, has no usable mpp, or none of the probed tiles can be decoded.
        """
        # Levels and scale, turned as the picture is to be seen.
        structure = read_structure(path, series) if structure is None else structure
        self._levels = structure.levels
        self._orientation = structure.orientation
        stated = [(where, (y, x)) for where, found in structure.stated for y, x in [self._turned(found)]]
        tags = structure.mpp_tags and self._turned(structure.mpp_tags)
        best = stated[0][1] if stated else None
        scale = choose_mpp(str(path), mpp, best, tags, others=tuple(stated[1:]), needed=needs_mpp)
        grids = tuple(self._grid(level) for level in structure.levels)
        sizes = tuple((grid.height, grid.width) for grid in grids)

        # What is known of the slide.
        info = SlideInfo(
            path=str(path),
            size_l0=sizes[0],
            mpp=scale.mpp,
            mpp_source=scale.source,
            level_sizes=sizes,
            downsamples=downsamples(sizes),
            tile_px=(grids[0].tile_h, grids[0].tile_w),
            vendor=structure.vendor,
            reader="tiff",
            fingerprint=fingerprint(path),
            series=structure.series,
            parts=structure.parts,
            notes=(*structure.notes, *scale.notes),
            problem=scale.problem,
            power=structure.power,
        )

        # Tiles that cannot be read, and levels that show something else, are found now and not in the middle of a run.
        super().__init__(info, grids, cache_bytes, reuse_memory=True)
        # Closed with the slide, or when nobody refers to it any more.
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._close = weakref.finalize(self, os.close, self._fd)
        self._probe()
        self._keep_proved_levels()

    def close(self) -> None:
        """Close the file and forget its tiles."""
        self._close()
        self._cache.clear()

    def _turned(self, found: Found) -> Found:
        return found if self._orientation not in _TRANSPOSED else (found[1], found[0])

    def _keep_proved_levels(self) -> None:
        """Leave out levels that show another picture than level 0, as a macro marked as a reduced copy does."""
        kept = self._proved_levels()
        self._levels = tuple(self._levels[k] for k in kept)
        self._grids = tuple(self._grids[k] for k in kept)
        self.info = without_levels(self.info, kept)

    def _grid(self, level: TiffLevel) -> Grid:
        """The tile grid as seen: turned pictures have their cut tiles at the top or left."""
        grid = Grid(level.height, level.width, level.tile_h, level.tile_w)
        if self._orientation in _TRANSPOSED:
            grid = Grid(level.width, level.height, level.tile_w, level.tile_h)
        if self._orientation in _FLIP_Y:
            grid = replace(grid, origin_y=-(-grid.height % grid.tile_h))
        if self._orientation in _FLIP_X:
            grid = replace(grid, origin_x=-(-grid.width % grid.tile_w))
        return grid

    def _stored_index(self, key: TileKey) -> int:
        """Position of a seen tile in the file's row-major tile list."""
        number, row, col = key
        grid, level = self._grids[number], self._levels[number]
        if self._orientation in _FLIP_Y:
            row = -(-grid.height // grid.tile_h) - 1 - row
        if self._orientation in _FLIP_X:
            col = -(-grid.width // grid.tile_w) - 1 - col
        if self._orientation in _TRANSPOSED:
            row, col = col, row
        return row * -(-level.width // level.tile_w) + col

    def _stored(self, level: TiffLevel, index: int, out: RGB | None = None) -> RGB | None:
        """A tile as stored, in `out` where that is given; None when it was never written.

        Raises one of DECODE_ERRORS or OSError.
        """
        parts = []
        for offset, count in zip(level.offsets[:, index].tolist(), level.counts[:, index].tolist(), strict=True):
            if count == 0:
                return None
            data = os.pread(self._fd, count, offset)
            if len(data) != count:
                raise ValueError(f"{count - len(data)} bytes are missing")
            parts.append(data)
        return decode_tile(parts, level, out)

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        level = self._levels[key[0]]
        memory = out if self._orientation == 1 and (level.tile_h, level.tile_w) == self.info.tile_px else None
        try:
            tile = self._stored(level, self._stored_index(key), memory)
        except (*DECODE_ERRORS, OSError):
            self._count_unreadable(*key)
            return None
        if tile is None or self._orientation == 1:
            return tile
        if self._orientation in _TRANSPOSED:
            tile = tile.transpose(1, 0, 2)
        step_y, step_x = (-1 if self._orientation in flips else 1 for flips in (_FLIP_Y, _FLIP_X))
        return np.ascontiguousarray(tile[::step_y, ::step_x])

    def _probe(self) -> None:
        level = self._levels[0]
        written = np.flatnonzero((level.counts > 0).all(axis=0))
        if written.size == 0:
            self.close()
            raise SlideError(f"{self.info.path} holds no tile at full resolution; export it again")
        # A few tiles over all of the level: one that can be decoded is enough.
        reason = ""
        for index in written[np.linspace(0, written.size - 1, min(_PROBES, written.size)).astype(int)].tolist():
            try:
                self._stored(level, index)
                return
            except (*DECODE_ERRORS, OSError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        self.close()
        raise SlideError(f"{self.info.path} cannot be decoded: every tile tried failed ({reason}); export it again")
