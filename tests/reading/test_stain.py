"""The stain at each cell: in the right compartment, in the right place, and by the package's cut-offs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from wsistain.config import OutputConfig
from wsistain.markers import find_marker
from wsistain.output.layout import OutputSpec
from wsistain.output.metadata import write_metadata
from wsistain.output.reading import read_stain
from wsistain.output.store import create_output
from wsistain.reading.cells import measure_nuclei
from wsistain.reading.grid import FINE, Box, make_grid
from wsistain.reading.membranes import MEMBRANES
from wsistain.reading.stain import NOT_READ, StainReader, classed_by_membranes, grades, positive_from

BROWN, PALE = (120, 75, 45), (230, 228, 235)
INFO = SimpleNamespace(mpp=1.0, size_l0=(200, 200), downsamples=(1.0,), level_sizes=((200, 200),))


def stain_of(folder, pixels, *, mpp, origin):
    """A finished stain whose level 0 holds `pixels`, its corner at `origin` um."""
    height, width = pixels.shape[:2]
    storage = OutputConfig(chunk=64, shard=128)
    spec = OutputSpec(str(folder / "s.ome.zarr"), height, width, mpp, block=128, storage=storage, origin_um=origin)
    create_output(spec)
    write_metadata(spec, {"marker": "ER"}, "s")
    zarr.open_array(spec.path, path="0", mode="r+")[:] = pixels.transpose(2, 0, 1)
    return read_stain(spec.path)


def cells_at(places, box, radius=5.0):
    labels = np.zeros((FINE * box.height, FINE * box.width), np.int32)
    rows, cols = np.indices(labels.shape)
    for k, (y, x) in enumerate(places):
        labels[np.hypot((rows + 0.5) / FINE + box.y - y, (cols + 0.5) / FINE + box.x - x) < radius] = k + 1
    return labels, measure_nuclei(labels, np.zeros((box.height, box.width), np.float32), box, make_grid(INFO))


@pytest.mark.parametrize("mpp", [0.5, 0.8])
def test_a_region_s_stain_is_read_where_it_lies(tmp_path, mpp):
    origin = (40 * mpp, 24 * mpp)
    y, x = (np.arange(160)[:, None] + 0.5) * mpp + origin[0], (np.arange(160) + 0.5) * mpp + origin[1]
    pixels = np.empty((160, 160, 3), np.uint8)
    pixels[:] = PALE
    pixels[np.hypot(y - 60, x - 50) < 6] = BROWN
    stain = stain_of(tmp_path, pixels, mpp=mpp, origin=origin)
    assert stain.origin_um == pytest.approx(origin)
    reader = StainReader(stain, find_marker("ER"), make_grid(INFO))
    for box in (Box(10, 10, 120, 120), Box(45, 33, 40, 40)):
        labels, nuclei = cells_at([(60, 50), (60, 64)], box)
        found = reader.read(nuclei, labels, box)
        assert found.od[0] > 0.4 > 0.1 > found.od[1] and found.grade[0] >= 2 and found.grade[1] == 0


def test_what_was_not_stained_is_not_negative(tmp_path):
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[:, :50] = BROWN
    reader = StainReader(stain_of(tmp_path, pixels, mpp=1.0, origin=(0, 0)), find_marker("ER"), make_grid(INFO))
    box = Box(0, 0, 200, 200)
    labels, nuclei = cells_at([(50, 20), (50, 80), (150, 150)], box)  # stained, glass, outside the stain
    found = reader.read(nuclei, labels, box)
    assert found.grade[0] > 0 and found.grade[1] == found.grade[2] == NOT_READ and np.isnan(found.od[1:]).all()
    far = Box(120, 120, 60, 60)
    labels, nuclei = cells_at([(150, 150)], far)
    assert reader.read(nuclei, labels, far).grade.tolist() == [NOT_READ]


def test_own_cutoffs_of_her2_count_in_place_of_its_membranes():
    her2 = find_marker("HER2")
    own = her2.model_copy(update={"cell_cutoffs": (0.03, 0.05, 0.08)})
    assert classed_by_membranes(her2) and not classed_by_membranes(own) and not classed_by_membranes(find_marker("ER"))
    assert positive_from(her2) == MEMBRANES[1][0] and positive_from(own) == own.positive_cell_od


def test_a_membrane_is_read_in_its_ring_and_told_complete(tmp_path):
    rows, cols = np.indices((100, 200)) + 0.5
    pixels = np.empty((100, 200, 3), np.uint8)
    pixels[:] = PALE
    ring = np.abs(np.hypot(rows - 50, cols - 50) - 5) < 1
    half = (np.abs(np.hypot(rows - 50, cols - 150) - 5) < 1) & (cols < 150)
    pixels[ring | half] = BROWN
    reader = StainReader(stain_of(tmp_path, pixels, mpp=1.0, origin=(0, 0)), find_marker("HER2"), make_grid(INFO))
    box = Box(0, 0, 200, 200)
    labels, nuclei = cells_at([(50, 50), (50, 150), (50, 100)], box, radius=3)
    found = reader.read(nuclei, labels, box)
    assert found.complete[0] == 1 and 0.4 < found.complete[1] < 0.7 and found.complete[2] == 0
    assert found.grade[0] == 3 and found.grade[2] == 0
    # the densest of its directions tell how dense it is, and of the second half of them are there
    assert found.dense[0] == pytest.approx(found.dense[1], rel=0.1) and found.dense[0] > 0.4 > 10 * found.dense[2]
    assert found.deciding is found.membrane and found.membrane[0] > 0.3


@pytest.mark.parametrize("name", ["ER", "HER2"])
def test_grades_are_the_registry_s(name):
    marker = find_marker(name)
    at = np.array([0.0, *marker.at_cells, np.nan])
    assert grades(at, marker).tolist() == [0, 1, 2, 3, NOT_READ]
    assert (grades(at[:-1], marker) >= marker.cell_positive).tolist() == (at[:-1] >= marker.positive_cell_od).tolist()


@pytest.mark.parametrize("name", ["ER", "HER2"])
def test_the_generators_own_probability_is_read_where_the_run_kept_it(tmp_path, name):
    pixels = np.full((100, 100, 3), PALE, np.uint8)
    stain = stain_of(tmp_path, pixels, mpp=1.0, origin=(0, 0))
    marker, grid, box = find_marker(name), make_grid(INFO), Box(0, 0, 200, 200)
    labels, nuclei = cells_at([(30, 20), (30, 80), (150, 150)], box)  # likely, unlikely, outside the stain
    assert StainReader(stain, marker, grid).read(nuclei, labels, box).probability is None
    p = np.zeros((1, 100, 100), np.uint8)
    p[:, :, :50], p[:, :, 50:] = 204, 51
    zarr.create_array(f"{stain.path}/probability", name="0", data=p, chunks=(1, 64, 64))
    kept = replace(stain, provenance={**stain.provenance, "layers": ["probability"]})
    found = StainReader(kept, marker, grid).read(nuclei, labels, box).probability
    assert found[:2] == pytest.approx([0.8, 0.2]) and np.isnan(found[2])
    far = Box(120, 120, 60, 60)
    labels, nuclei = cells_at([(150, 150)], far)
    assert np.isnan(StainReader(kept, marker, grid).read(nuclei, labels, far).probability).all()
