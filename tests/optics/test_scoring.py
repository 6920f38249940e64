import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2gray, rgb2hed

from wsistain.optics.scoring import dab_od, fiji_dab, h_score, integrated_density, positive_fraction


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
    assert np.abs(dab_od(rgb) - expected).max() < 1e-4


def test_glass_has_no_stain_and_brown_has_more_than_blue():
    white = np.full((2, 2, 3), 255, np.uint8)
    assert dab_od(white).max() == 0 and integrated_density(white) == 0 and (fiji_dab(white) == 255).all()
    brown, blue = (np.full((1, 1, 3), c, np.uint8) for c in ((120, 75, 45), (110, 115, 180)))
    assert dab_od(brown) > 0.3 > 0.05 > dab_od(blue)
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
    assert positive_fraction(od) == 0.75
    assert h_score(od) == pytest.approx(25 * 1 + 25 * 2 + 25 * 3)
    assert h_score(np.full(5, 2.0)) == 300 and h_score(np.zeros(5)) == 0
    assert np.isnan(h_score(np.array([]))) and np.isnan(positive_fraction(np.array([])))
