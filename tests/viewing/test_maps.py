import numpy as np
import pytest

from wsistain.markers import find_marker
from wsistain.optics.scoring import stain_od
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import TissueMask, find_tissue
from wsistain.viewing.frame import Frame
from wsistain.viewing.maps import (
    GRADES,
    Affine,
    DifferencePicture,
    PositivityPicture,
    WarpedPicture,
    tissue_picture,
)
from wsistain.viewing.pictures import SlidePicture

ER = find_marker("ER")


@pytest.fixture(scope="module")
def stain(case):
    return SlidePicture(open_slide(case.er))


def test_positive_pixels_are_those_of_the_one_definition(case, stain):
    tile = PositivityPicture(stain, ER).tile(0, 0, 0)
    od = stain_od(case.picture[:512, :512])
    grades = sum((od >= cutoff).astype(int) for cutoff in ER.cutoffs)
    assert np.array_equal(tile[..., 3] > 0, grades > 0) and (grades > 0).any()
    for grade, (_, colour) in enumerate(GRADES, 1):
        assert (tile[grades == grade][:, :3] == colour).all()


@pytest.mark.parametrize("k", [1, 2])
def test_further_out_the_opacity_is_the_share_that_is_positive(case, stain, k):
    tile = PositivityPicture(stain, ER).tile(k, 0, 0)
    step = 1 << k
    positive = stain_od(case.picture) >= ER.cutoffs[0]
    h, w = (n // step * step for n in positive.shape)
    share = positive[:h, :w].reshape(h // step, step, w // step, step).mean(axis=(1, 3))
    assert np.abs(tile[: h // step, : w // step, 3] / 190 - share[: tile.shape[0], : tile.shape[1]]).max() < 0.01


def test_another_slide_lies_where_the_affine_map_says(case, stain):
    real = SlidePicture(open_slide(case.slide))
    same = WarpedPicture(real, stain.frame, Affine(np.eye(2), np.zeros(2)))
    assert np.array_equal(same.tile(0, 0, 0), case.picture[:512, :512])
    turned = WarpedPicture(real, stain.frame, Affine(np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2)))  # transposed
    assert np.array_equal(turned.read(0, 100, 50, 200, 300), case.picture.transpose(1, 0, 2)[100:300, 50:350])
    away = WarpedPicture(real, stain.frame, Affine(np.eye(2), np.array([1e5, 0.0])))
    assert (away.tile(0, 0, 0) == 255).all()
    coarse = WarpedPicture(real, stain.frame, Affine(np.eye(2), np.zeros(2))).tile(2, 0, 0)
    assert np.array_equal(coarse, real.tile(2, 0, 0))


def test_the_difference_is_clear_where_stains_agree_and_says_which_is_stronger(case, stain):
    real = SlidePicture(open_slide(case.slide))
    same = WarpedPicture(real, stain.frame, Affine(np.eye(2), np.zeros(2)))
    assert DifferencePicture(stain, same, ER).tile(0, 0, 0)[..., 3].max() == 0
    away = WarpedPicture(real, stain.frame, Affine(np.eye(2), np.array([1e5, 0.0])))
    stronger = DifferencePicture(stain, away, ER)
    tile = stronger.tile(0, 0, 0)
    assert tile[..., 3].max() > 20 and (tile[tile[..., 3] > 5][:, :3] == (204, 51, 17)).all()
    wide = np.concatenate([stronger.tile(0, 0, 0), stronger.tile(0, 0, 1)], axis=1)[..., 3].astype(int)
    steps = np.abs(np.diff(wide, axis=1))
    assert steps[:, 511].max() <= steps.max(initial=0, where=np.arange(929) != 511) + 1  # no seam between tiles


def test_the_outline_of_the_tissue_lies_on_its_edge(case):
    slide = open_slide(case.slide)
    mask = find_tissue(slide)
    picture = tissue_picture(mask, Frame(700, 930, 0.5), "1")
    assert picture.frame.mpp == pytest.approx(0.5 * mask.downsample)
    tile = picture.tile(0, 0, 0)
    assert (tile[~mask.mask][:, 3] == 0).all() and tile[..., 3].max() == 255
    inner = tissue_picture(TissueMask(np.ones((20, 20), bool), 16.0), Frame(320, 320, 0.5), "1").tile(0, 0, 0)
    assert (inner[1:-1, 1:-1, 3] == 0).all() and (inner[0, :, 3] == 255).all()
