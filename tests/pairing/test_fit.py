import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from wsistain.pairing.fit import STEP_UM, Fit, displacement, measure_fit
from wsistain.pairing.sections import Chart
from wsistain.pairing.transform import PieceMap


def texture(side: int = 200) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(0).normal(1, 1, (side, side)), 4).astype(np.float32)


def stay() -> PieceMap:
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    return PieceMap(matrix, matrix, np.zeros(4), np.zeros(2), 50.0, np.zeros((2, 2, 2), np.float32))


def test_a_known_displacement_is_found_to_a_fraction_of_a_pixel():
    a = texture(64)
    b = shift(a, (2.3, -3.6), order=1, mode="wrap")
    assert displacement(a, b, 12) == pytest.approx((2.3, -3.6), abs=0.3)
    assert displacement(a, np.zeros_like(a), 12) is None


def test_residual_and_agreement_tell_what_is_left():
    a, tissue = texture(), np.ones((200, 200), bool)
    tissue[:, 120:] = False
    he = Chart(a, tissue, (0.0, 0.0), 4.0)
    same = measure_fit(he, Chart(a, tissue, (0.0, 0.0), 4.0), stay())
    off = measure_fit(he, Chart(shift(a, (5, 0), order=1, mode="nearest"), tissue, (0.0, 0.0), 4.0), stay())
    known = np.isfinite(same.residual_um)
    assert known.any() and np.isnan(same.agreement[:, -1]).all()
    assert same.residual_um[known].max() < 0.1 and np.nanmin(same.agreement) > 0.999
    assert np.nanmedian(off.residual_um) == pytest.approx(20, abs=1) and np.nanmedian(off.agreement) < 0.9


def test_a_patch_takes_the_windows_whose_centres_lie_in_it():
    residual = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    fit = Fit(residual, np.ones((2, 2), np.float32), (100.0, 100.0))
    assert fit.within(50, 50, 50 + 2 * STEP_UM, 50 + 2 * STEP_UM) == (2.0, 1.0)
    assert fit.within(90, 90, 110, 110) == (1.0, 1.0)
    assert fit.within(220, 220, 240, 240) == (None, 1.0)
    assert fit.within(5000, 5000, 5100, 5100) == (None, None)
