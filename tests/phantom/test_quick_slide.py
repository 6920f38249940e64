"""The small slide for tests and benchmarks."""

import numpy as np

from wsistain.phantom.quick_slide import render_quick, write_quick_slide
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import find_tissue

SHAPE = (700, 900)


def test_a_pixel_has_one_value_whatever_the_window():
    whole = render_quick(0, 0, *SHAPE, shape=SHAPE, mpp=1.0, seed=3)
    part = render_quick(210, 333, 120, 150, shape=SHAPE, mpp=1.0, seed=3)
    gap = np.abs(part.astype(int) - whole[210:330, 333:483])
    assert gap.max() <= 1 and (gap == 0).mean() > 0.999  # float32 rounds another way in another window
    assert not np.array_equal(whole, render_quick(0, 0, *SHAPE, shape=SHAPE, mpp=1.0, seed=4))
    assert (whole == 255).all(axis=2).mean() > 0.05 and whole.min() < 120


def test_a_written_slide_opens_with_its_mpp_and_shows_tissue_on_glass(tmp_path):
    first, second = (
        write_quick_slide(tmp_path / n, height=700, width=900, mpp=1.0, seed=3) for n in ("a.tiff", "b.tiff")
    )
    assert first.read_bytes() == second.read_bytes()
    slide = open_slide(first)
    assert slide.info.size_l0 == SHAPE and abs(slide.info.mpp - 1.0) < 1e-3
    assert 0.1 < find_tissue(slide).share < 0.9
    slide.close()
