import numpy as np
import pytest

from wsistain.errors import ConfigError
from wsistain.markers import find_marker
from wsistain.optics.scoring import count_stain, stain_od
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import TissueMask
from wsistain.viewing.frame import Frame
from wsistain.viewing.pictures import SlidePicture
from wsistain.viewing.scores import Tissue, holds, ring_of, score_area

ER = find_marker("ER")


@pytest.fixture(scope="module")
def stain(case):
    return SlidePicture(open_slide(case.er))


def everywhere(frame):
    return Tissue(TissueMask(np.ones((88, 117), bool), 8.0), frame)


def test_scores_of_a_rectangle_are_those_of_its_pixels(case, stain):
    found = score_area(stain, everywhere(stain.frame), ER, ring_of([[100, 75], [250, 75], [250, 200], [100, 200]]))
    pixels = case.picture[150:400, 200:500]
    counts = count_stain(stain_od(pixels), ER.cutoffs)
    assert found["positive_fraction"] == pytest.approx(counts.positive_fraction, rel=1e-12)
    assert found["h_score"] == pytest.approx(counts.h_score, rel=1e-12)
    assert found["area_mm2"] == found["tissue_mm2"] == pytest.approx(250 * 300 * 0.25e-6)


def test_an_area_over_blocks_is_the_sum_of_its_parts_and_glass_does_not_count(stain, monkeypatch):
    ring = ring_of([[50.13, 50.27], [400.31, 80.11], [300.17, 340.23]])
    whole = score_area(stain, everywhere(stain.frame), ER, ring)
    monkeypatch.setattr("wsistain.viewing.scores._EDGE", 100)
    assert score_area(stain, everywhere(stain.frame), ER, ring) == whole
    none = Tissue(TissueMask(np.zeros((88, 117), bool), 8.0), stain.frame)
    assert score_area(stain, none, ER, ring)["positive_fraction"] is None


def test_the_tissue_of_another_frame_lies_where_it_is(stain):
    mask = np.zeros((20, 30), bool)
    mask[5:10, 6:12] = True  # um: y 40..80, x 48..96 of a slide of 0.5 um and a mask of 8 um
    tissue = Tissue(TissueMask(mask, 16.0), Frame(320, 480, 0.5))
    region = Frame(200, 200, 1.0, 20.0, 30.0)
    rows, cols = np.nonzero(tissue.window(region, 0, 0, 200, 200))
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (20, 60, 18, 66)


@pytest.mark.parametrize(
    "area",
    [None, [], [[0, 0], [1, 1]], [[0, 0], [1], [2, 2]], [["a", 0], [1, 1], [2, 0]], [[0, 0], [1e300, 0], [0, float("nan")]],
     [[0, 0]] * 30_000, {"x": 1}, [[0, 0], [10**400, 1], [2, 2]]],
)  # fmt: skip
def test_what_is_no_area_is_refused_in_words(area):
    with pytest.raises(ConfigError, match="wanted 3 to"):
        ring_of(area)


def test_an_area_beside_the_stain_or_too_large_is_refused(stain, monkeypatch):
    with pytest.raises(ConfigError, match="does not touch"):
        score_area(stain, everywhere(stain.frame), ER, ring_of([[-90, -90], [-50, -90], [-50, -50]]))
    monkeypatch.setattr("wsistain.viewing.scores.MOST_PX", 1000)
    with pytest.raises(ConfigError, match="draw a smaller one"):
        score_area(stain, everywhere(stain.frame), ER, ring_of([[0, 0], [300, 0], [300, 300]]))


def test_points_are_inside_as_pixels_are():
    star = ring_of([[0, 10], [20, 10], [3, 20], [10, 0], [17, 20]])
    y, x = (v.ravel().astype(float) + 0.5 for v in np.mgrid[:22, :22])
    from wsistain.slide.roi import inside

    assert np.array_equal(holds(star, y, x), inside(star, (22, 22)).ravel())
