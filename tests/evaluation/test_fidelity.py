import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wsistain.evaluation.fidelity import (
    css,
    gray601,
    gray_correlation,
    histogram_correlation,
    psnr,
    ssim,
    ssim_gauss,
    vif_of_many,
)


def vif(reference: np.ndarray, image: np.ndarray) -> float:
    return vif_of_many(reference, [image])[0]


def picture(seed: int, height: int = 90, width: int = 131) -> np.ndarray:
    """Smooth blobs with noise: neither flat nor white noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = sum(
        40 * np.sin(y / rng.uniform(3, 15) + rng.uniform(0, 6)) * np.cos(x / rng.uniform(3, 15)) for _ in range(3)
    )
    image = 150 + plane[..., None] * rng.uniform(0.5, 1.2, 3) + rng.normal(0, 8, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def test_equal_pictures_are_perfect():
    a = picture(0)
    assert psnr(a, a) == float("inf")
    for metric in (ssim, ssim_gauss, vif, histogram_correlation, gray_correlation):
        assert metric(a, a) == pytest.approx(1.0, abs=1e-6)
    assert css(a, a) == (pytest.approx(1.0), pytest.approx(1.0))


def test_similarity_and_psnr_equal_scikit_image():
    a, b = picture(0), picture(1)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), rel=1e-12)
    assert ssim(a, b) == pytest.approx(structural_similarity(a, b, channel_axis=2, data_range=255), abs=1e-7)
    gauss = structural_similarity(
        a, b, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim_gauss(a, b) == pytest.approx(gauss, abs=1e-6)


@pytest.mark.parametrize("pair", ["ab", "ac"])
def test_metrics_equal_the_reference_libraries(vectors, pair):
    file = np.load(vectors / "image_metrics.npz")
    a, b = file["a"], file[pair[1]]
    for name, value in {
        "psnr_u8": psnr(a, b),
        "ssim_u8_color_win7": ssim(a, b),
        "ssim_float01_range1": ssim(a, b),
        "ssim_u8_color_gauss_1.5": ssim_gauss(a, b),
        "sewar_ssim_ws5": css(a, b)[0],
        "sewar_cs_ws5": css(a, b)[1],
        "sewar_ssim_ws11": css(a, b, 11)[0],
        "sewar_cs_ws11": css(a, b, 11)[1],
        "sewar_vifp": vif(a, b),
        "sewar_vifp_swapped": vif(b, a),
        "hist_corr_rgbmean256": histogram_correlation(a, b),
    }.items():
        assert value == pytest.approx(float(file[f"{pair}_{name}"]), rel=3e-6), name
    assert ssim_gauss(a, b) == pytest.approx(float(file[f"{pair}_pytorch_msssim_ssim_255"]), abs=2e-5)
    gray = np.stack([gray601(a)] * 3, axis=2), np.stack([gray601(b)] * 3, axis=2)
    assert histogram_correlation(*gray) == pytest.approx(float(file[f"{pair}_hist_corr_gray256"]), rel=1e-9)
    plain = [p @ np.array([0.299, 0.587, 0.114]) for p in (a, b)]
    expected = float(file[f"{pair}_ssim_gray601_win7_range255"])
    assert structural_similarity(*plain, data_range=255) == pytest.approx(expected, rel=1e-6)
    assert ssim(*gray) == pytest.approx(expected, abs=2e-3)  # 8-bit gray differs from real-valued gray
    light = a / 255, b / 255
    inflated = structural_similarity(*light, channel_axis=2, data_range=2)
    assert inflated == pytest.approx(float(file[f"{pair}_ssim_float01_range2_old_skimage_default"]), rel=1e-9)
    assert inflated > ssim(a, b)


def test_strips_do_not_change_a_number(monkeypatch):
    a, b = picture(0), picture(1)
    before = (ssim(a, b), css(a, b), ssim_gauss(a, b), vif(a, b), psnr(a, b))
    monkeypatch.setattr("wsistain.evaluation.fidelity.STRIP", 1000)
    after = (ssim(a, b), css(a, b), ssim_gauss(a, b), vif(a, b), psnr(a, b))
    for x, y in zip(before, after, strict=True):
        assert x == pytest.approx(y, rel=1e-6)


def test_vif_of_many_is_vif_of_each_and_its_order_matters():
    a, b, c = picture(0), picture(1), picture(2)
    assert vif_of_many(a, [b, c]) == [pytest.approx(vif(a, b)), pytest.approx(vif(a, c))]
    blurred = (a // 2 + 64).astype(np.uint8)
    assert vif(a, blurred) != pytest.approx(vif(blurred, a), rel=0.01)


def test_flat_pictures_have_no_correlation_and_no_information():
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert np.isnan(gray_correlation(flat, picture(0, 64, 64)))
    assert np.isnan(vif(flat, flat))
    assert ssim(flat, flat) == pytest.approx(1.0)


def test_gray_correlation_is_pearson_of_gray_and_inverts_with_the_picture():
    a, b = picture(0), picture(1)
    expected = np.corrcoef(gray601(a).ravel().astype(float), gray601(b).ravel().astype(float))[0, 1]
    assert gray_correlation(a, b) == pytest.approx(expected, abs=1e-6)
    assert gray_correlation(a, 255 - a) == pytest.approx(-1, abs=1e-3)


def test_pictures_of_different_or_too_small_size_are_refused():
    a = picture(0)
    for metric in (psnr, ssim, ssim_gauss, vif, gray_correlation):
        with pytest.raises(ValueError, match="one size"):
            metric(a, a[:-1])
    with pytest.raises(ValueError, match="does not fit"):
        ssim(a[:5], a[:5])
    with pytest.raises(ValueError, match="41 px"):
        vif(a[:40], a[:40])
