"""The numbers of a picture, on pictures whose numbers are known."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.draw import disk

from wsistain.phantom.compare import (
    find_nuclei,
    fine_power,
    histogram_overlap,
    look_at,
    macenko,
    spectrum_slope,
    table_of,
)

H, E = (np.array(v) / np.linalg.norm(v) for v in ((0.62, 0.70, 0.35), (0.16, 0.85, 0.50)))


def stained(seed=0, size=256):
    """uint8 (size, size, 3): some pixels with haematoxylin alone, some with eosin alone, most with both."""
    rng = np.random.default_rng(seed)
    h, e = rng.uniform(0.3, 1.0, (2, size, size))
    h[:40], e[-40:] = 0, 0
    return np.clip(240 * 10 ** -(h[..., None] * H + e[..., None] * E) - 0.5, 0, 255).astype(np.uint8)


def test_macenko_finds_the_dyes_a_picture_was_made_with():
    first, second = macenko(stained())
    assert first @ H > 0.999 and second @ E > 0.999


def test_macenko_refuses_glass():
    with pytest.raises(ValueError, match="stained pixels"):
        macenko(np.full((64, 64, 3), 240, np.uint8))


@pytest.mark.parametrize("exponent", [-1.5, -3.0])
def test_the_slope_is_that_of_the_noise(exponent):
    rng = np.random.default_rng(1)
    f = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    f[0, 0] = 1
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(512, 512))) * f ** (exponent / 2))
    assert spectrum_slope(noise, 0.5) == pytest.approx(exponent, abs=0.15)


def test_fine_power_counts_what_is_2_to_10_um_long_and_nothing_else():
    x = np.arange(400) * 0.5

    def waves(um):
        return np.repeat((128 + 40 * np.sin(2 * np.pi * x / um))[None].astype(np.uint8), 400, 0)[..., None].repeat(3, 2)

    noise = np.random.default_rng(2).integers(-2, 3, (400, 400, 1))
    power = {um: fine_power(waves(um) + noise, 0.5) for um in (1.2, 5.0, 40.0)}
    assert power[5.0] > max(power[1.2], power[40.0]) + 0.2


def test_nuclei_are_counted_and_measured_in_um():
    picture = np.zeros((400, 400))
    for y in range(40, 400, 80):
        for x in range(40, 400, 80):
            picture[disk((y, x), 8)] = 1.0
    areas = find_nuclei(gaussian_filter(picture, 0.7), 0.5, np.ones((400, 400), bool))
    assert len(areas) == 25
    assert 2 * np.sqrt(np.median(areas) / np.pi) == pytest.approx(8.0, rel=0.12)


def test_overlap_is_one_with_itself_and_zero_with_other_colours():
    one = stained(2)
    assert histogram_overlap([one], [one]) == pytest.approx((1, 1, 1))
    assert max(histogram_overlap([one // 4], [one // 4 + 128])) == 0


def test_what_needs_a_scale_is_left_out_without_one():
    known, unknown = look_at(stained(3), 0.5), look_at(stained(3), None)
    for name, value in asdict(unknown).items():
        assert math.isnan(value) if name in ("nuclei_mm2", "nucleus_um", "slope") else value == asdict(known)[name]
    rows = table_of({"real": [known, unknown], "none": [unknown]}).splitlines()
    assert rows[0] == "| quantity | real (n=2) | none (n=1) |"
    slope = next(r for r in rows if "slope" in r)
    assert slope.endswith("n=1 | - |") and "nan" not in "".join(rows)
