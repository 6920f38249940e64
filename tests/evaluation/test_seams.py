import math

import numpy as np
import pytest

from wsistain.evaluation.seams import SeamCounter, seam_score


def smooth_picture(height: int = 600, width: int = 700) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    plane = 120 + 60 * np.sin(y / 9) * np.cos(x / 11)
    return np.stack([plane, plane + 20, plane - 30], axis=2).astype(np.uint8)


def plain_score(image: np.ndarray, stride: int, offset: int) -> float:
    """The definition, pixel by pixel, without windows."""
    on, off = [], []
    pixels = image.astype(int)
    height, width = image.shape[:2]
    for axis, size in ((0, height), (1, width)):
        for i in range(1, size):
            a, b = np.take(pixels, i - 1, axis), np.take(pixels, i, axis)
            seen = ~((a == 255).all(-1) & (b == 255).all(-1))
            (on if (i - offset) % stride == 0 else off).extend(np.abs(a - b)[seen].ravel())
    return float(np.mean(on) / np.mean(off))


def test_a_picture_without_tiles_scores_about_one():
    assert seam_score(smooth_picture(), 128) == pytest.approx(1.0, abs=0.1)


def test_a_brightness_step_on_every_border_raises_the_score_only_for_the_right_grid():
    image = smooth_picture().astype(int)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    image += (((y // 128) + (x // 128)) % 2 * 12)[..., None]
    image = image.astype(np.uint8)
    assert seam_score(image, 128) > 3
    assert seam_score(image, 128, offset=64) < 1.1


@pytest.mark.parametrize(("stride", "offset"), [(128, 0), (97, 13), (64, -5)])
def test_the_streamed_score_equals_the_definition(stride, offset):
    image = np.random.default_rng(1).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    image[20:40, 30:60] = 255
    stride = stride // 4
    assert seam_score(image, stride, offset) == pytest.approx(plain_score(image, stride, offset), rel=1e-12)


def test_bands_layout_and_window_width_do_not_change_the_score(monkeypatch):
    image = np.random.default_rng(2).integers(0, 256, (533, 301, 3)).astype(np.uint8)
    whole = seam_score(image, 100, 7)
    assert seam_score(np.moveaxis(image, 2, 0), 100, 7) == whole
    assert seam_score((image[y : y + 41] for y in range(0, 533, 41)), 100, 7) == whole
    monkeypatch.setattr("wsistain.evaluation.seams.WINDOW_PX", 64)
    monkeypatch.setattr("wsistain.evaluation.seams.BAND_PX", 1)
    assert seam_score(image, 100, 7) == whole


def test_glass_does_not_dilute_the_score():
    image = smooth_picture(256, 256)
    padded = np.full((1024, 1024, 3), 255, np.uint8)
    padded[:256, :256] = image
    framed = padded[:257, :257]
    assert seam_score(padded, 64) == seam_score(framed, 64)


def test_a_flat_picture_and_one_without_borders_have_no_score():
    assert math.isnan(seam_score(np.full((50, 50, 3), 9, np.uint8), 10))
    assert math.isnan(seam_score(smooth_picture(40, 40), 100))
    assert math.isnan(seam_score(iter(()), 10))


def test_constant_tiles_of_two_colours_have_an_infinite_score():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 50
    assert seam_score(image, 10) == math.inf


def test_wrong_shapes_and_strides_are_refused():
    with pytest.raises(ValueError, match="RGB image"):
        seam_score(np.zeros((10, 10), np.uint8), 4)
    with pytest.raises(ValueError, match="stride of 1"):
        seam_score(np.zeros((10, 10, 3), np.uint8), 1)
    with pytest.raises(ValueError, match="wanted a band"):
        SeamCounter(8, 4).add(np.zeros((2, 9, 3), np.uint8))


def test_the_local_score_ignores_blocks_that_a_jpeg_leaves_on_every_eighth_line():
    rng = np.random.default_rng(3)
    image = smooth_picture(512, 512).astype(int)
    blocks = rng.integers(-6, 7, (64, 64)).repeat(8, axis=0).repeat(8, axis=1)
    image = (image + blocks[..., None]).clip(0, 254).astype(np.uint8)
    counter = SeamCounter(512, 128, (0, 32))
    counter.add(image)
    assert counter.score > 1.5
    assert counter.local_score == pytest.approx(1, abs=0.15)
    stepped = image.copy()
    stepped[:, 128:256] = (stepped[:, 128:256].astype(int) + 40).clip(0, 254)
    counter = SeamCounter(512, 128, (0, 32))
    counter.add(stepped)
    assert counter.local_score > 1.3


def test_overlapping_tiles_have_two_borders_each():
    image = smooth_picture().astype(int)
    image[:, 32:] += 30
    image = image.clip(0, 254).astype(np.uint8)
    assert seam_score(image, 1000, (0, 32)) > 3 > seam_score(image, 1000, 20)
