"""The cells of a slide block by block: found, measured, read under every stain, and kept until the reading is whole."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsistain.reading.cells import Nuclei, measure_nuclei
from wsistain.reading.grid import Box, Cover, Grid
from wsistain.reading.nuclei import LEAST_UM2, haematoxylin
from wsistain.reading.regions import Regions
from wsistain.reading.sources import CellSource
from wsistain.reading.stain import StainReader
from wsistain.reading.table import Rows
from wsistain.reading.unfinished import KeptBlocks
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.slide.base import Slide
from wsistain.slide.resample import read_window
from wsistain.slide.tissue import TissueMask


def read_blocks(
    slide: Slide,
    grid: Grid,
    tissue: TissueMask,
    source: CellSource,
    readers: Sequence[StainReader],
    regions: Regions,
    blocks: Sequence[Box],
    threads: int = 1,
    kept: KeptBlocks | None = None,
    cover: Cover | None = None,
) -> Iterator[list[Rows]]:
    """The cells of each block, one `Rows` a stain; each cell in the block that holds its centre, once.

    kept  : blocks that are there already are taken from it, the others put into it.
    cover : cells elsewhere are left out; None: none are.
    """

    def one(box: Box) -> list[Rows]:
        wide = box.grown(grid.margin)
        labels = source.labels(wide)
        rgb = read_window(slide, grid.sampling, wide.y, wide.x, wide.height, wide.width)
        every = measure_nuclei(labels, haematoxylin(rgb), wide, grid)
        nuclei = every.take(_here(every, box, grid, tissue))
        if cover is not None:
            nuclei = nuclei.take(cover.holds(nuclei.y, nuclei.x))
        y, x = nuclei.y / grid.um_l0, nuclei.x / grid.um_l0
        region, counted = regions.of(y, x)
        return [Rows(nuclei, reader.read(nuclei, labels, wide, every), region, counted) for reader in readers]

    def once(numbered: tuple[int, Box]) -> list[Rows]:
        number, box = numbered
        if kept is None:
            return one(box)
        rows = kept.load(number)
        if rows is None:
            damaged = slide.unreadable_tiles
            rows = one(box)
            if slide.unreadable_tiles == damaged:  # else it is read again, so that the damage is counted again
                kept.keep(number, rows)
        return rows

    with thread_pool(threads, "read") as pool:
        yield from in_order(pool, once, enumerate(blocks), threads + 1)


def _here(nuclei: Nuclei, box: Box, grid: Grid, tissue: TissueMask) -> NDArray[np.bool_]:
    """Nuclei of this block: centre inside, on tissue and on the slide, not a speck."""
    y, x = nuclei.y / grid.um_l0, nuclei.x / grid.um_l0
    here = box.holds(nuclei.y / grid.mpp, nuclei.x / grid.mpp) & (nuclei.area_um2 >= LEAST_UM2)
    here &= (y < grid.size_l0[0]) & (x < grid.size_l0[1])
    rows = (y / tissue.downsample).astype(np.int64).clip(0, tissue.mask.shape[0] - 1)
    cols = (x / tissue.downsample).astype(np.int64).clip(0, tissue.mask.shape[1] - 1)
    here &= tissue.mask[rows, cols]
    return here
