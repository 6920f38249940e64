import numpy as np
import pytest
from scipy.linalg import sqrtm

from wsistain.evaluation.distribution import asp_subset, frechet_distance, kernel_distance, squared_mmd


def features(seed: int, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (n, d)) @ np.random.default_rng(9).normal(0, 1, (d, d)) / np.sqrt(d)


def written_formula(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance with a matrix square root, as pytorch-fid computes it."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(ca @ cb).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.trace(root))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 12), (300, 9, 12), (64, 64, 20)])
def test_frechet_distance_equals_the_written_formula(n, m, d):
    a, b = features(0, n, d), features(1, m, d, 0.5)
    assert frechet_distance(a, b) == pytest.approx(written_formula(a, b), rel=1e-5)


def test_frechet_distance_stays_exact_with_fewer_pictures_than_dimensions():
    a, b = features(0, 10, 40), features(1, 14, 40, 1.0)
    jitter = np.eye(40) * 1e-10
    ca, cb = np.cov(a, rowvar=False) + jitter, np.cov(b, rowvar=False) + jitter
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.trace(sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    a = features(0, 500, 6)
    assert frechet_distance(a, a + 2.0) == pytest.approx(6 * 4.0)


def test_squared_mmd_equals_the_sum_over_pairs():
    a, b = features(0, 7, 5), features(1, 9, 5, 0.3)

    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    own = np.mean([kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    other = np.mean([kernel(b[i], b[j]) for i in range(9) for j in range(9) if i != j])
    cross = np.mean([kernel(x, y) for x in a for y in b])
    assert squared_mmd(a, b) == pytest.approx(own + other - 2 * cross)


def test_kernel_distance_is_unbiased_near_zero_and_grows_with_the_shift():
    a, b = features(0, 400, 8), features(1, 400, 8)
    same, spread = kernel_distance(a, b)
    far, _ = kernel_distance(a, features(2, 400, 8, 0.8))
    assert abs(same) < spread and far > 10 * abs(same)
    assert kernel_distance(a, b) == kernel_distance(a, b)
    assert kernel_distance(a, b, seed=1) != kernel_distance(a, b)


def test_the_last_incomplete_batch_is_dropped_as_in_the_authors_script():
    assert len(asp_subset(np.zeros((977, 2)))) == 950
    assert len(asp_subset(np.zeros((1000, 2)))) == 1000
    assert len(asp_subset(np.zeros((37, 2)))) == 37


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(np.zeros((1, 4)), np.zeros((5, 4)))
