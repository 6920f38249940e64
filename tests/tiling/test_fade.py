"""Fading to glass: tissue keeps its stain, far glass is blank, and a pixel does not depend on the window."""

import numpy as np
import pytest

from wsistain.slide.tissue import TissueMask
from wsistain.tiling.fade import STEP, fade, fade_lattice, touches


@pytest.fixture
def tissue():
    mask = np.zeros((40, 50), bool)
    mask[12:20, 15:30] = True
    mask[33, 2] = True
    return TissueMask(mask, 16.0)


SHAPE = (640, 790)


def faded(tissue, value=100):
    return fade(np.full((*SHAPE, 3), value, np.uint8), fade_lattice(tissue, SHAPE, 1.0), 0, 0)


def test_tissue_keeps_its_stain_and_far_glass_is_blank(tissue):
    out = faded(tissue)
    is_tissue = np.kron(tissue.mask, np.ones((16, 16), bool))[: SHAPE[0], : SHAPE[1]]
    assert np.all(out[is_tissue] == 100)
    assert np.all(out[:, -100:] == 255)
    assert np.all(out[:, 20 * 16 + 3 * STEP :][12 * 16] >= 100)


def test_the_fade_has_no_step(tissue):
    out = faded(tissue, 0).astype(int)
    assert np.abs(np.diff(out, axis=0)).max() <= 255 / STEP + 1
    assert np.abs(np.diff(out, axis=1)).max() <= 255 / STEP + 1


def test_a_window_equals_the_crop_of_the_whole(tissue):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    lattice = fade_lattice(tissue, SHAPE, 1.0)
    whole = fade(picture.copy(), lattice, 0, 0)
    for y, x, h, w in ((0, 0, 100, 100), (130, 170, 333, 257), (511, 700, 129, 90), (64, 128, 64, 64)):
        assert np.array_equal(fade(picture[y : y + h, x : x + w].copy(), lattice, y, x), whole[y : y + h, x : x + w])


def test_a_slide_of_tissue_is_left_as_it_is():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    everywhere = TissueMask(np.ones((40, 50), bool), 16.0)
    assert np.array_equal(fade(picture.copy(), fade_lattice(everywhere, SHAPE, 1.0), 0, 0), picture)


def test_windows_touch_as_the_mask_says_one_by_one(tissue):
    ys, xs = np.arange(-64.0, 700, 37), np.arange(-64.0, 900, 41)
    many = touches(tissue, ys, xs, 50.0)
    assert many.tolist() == [[tissue.covers(y, x, 50.0, 50.0) for x in xs] for y in ys]
