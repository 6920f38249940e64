from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.slides import small_config
from tests.reading.made import MPP, SIZE, write_he
from wsistain.output.reading import read_stain
from wsistain.pipeline.run import run
from wsistain.reading.regions import Region
from wsistain.reading.shown import LEAST_CELLS, HePictures, View, outline, picture, positive_map, stain_picture, view_of
from wsistain.slide.reader import open_slide
from wsistain.slide.roi import parse_region


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    """The H&E and the stain of a region of it; the stain shows the H&E as it is."""
    folder = tmp_path_factory.mktemp("region")
    he = write_he(folder)
    (report,) = run(he, "ER", folder, config=small_config(), region=parse_region("100,130,60,90"))
    return he, Path(report.output)


@pytest.mark.parametrize("coarser", [1.0, 2.7])
def test_stain_and_slide_lie_over_each_other_at_one_scale(region, coarser):
    he, stain = open_slide(region[0]), read_stain(region[1])
    view = view_of(stain, he.info.mpp * coarser)
    assert view.mpp == pytest.approx(MPP * coarser) and view.y_um > 0 < view.x_um and view.width * view.mpp < SIZE * MPP
    ours, theirs = picture(he, view).astype(int), stain_picture(stain, view).astype(int)
    assert ours.shape == theirs.shape == (view.height, view.width, 3)

    def unlike(rows: int, cols: int) -> float:
        return float(np.abs(ours - np.roll(theirs, (rows, cols), axis=(0, 1)))[2:-2, 2:-2].mean())

    assert all(unlike(0, 0) < unlike(*step) for step in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    assert coarser > 1 or unlike(0, 0) < 0.5  # the region may begin between px of a coarser grid
    he.close()


def test_the_slide_is_read_once_for_stains_of_one_place(region, monkeypatch):
    he, stain = open_slide(region[0]), read_stain(region[1])
    pictures = HePictures(he)
    first = pictures.of(stain)
    monkeypatch.setattr("wsistain.reading.shown.read_window", None)
    assert pictures.of(stain)[1] is first[1]
    he.close()


def test_squares_hold_the_share_of_their_cells():
    view = View(100.0, 200.0, 1.0, 128, 192)
    n = LEAST_CELLS
    y = np.concatenate([np.full(2 * n, 110.0), np.full(n - 1, 170.0), [0.0]])
    x = np.concatenate([np.full(2 * n, 210.0), np.full(n - 1, 300.0), [0.0]])
    squares, edge = positive_map(view, y, x, np.arange(len(y)) < n)
    assert edge == 64 and squares.share.shape == (2, 3) and squares.edge == 64
    assert squares.share[0, 0] == 0.5 and np.isnan(squares.share).sum() == 5
    wide = View(0.0, 0.0, 100.0, 10, 1000)
    assert max(positive_map(wide, y, x, y > 0)[0].share.shape) <= 120


def test_drawn_areas_lie_in_the_view():
    ring = np.array([[0, 0], [0, 40], [40, 40], [40, 0]], float)
    region = Region("x", ((ring,), (ring * 0.01,)), (), True)
    assert outline(region, View(0.0, 5.0, 1.0, 20, 20), MPP) == "M-5,0 15,0 15,20 -5,20Z"
    assert SIZE * MPP == 160
