"""Nuclei are found where they are, each once, whatever the blocks."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tests.reading.made import MPP, as_slide, tissue, write_he
from wsistain.reading.blocks import read_blocks
from wsistain.reading.cells import cell_ids, measure_nuclei
from wsistain.reading.grid import Box, make_grid
from wsistain.reading.nuclei import NucleusMaps, find_centres, label_nuclei, largest_pieces, twice_as_fine
from wsistain.reading.regions import Regions
from wsistain.reading.sources import Found
from wsistain.slide.tissue import TissueMask


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    opened = as_slide(write_he(tmp_path_factory.mktemp("he")))
    yield opened
    opened.close()


class _NoStain:
    """Reads nothing: the cells alone are of interest."""

    def read(self, nuclei, labels, box, every):
        return None


def cells_of(slide, block, threads=1):
    grid, everywhere = make_grid(slide.info, block=block), TissueMask.everywhere(slide.info)
    source = Found(NucleusMaps(slide, grid, everywhere), grid)
    blocks = list(grid.blocks(everywhere))
    parts = list(read_blocks(slide, grid, everywhere, source, [_NoStain()], Regions(), blocks, threads))
    nuclei = [rows[0].nuclei for rows in parts]
    names = ("y", "x", "area_um2", "elongation", "haematoxylin", "contour")
    joined = {name: np.concatenate([getattr(n, name) for n in nuclei]) for name in names}
    order = np.argsort(cell_ids(joined["y"], joined["x"]))
    return {name: values[order] for name, values in joined.items()}


def test_any_block_size_gives_the_same_cells_bit_for_bit(slide):
    whole = cells_of(slide, 1024)
    assert len(whole["y"]) > 100
    for block, threads in ((61, 1), (100, 3)):
        found = cells_of(slide, block, threads)
        assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_nuclei_are_found_where_the_phantom_has_them(slide):
    found, table = cells_of(slide, 1024), tissue()[2]
    y, x = ((table[name].to_numpy() + 0.5) * MPP for name in ("y_px", "x_px"))
    distance, _ = cKDTree(np.stack([found["y"], found["x"]], 1)).query(np.stack([y, x], 1))
    assert (distance < 4).mean() > 0.9
    distance, _ = cKDTree(np.stack([y, x], 1)).query(np.stack([found["y"], found["x"]], 1))
    assert (distance < 4).mean() > 0.75  # thin slices of nuclei are in no table
    assert 20 < np.median(found["area_um2"]) < 70


def test_a_disc_is_measured_as_a_disc():
    grid = make_grid(_Info())
    box = Box(200, 300, 40, 40)
    rows, cols = np.indices((80, 80))
    disc = (np.hypot(rows - 30, cols - 41) < 12).astype(np.int32)
    nuclei = measure_nuclei(disc, np.full((40, 40), 0.25, np.float32), box, grid)
    assert nuclei.y[0] == pytest.approx(200 + 30.5 / 2) and nuclei.x[0] == pytest.approx(300 + 41.5 / 2)
    assert nuclei.area_um2[0] == disc.sum() / 4 and nuclei.elongation[0] == pytest.approx(1)
    assert nuclei.haematoxylin[0] == 0.25
    corners = nuclei.contour[0].astype(float)
    assert np.hypot(corners[:, 0] - nuclei.y[0], corners[:, 1] - nuclei.x[0]) == pytest.approx(6, abs=0.4)
    y, x = corners.T
    assert abs((y * np.roll(x, -1) - x * np.roll(y, -1)).sum() / 2) == pytest.approx(nuclei.area_um2[0], rel=1e-3)


class _Info:
    """What `make_grid` reads of a slide."""

    mpp, size_l0, downsamples, level_sizes = 1.0, (1000, 1000), (1.0,), ((1000, 1000),)


def test_equal_neighbours_are_one_nucleus_and_the_first_stays():
    centre = np.zeros((9, 9), np.uint16)
    centre[4, 4:6] = 60000
    assert find_centres(centre, 1.0, Box(0, 0, 9, 9)).shape == (1, 2)
    centre[4, 8] = 60000
    assert len(find_centres(centre, 1.0, Box(0, 0, 9, 9))) == 2


def test_of_a_label_in_pieces_the_largest_is_kept():
    labels = np.zeros((5, 8), np.int32)
    labels[0, 0], labels[2:4, 3:6], labels[0, 7], labels[4, 0] = 1, 1, 2, 2
    kept = largest_pieces(labels)
    assert kept[0, 0] == 0 and (kept == 1).sum() == 6
    assert kept[0, 7] == 2 and kept[4, 0] == 0  # of equal ones the first


def test_a_finer_map_is_linear_and_exact():
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
    fine = twice_as_fine(values) / 16
    assert fine.shape == (6, 8) and fine[3, 3] == pytest.approx(0.75**2 * 500 + 0.1875 * (600 + 900) + 0.0625 * 1000)
    assert (label_nuclei(np.zeros((3, 4), np.uint16), np.zeros((0, 2)), 1.0, Box(0, 0, 3, 4)) == 0).all()
