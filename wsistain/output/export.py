"""The stain as a pyramidal OME-TIFF that QuPath, OpenSlide, TiffSlide and tifffile open as a brightfield slide.

Layout: one full-size RGB image, tiled, its lower levels in sub-IFDs as the OME-TIFF specification wants. OpenSlide
does not follow sub-IFDs, it looks for reduced images in the main chain of IFDs; the specification forbids the
sub-IFDs themselves there. So the main chain gets copies of them: a few hundred bytes each, for the same tiles.

Source: OME-TIFF specification 6, "Sub-resolutions"; OpenSlide, "Generic tiled TIFF".
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.output.ome_xml import ome_xml
from wsistain.output.reading import StoredStain, open_level, read_stain, read_window
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.runtime.files import is_url, local_path, replacing, reporting
from wsistain.runtime.jpeg import SHARED, VIEWED, check_quality, encode_jpeg

_WINDOW = 2048
"""Columns read at a time, px."""

_CLASSIC_BYTES = 3_500_000_000
"""Uncompressed size above which offsets of 32 bits might not do."""


@dataclass(frozen=True)
class ExportDone:
    """What an export wrote: path, bytes, levels, and whether offsets have 64 bits."""

    path: str
    size: int
    levels: int
    bigtiff: bool


def export_ome_tiff(
    zarr_path: Path | str,
    tiff_path: Path | str,
    *,
    quality: int = VIEWED,
    subsampling: str = "4:4:4",
    lossless: bool = False,
    tile: int = 512,
    overwrite: bool = False,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> ExportDone:
    """Writes a finished stain as an OME-TIFF; what was written.

    quality     : of JPEG, 1 to 100; not used with `lossless`.
    subsampling : of JPEG's colours, "4:4:4", "4:2:2" or "4:2:0"; below 4:4:4 neighbours share them, which smears DAB over its surroundings.
    lossless    : deflate with horizontal differences in place of JPEG; about 5 times the size.
    tile        : edge of the tiles, px, a multiple of 16.
    overwrite   : replace an existing file.
    progress    : called with (tiles done, tiles in all).

    Memory holds a few windows of 2048 px by a row of tiles per thread. Raises OutputError when the input is not a
    finished stain, the output exists or cannot be written, or an argument is out of range.
    """
    target = local_path(tiff_path)
    check_export(quality, tile, threads)
    if subsampling not in SHARED:
        raise OutputError(f"subsampling {subsampling!r} is not known; wanted one of {', '.join(SHARED)}")
    if not target.name.lower().endswith((".tif", ".tiff")):
        raise OutputError(f"{target} does not end in .ome.tif; viewers choose their reader by that name")
    stain = read_stain(zarr_path)
    if target.exists() and not is_url(zarr_path) and target.samefile(zarr_path):
        raise OutputError(f"{target} is the stain itself; choose another name for the export")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; pass --overwrite to replace it or choose another name")
    # Classic or big is decided by the raw size: that of the encoded tiles is known only when it is too late.
    encode = _deflate_tile if lossless else partial(encode_jpeg, quality=quality, subsampling=subsampling)
    raw = sum(3 * -(-h // tile) * -(-w // tile) * tile * tile for h, w in stain.levels)
    bigtiff = raw > _CLASSIC_BYTES
    with reporting(target, retry="export again"), replacing(target) as part:
        with tifffile.TiffWriter(part, bigtiff=bigtiff, ome=False) as writer:
            _write_levels(writer, stain, tile, encode, None if lossless else subsampling, threads, progress)
        # For OpenSlide, which does not follow sub-IFDs.
        _chain_reduced_images(part)
        size = part.stat().st_size
    return ExportDone(str(target), size, len(stain.levels), bigtiff)


def _write_levels(
    writer: tifffile.TiffWriter,
    stain: StoredStain,
    tile: int,
    encode: Callable[[NDArray[np.uint8]], bytes],
    subsampling: str | None,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Every level, finest first; `subsampling` of JPEG, None where tiles are deflated."""
    counted = counting(stain, tile, progress)
    # The full image, then its levels, which the writer puts into sub-IFDs of it.
    for level, (height, width) in enumerate(stain.levels):
        per_cm = 1e4 / (stain.mpp * 2**level)
        array = open_level(stain.path, level)
        writer.write(
            counted(encoded_tiles(array, height, width, tile, encode, threads)),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(tile, tile),
            photometric="ycbcr" if subsampling else "rgb",
            compression="jpeg" if subsampling else "adobe_deflate",
            predictor=not subsampling,
            subsampling=SHARED[subsampling] if subsampling else None,
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            subifds=len(stain.levels) - 1 if level == 0 else None,
            subfiletype=1 if level else 0,
            software=f"wsistain {__version__}",
            description=ome_xml(stain, interleaved=True) if level == 0 else None,
            metadata=None,
        )


def check_export(quality: int, tile: int, threads: int) -> None:
    """OutputError where one of what every export is told is out of range."""
    check_quality(quality)
    if threads < 1:
        raise OutputError(f"threads {threads} is not positive; try 2")
    if tile < 16 or tile % 16:
        raise OutputError(f"tile {tile} is not a multiple of 16 px; try 512")


def counting(
    stain: StoredStain, tile: int, progress: Callable[[int, int], None] | None
) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    """What passes tiles on and tells `progress` how many of those of all levels went by."""
    total = sum(-(-h // tile) * -(-w // tile) for h, w in stain.levels)
    numbers = count(1)

    def counted(tiles: Iterator[bytes]) -> Iterator[bytes]:
        for data in tiles:
            done = next(numbers)
            if progress is not None:
                progress(done, total)
            yield data

    return counted


def encoded_tiles(
    array: zarr.Array,
    height: int,
    width: int,
    tile: int,
    encode: Callable[[NDArray[np.uint8]], bytes],
    threads: int,
) -> Iterator[bytes]:
    """Encoded tiles of a level in row-major order, made on threads a few windows ahead of the writer."""
    step = max(_WINDOW // tile, 1) * tile
    windows = ((y, x) for y in range(0, height, tile) for x in range(0, width, step))

    def work(place: tuple[int, int]) -> list[bytes]:
        pixels = read_window(array, *place, tile, step)
        return [encode(_whole_tile(pixels[:, x : x + tile], tile)) for x in range(0, pixels.shape[1], tile)]

    with thread_pool(threads, "export") as pool:
        for tiles in in_order(pool, work, windows, 2 * threads):
            yield from tiles


def _whole_tile(pixels: NDArray[np.uint8], tile: int) -> NDArray[np.uint8]:
    """Contiguous (tile, tile, 3); beyond the slide the last pixels go on, so that JPEG does not ring at its edge."""
    height, width = pixels.shape[:2]
    if (height, width) != (tile, tile):
        pixels = np.pad(pixels, ((0, tile - height), (0, tile - width), (0, 0)), mode="edge")
    return np.ascontiguousarray(pixels)


def _deflate_tile(pixels: NDArray[np.uint8]) -> bytes:
    """zlib stream of the tile after TIFF's horizontal predictor: each pixel less its left neighbour, mod 256."""
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    return bytes(imagecodecs.deflate_encode(differences.tobytes(), level=3))


def _chain_reduced_images(path: Path) -> None:
    """Appends copies of the sub-IFDs to the main chain of IFDs, where OpenSlide looks for reduced images."""
    # Where the directories lie: the first picture's, then one a reduced level.
    with tifffile.TiffFile(path) as tiff:
        form = tiff.tiff
        first = tiff.pages.first
        offsets = [first.offset, *(first.subifds or ())]
    count_size, entry_size, pointer = form.tagnosize, form.tagsize, form.offsetformat

    # Each is copied to the end of the file and linked from the one before; the tiles stay where they are.
    with path.open("r+b") as handle:
        link = 0
        for offset in offsets:
            handle.seek(offset)
            (entries,) = struct.unpack(form.tagnoformat, handle.read(count_size))
            length = count_size + entries * entry_size
            if offset == first.offset:
                link = offset + length
                continue
            handle.seek(offset)
            directory = handle.read(length)
            handle.seek(0, 2)
            place = handle.tell() + handle.tell() % 2  # directories begin on an even offset
            handle.seek(place)
            handle.write(directory + struct.pack(pointer, 0))
            handle.seek(link)
            handle.write(struct.pack(pointer, place))
            link = place + length
