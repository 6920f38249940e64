import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2gray, rgb2hed

from wsistain.markers import Chromogen, find_marker
from wsistain.optics.scoring import NONE, count_stain, fiji_dab, integrated_density, stain_od


def colours(n: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, n, 3)).astype(np.uint8)


def fiji_by_hand(pixel: tuple[int, int, int]) -> int:
    """One pixel through Colour Deconvolution's arithmetic, written out."""
    h = np.array([0.650, 0.704, 0.286])
    d = np.array([0.268, 0.570, 0.776])
    h, d = h / np.sqrt((h**2).sum()), d / np.sqrt((d**2).sum())
    third = np.array([np.sqrt(max(0.0, 1 - h[i] ** 2 - d[i] ** 2)) for i in range(3)])
    third /= np.sqrt((third**2).sum())
    light = np.array([-(255 * np.log((v + 1) / 255)) / np.log(255) for v in pixel])
    amount = np.linalg.solve(np.stack([h, d, third]).T, light)[1]
    return int(np.floor(min(255.0, np.exp(-(amount - 255) * np.log(255) / 255)) + 0.5))


def test_dab_density_equals_scikit_image_separation():
    rgb = colours()
    hed = rgb2hed(rgb)
    hed[..., :2] = 0
    expected = np.minimum(-np.log10(np.maximum(rgb2gray(hed2rgb(hed)), 1e-9)), 3)
    assert np.abs(stain_od(rgb) - expected).max() < 1e-4


def test_glass_has_no_stain_and_brown_has_more_than_blue():
    white = np.full((2, 2, 3), 255, np.uint8)
    assert stain_od(white).max() == 0 and integrated_density(white) == 0 and (fiji_dab(white) == 255).all()
    brown, blue = (np.full((1, 1, 3), c, np.uint8) for c in ((120, 75, 45), (110, 115, 180)))
    assert stain_od(brown) > 0.3 > 0.05 > stain_od(blue)
    assert integrated_density(brown) > 5 * integrated_density(blue)


def test_fiji_picture_equals_the_plugin_arithmetic_pixel_by_pixel():
    rgb = colours(12)
    rgb[0, 0] = (0, 0, 0)
    expected = [[fiji_by_hand(tuple(int(v) for v in p)) for p in row] for row in rgb]
    assert np.array_equal(fiji_dab(rgb), np.array(expected))


def test_integrated_density_is_a_sum_over_pixels_with_black_counted_as_half():
    rgb = colours()
    value = fiji_dab(rgb).astype(float)
    assert integrated_density(rgb) == pytest.approx(np.log10(255 / np.maximum(value, 0.5)).sum(), rel=1e-12)
    tiled = np.concatenate([rgb, rgb])
    assert integrated_density(tiled) == pytest.approx(2 * integrated_density(rgb))


def test_positive_fraction_and_h_score_follow_their_definition():
    od = np.array([0.0, 0.15, 0.4, 0.7])
    er = find_marker("ER")
    found = count_stain(od, er.cutoffs)
    assert found.positive_fraction == 0.75 and found.h_score == pytest.approx(25 * 1 + 25 * 2 + 25 * 3)
    assert count_stain(np.full(5, 2.0), er.cutoffs).h_score == 300 and count_stain(np.zeros(5), er.cutoffs).h_score == 0
    assert np.isnan(NONE.h_score) and np.isnan(count_stain(np.array([]), er.cutoffs).positive_fraction)
    half = count_stain(od, er.cutoffs, od < 0.3)
    assert half + count_stain(od, er.cutoffs, od >= 0.3) == found and half.positive_fraction == 0.5
    strict = count_stain(od, (0.3, 0.5, 0.9))
    assert strict.positive_fraction == 0.5 and strict.h_score == 75


def test_another_chromogen_is_measured_by_its_own_colour():
    red = Chromogen(name="fast red", od=(0.21, 0.85, 0.48))
    light = 10.0 ** -np.outer([0.2, 0.6, 1.2], red.od)
    picture = (255 * light).round().astype(np.uint8)[None]
    density = stain_od(picture, red)[0]
    alone = -np.log10(light @ np.array([0.2125, 0.7154, 0.0721]))
    assert density == pytest.approx(alone, rel=0.05)
    assert (stain_od(picture)[0] < 0.75 * density).all()
    blue = np.full((1, 1, 3), (110, 115, 180), np.uint8)
    assert stain_od(blue, red) < 0.1 and integrated_density(picture, red) > integrated_density(picture)
