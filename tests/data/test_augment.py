import numpy as np
import pytest

from tests.data.made_patches import tissue
from wsistain.data.augment import stain_jitter


def test_strength_0_changes_nothing() -> None:
    he, _ = tissue(0, 32)
    assert stain_jitter(he, 0, np.random.default_rng(0)) is he


def test_the_same_draws_give_the_same_picture_and_others_another() -> None:
    he, _ = tissue(0, 32)
    first, again, other = (stain_jitter(he, 0.7, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape == he.shape
    assert np.abs(first.astype(int) - other).mean() > 1


@pytest.mark.parametrize("seed", range(8))
def test_tissue_stays_where_it_is_and_glass_stays_light(seed: int) -> None:
    he, _ = tissue(seed, 64)
    he[:16] = 255
    out = stain_jitter(he, 1.0, np.random.default_rng(seed))
    # Density as seen by each picture; blocks of 8 px survive the blur.
    before, after = (-np.log10(np.maximum(p, 1) / 255).mean(axis=2).reshape(8, 8, 8, 8).mean((1, 3)) for p in (he, out))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98
    assert out[:10].min() > 255 * 10 ** -(0.12 * 1.2 + 0.01)


def test_a_stronger_setting_moves_colours_further() -> None:
    he, _ = tissue(5, 32)

    def change(strength: float) -> float:
        moved = [stain_jitter(he, strength, np.random.default_rng(s)).astype(int) - he for s in range(20)]
        return float(np.abs(moved).mean())

    assert change(0.2) < change(0.6) < change(1.0)
