"""Nuclei of another package's detector come once each, whatever the blocks."""

import numpy as np
import pytest
from scipy import ndimage

from wsistain.errors import ConfigError
from wsistain.reading import detected
from wsistain.reading.cells import measure_nuclei
from wsistain.reading.detected import Detected
from wsistain.reading.detectors import Detector
from wsistain.reading.grid import Box, make_grid
from wsistain.slide.tissue import TissueMask

SIZE = 240


class _Dots:
    """A slide of dark discs, as an open slide of 0.5 um per px."""

    def __init__(self, places, mpp=0.5):
        from wsistain.slide.base import SlideInfo

        rows, cols = np.indices((SIZE, SIZE))
        self.pixels = np.full((SIZE, SIZE, 3), 240, np.uint8)
        for y, x in places:
            self.pixels[np.hypot(rows - y, cols - x) < 7] = 60
        size = (SIZE, SIZE)
        self.info = SlideInfo("p", size, mpp, "given", (size,), (1.0,), (0, 0), "", "picture", "f")
        self.unreadable_tiles = 0

    def read_level(self, level, y, x, height, width):
        out = np.full((height, width, 3), 255, np.uint8)
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + height, SIZE), min(x + width, SIZE)
        if y1 > y0 and x1 > x0:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = self.pixels[y0:y1, x0:x1]
        return out


def dark(rgb):
    return ndimage.label(rgb.mean(axis=2) < 150)[0]


def wandering(rgb):
    """A detector whose outlines depend on what it was shown: on another tile they are a px larger."""
    grown = ndimage.grey_dilation(dark(rgb), 3) if rgb[: detected.MARGIN_PX].mean() < 250 else dark(rgb)
    return grown


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(detected, "TILE_PX", 60)
    monkeypatch.setattr(detected, "MARGIN_PX", 24)


def cells(slide, label, block):
    grid, everywhere = make_grid(slide.info, block=block), TissueMask.everywhere(slide.info)
    source = Detected(Detector("toy", "toy", label), slide, grid, everywhere)
    found = []
    for box in grid.blocks(everywhere):
        wide = box.grown(40)
        labels = source.labels(wide)
        n = measure_nuclei(labels, np.zeros((wide.height, wide.width), np.float32), wide, grid)
        n = n.take(box.holds(n.y / grid.mpp, n.x / grid.mpp))
        found += list(zip(n.y, n.x, n.area_um2, strict=True))
    return np.array(sorted(found))


PLACES = [(30, 30), (30, 60), (60, 60), (61, 119), (59, 90), (120, 120), (179, 181), (150, 60), (200, 30)]


@pytest.mark.parametrize("label", [dark, wandering])
def test_every_nucleus_comes_once_for_any_block_size(small_tiles, label):
    slide = _Dots(PLACES)  # centres on tile borders among them
    whole = cells(slide, label, 1024)
    assert len(whole) == len(PLACES)
    assert whole[:, :2] == pytest.approx((np.array(sorted(PLACES)) + 0.5) * 0.5, abs=1)
    for block in (31, 50):
        assert np.array_equal(cells(slide, label, block), whole)


def test_two_outlines_of_one_nucleus_on_a_border_are_one(small_tiles):
    def leaning(rgb):  # sees everything in the upper half of what it is shown 2 px lower, in the lower half higher
        labels, half = dark(rgb), len(rgb) // 2
        return np.concatenate([np.roll(labels, 2, axis=0)[:half], np.roll(labels, -2, axis=0)[half:]])

    found = cells(_Dots([(60, 30), (119, 90), (61, 150)]), leaning, 1024)
    assert len(found) == 3


def test_a_detector_is_asked_once_for_a_tile_and_not_where_there_is_no_tissue(small_tiles):
    slide = _Dots(PLACES)
    grid = make_grid(slide.info, block=50)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:70, :70] = True
    asked = []
    source = Detected(
        Detector("toy", "toy", lambda rgb: (asked.append(1), dark(rgb))[1]), slide, grid, TissueMask(mask, 1.0)
    )
    for box in (Box(0, 0, 60, 60), Box(0, 0, 120, 120), Box(30, 20, 40, 40)):
        source.labels(box)
    assert len(asked) == 4


def test_a_coarse_slide_is_refused():
    slide = _Dots(PLACES, mpp=1.2)
    with pytest.raises(ConfigError, match="too coarse for toy"):
        Detected(Detector("toy", "toy", dark), slide, make_grid(slide.info), TissueMask.everywhere(slide.info))
