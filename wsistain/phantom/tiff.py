"""Pyramidal TIFF files written as a stream, in memory that grows with the width of the slide only.

Level 0 is asked for block by block; the lower levels are 2x2 means of what was written and wait, encoded, in a
scratch file until level 0 is finished. OpenSlide, TiffSlide and tifffile open the result.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.runtime.files import replacing, reporting
from wsistain.runtime.jpeg import encode_jpeg

RGB = NDArray[np.uint8]
Window = Callable[[int, int, int, int], RGB]
Compression = Literal["jpeg", "jpeg2000", "deflate", "lzw", "none"]

APERIO_JPEG2000_RGB = 33005
_TAGS: dict[str, Any] = {
    "jpeg": {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
    "jpeg2000": {"compression": APERIO_JPEG2000_RGB, "photometric": "rgb"},
    "deflate": {"compression": "adobe_deflate", "photometric": "rgb"},
    "lzw": {"compression": "lzw", "photometric": "rgb"},
    "none": {"compression": None, "photometric": "rgb"},
}


def encode_tile(tile: RGB, compression: Compression, quality: int) -> bytes:
    """The bytes of one tile as they stand in the file; uint8 (tile, tile, 3) in, nothing is checked."""
    tile = np.ascontiguousarray(tile)
    if compression == "jpeg":
        return encode_jpeg(tile, quality, subsampling="4:2:0")
    if compression == "jpeg2000":
        return bytes(imagecodecs.jpeg2k_encode(tile, level=quality, codecformat="j2k", colorspace="SRGB", mct=False))
    if compression == "deflate":
        return bytes(imagecodecs.zlib_encode(tile.tobytes(), level=6))
    if compression == "lzw":
        return bytes(imagecodecs.lzw_encode(tile.tobytes()))
    return tile.tobytes()


def halve(rgb: RGB) -> RGB:
    """2x2 means, rounded half up; an odd last row or column is repeated first. uint8 (h, w, 3)."""
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    pairs = rgb[0::2].astype(np.uint16) + rgb[1::2]
    return ((pairs[:, 0::2] + pairs[:, 1::2] + 2) >> 2).astype(np.uint8)


class _Level:
    """One level while rows arrive: cuts whole tile rows, encodes them and passes reduced rows on."""

    def __init__(self, shape: tuple[int, int], tile_px: int, encode: Callable[[RGB], bytes]) -> None:
        self.shape, self.tile_px, self.encode = shape, tile_px, encode
        self.rows: list[RGB] = []
        self.n_rows = 0
        self.below: _Level | None = None
        self.halvings = 1
        self.scratch: IO[bytes] | None = None
        self.sizes: list[int] = []

    def feed(self, rows: RGB, *, last: bool) -> Iterator[bytes]:
        """Encoded tiles that `rows` (h, width, 3) completes; `last` closes the level at its bottom."""
        self.rows.append(rows)
        self.n_rows += rows.shape[0]
        step = self.tile_px
        if self.n_rows < step and not last:
            return
        band = np.concatenate(self.rows) if len(self.rows) > 1 else self.rows[0]
        cut = band.shape[0] if last else band.shape[0] // step * step
        self.rows, self.n_rows = ([band[cut:].copy()], band.shape[0] - cut) if cut < band.shape[0] else ([], 0)
        # The reader of this stream stops at the last tile, so nothing may be left to do after it.
        if self.below is not None:
            for y in range(0, cut, step):
                reduced = self._reduced(band[y : min(y + step, cut)])
                for tile in self.below.feed(reduced, last=last and y + step >= cut):
                    self.below.keep(tile)
        for y in range(0, cut, step):
            yield from self._tiles(band[y : min(y + step, cut)])

    def _reduced(self, band: RGB) -> RGB:
        """The rows of the next level, made some tiles at a time: a row of a wide slide is large."""
        assert self.below is not None
        parts = []
        for x in range(0, band.shape[1], 16 * self.tile_px):
            part = band[:, x : x + 16 * self.tile_px]
            for _ in range(self.halvings):
                part = halve(part)
            parts.append(part)
        return np.concatenate(parts, axis=1)[:, : self.below.shape[1]]

    def _tiles(self, band: RGB) -> Iterator[bytes]:
        step = self.tile_px
        for x in range(0, self.shape[1], step):
            tile = band[:, x : x + step]
            if tile.shape[:2] != (step, step):
                tile = np.pad(tile, ((0, step - tile.shape[0]), (0, step - tile.shape[1]), (0, 0)), mode="edge")
            yield self.encode(tile)

    def keep(self, tile: bytes) -> None:
        """Park one encoded tile in the scratch file."""
        assert self.scratch is not None
        self.scratch.write(tile)
        self.sizes.append(len(tile))

    def kept(self) -> Iterator[bytes]:
        """The parked tiles in order."""
        assert self.scratch is not None
        self.scratch.seek(0)
        for size in self.sizes:
            yield self.scratch.read(size)


def level_shapes(shape: tuple[int, int], levels: int | None, downsample: int, tile_px: int) -> list[tuple[int, int]]:
    """(height, width) of each level, 0 first; `levels` None goes down until a level is at most four tiles wide."""
    shapes = [shape]
    while len(shapes) < (levels or 64):
        height, width = shapes[-1]
        if levels is None and max(height, width) <= 4 * tile_px:
            break
        if min(height, width) < 2 * downsample:
            break
        shapes.append((-(-height // downsample), -(-width // downsample)))
    return shapes


def aperio_description(shape: tuple[int, int], mpp: float, tile_px: int, quality: int) -> str:
    """An ImageDescription that readers of Aperio SVS files parse: mpp and objective after the bars."""
    height, width = shape
    return (
        f"Aperio Image Library (wsistain phantom)\r\n{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px}) "
        f"Q={quality}|AppMag = {max(1, round(10 / mpp))}|MPP = {mpp:.6g}"
    )


def _strips(
    shape: tuple[int, int], window: Window, block: tuple[int, int], map_blocks: Callable[..., Iterable[RGB]]
) -> Iterator[tuple[RGB, bool]]:
    height, width = shape
    for y in range(0, height, block[0]):
        h = min(block[0], height - y)
        places = [(y, x, h, min(block[1], width - x)) for x in range(0, width, block[1])]
        strip = np.empty((h, width, 3) if len(places) > 1 else (0, 0, 3), np.uint8)
        for (_, x, _, w), pixels in zip(places, map_blocks(window, *zip(*places, strict=True)), strict=True):
            if pixels.shape != (h, w, 3) or pixels.dtype != np.uint8:
                raise ValueError(f"the window of {(h, w)} px came back as {pixels.dtype} {pixels.shape}")
            if len(places) == 1:
                strip = pixels
            else:
                strip[:, x : x + w] = pixels
        last = y + h == height
        yield strip, last
        del strip, pixels  # a strip of a wide slide is large: never hold two


def _write_page(
    tiff: tifffile.TiffWriter,
    tiles: Iterator[bytes],
    level: _Level,
    mpp: float,
    compression: Compression,
    description: str | None,
    *,
    is_reduced: bool,
) -> None:
    """One level of encoded tiles."""
    tiff.write(
        tiles,
        shape=(*level.shape, 3),
        dtype=np.uint8,
        tile=(level.tile_px, level.tile_px),
        subfiletype=int(is_reduced),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        description=description,
        metadata=None,
        software=False,
        **_TAGS[compression],
    )


def _write_thumbnail(tiff: tifffile.TiffWriter, pixels: RGB, description: str) -> None:
    """In an Aperio file the second picture is a stripped thumbnail, never a level."""
    tiff.write(
        pixels,
        rowsperstrip=16,
        photometric="rgb",
        compression="lzw",
        description=description.split("|")[0],
        metadata=None,
        software=False,
    )


def write_pyramid(
    path: str | Path,
    shape: tuple[int, int],
    mpp: float,
    window: Window,
    *,
    tile_px: int = 256,
    quality: int = 85,
    levels: int | None = None,
    downsample: int = 2,
    compression: Compression = "jpeg",
    description: str | None = None,
    block_px: int = 1024,
    block_width: int | None = None,
    map_blocks: Callable[..., Iterable[RGB]] = map,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Path of a finished pyramidal TIFF; it appears under its name only when complete.

    path        : target; appears in one move.
    shape       : (height, width) of level 0, px.
    mpp         : um per px at level 0, stored in the resolution tags.
    window      : (y, x, h, w) -> uint8 (h, w, 3); asked once for each block of level 0, row by row.
    tile_px     : edge of a native tile, a multiple of 16.
    quality     : 1..100 of JPEG; PSNR in dB of JPEG 2000.
    levels      : number of levels; None: until four tiles or fewer lie along each side.
    downsample  : 2, 4 or 8: level-to-level ratio, by repeated 2x2 means.
    compression : of the tiles; "jpeg2000" is Aperio's code 33005.
    description : ImageDescription; None leaves it out; one that starts with "Aperio" adds the thumbnail of an SVS.
    block_px    : edge of the windows that are asked for, a multiple of `tile_px`.
    block_width : width of those windows where it is another; the slide's own makes one window a strip, uncopied.
    map_blocks  : `map`, or an ordered parallel stand-in; called once a row of blocks, so memory stays bounded.
    progress    : told the number of level-0 rows finished so far.

    Raises OutputError when the file cannot be written, ConfigError on sizes that do not fit.
    """
    if tile_px % 16 or block_px % tile_px or downsample not in (2, 4, 8) or min(shape) < 1 or not mpp > 0:
        raise ConfigError(
            f"tile {tile_px} (a multiple of 16), block {block_px} (a multiple of the tile), downsample {downsample} "
            f"(2, 4 or 8), shape {shape} and mpp {mpp} (positive) do not make a pyramid"
        )
    # The levels as a chain: each hands its rows on, halved, to the next.
    path = Path(path)
    shapes = level_shapes(shape, levels, downsample, tile_px)
    is_aperio = (description or "").startswith("Aperio")
    thumbnail: list[RGB] = []
    step = -(-max(shape) // 512)
    chain = [_Level(s, tile_px, lambda tile: encode_tile(tile, compression, quality)) for s in shapes]
    for upper, lower in pairwise(chain):
        upper.below, upper.halvings = lower, downsample.bit_length() - 1

    def tiles_l0() -> Iterator[bytes]:
        done = 0
        for strip, last in _strips(shape, window, (block_px, block_width or block_px), map_blocks):
            # Every `step`-th row of the slide, wherever the strips end.
            thumbnail.append(strip[-done % step :: step, ::step].copy())
            done += strip.shape[0]
            if progress is not None:
                progress(done)
            encoded = chain[0].feed(strip, last=last)
            # From here on the level alone holds the strip: it lets go of it before the next one is made.
            del strip
            yield from encoded

    # One pass over level 0 makes all levels; the lower ones wait in scratch files, since pages are written one by one.
    with reporting(path, retry="run again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack, replacing(path) as part:
            for level in chain[1:]:
                level.scratch = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            # Classic TIFF ends at 4 GiB.
            big = shape[0] * shape[1] * (3 if compression in ("none", "deflate", "lzw") else 1) > 2**31
            with tifffile.TiffWriter(part, bigtiff=big) as tiff:
                for k, level in enumerate(chain):
                    tiles = tiles_l0() if k == 0 else level.kept()
                    mpp_here = mpp * shape[0] / level.shape[0]
                    # SVS files do not mark their levels.
                    _write_page(
                        tiff, tiles, level, mpp_here, compression, description, is_reduced=k > 0 and not is_aperio
                    )
                    if k == 0 and is_aperio:
                        _write_thumbnail(tiff, np.concatenate(thumbnail), str(description))
    return path
