import numpy as np
import pytest

from wsistain.errors import DataError
from wsistain.optics.dyes import density, gray_to_amount, macenko, measure_dyes, otsu
from wsistain.optics.scoring import stain_od

H, E, D = (np.array(v) / np.linalg.norm(v) for v in ((0.68, 0.65, 0.33), (0.2, 0.88, 0.43), (0.29, 0.53, 0.8)))


def _section(seed: int, brown: float, edge: int = 96):
    """H&E and IHC of round nuclei on a faint ground, a share of them brown; uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:edge, :edge]
    h, d = np.full((edge, edge), 0.04), np.zeros((edge, edge))
    for cy in range(8, edge, 16):
        for cx in range(8, edge, 16):
            inside = np.hypot(y - cy, x - cx) < 5
            h[inside] = 0.5
            if rng.random() < brown:
                h[inside], d[inside] = 0.04, 0.9

    def light(*parts):
        od = sum(a[..., None] * c for a, c in parts) + 0.02
        return np.clip(255 * 10**-od + rng.normal(0, 1, (edge, edge, 3)), 0, 255).astype(np.uint8)

    return light((1.4 * np.maximum(h, 0.5 * d), H), (0.3 * (x + y) / edge, E)), light((h, H), (d, D))


def test_colours_and_amounts_of_made_sections_are_found():
    dyes = measure_dyes(
        [_section(k, 0.4) for k in range(6)], mpp=1.0, positive_od=0.15, cell_od=0.15, compartment="nuclear"
    )
    assert np.abs(np.array(dyes.dab) - D).max() < 0.06
    assert np.dot(dyes.haematoxylin, H) > 0.99
    assert 0.05 < dyes.nucleus < 0.45 and 0.6 < dyes.amplitude < 1.2
    assert abs(dyes.share - 0.4) < 0.12
    rising = np.array(dyes.match)
    assert (np.diff(rising[:, 0]) > 0).all() and (np.diff(rising[:, 1]) >= 0).all()


def _rings(brown: float, amount: float):
    """H&E and IHC of one picture of nuclei in thin rings, a share of them stained; uint8, every picture the same noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:128, :128]
    h, d = np.full((128, 128), 0.03), np.full((128, 128), 0.01)
    for cy in range(10, 128, 18):
        for cx in range(10, 128, 18):
            away = np.hypot(y - cy, x - cx)
            h[away < 4.5] = 0.5
            if rng.random() < brown:
                d += amount * np.exp(-(((away - 6.5) / 0.9) ** 2))

    def light(*parts):
        od = sum(a[..., None] * c for a, c in parts) + 0.02
        return np.clip(255 * 10**-od + rng.normal(0, 1, (128, 128, 3)), 0, 255).astype(np.uint8)

    return light((1.4 * h, H), (0.3 * (x + y) / 128, E)), light((h, H), (d, D))


def test_weak_membranes_count_by_cell_though_no_pixel_passes_the_cut():
    weak, strong = (_rings(0.6, amount) for amount in (0.25, 1.2))
    none = _rings(0.0, 0.0)
    dyes = measure_dyes([weak, strong, none], mpp=1.0, positive_od=0.15, cell_od=0.045, compartment="membranous")
    assert 0.05 < dyes.cell < 0.1 and dyes.positive > 0.25  # less what the clear ground reads
    assert abs(dyes.share - 0.4) < 0.12  # 0.6 of two pictures of three
    assert dyes.cell < dyes.amplitude < 0.7  # of the whole ring, which membranes fill in part


def test_macenko_returns_the_two_dyes_whatever_their_amounts():
    rng = np.random.default_rng(1)
    a = rng.uniform(0.2, 1.2, (4000, 2)) * (rng.random((4000, 2)) < 0.6)
    found = macenko(a @ np.stack([H, D]) + 1e-3, alpha=0.1)
    assert np.abs(found - np.stack([H, D])).max() < 0.02
    with pytest.raises(ValueError, match="stained pixels"):
        macenko(np.zeros((500, 3)))


def test_the_positive_amount_of_dab_is_read_as_positive():
    amount = gray_to_amount(0.15, np.array([0.268, 0.570, 0.776]) / np.linalg.norm([0.268, 0.570, 0.776]))
    light = 10 ** -(amount * np.array([0.27, 0.57, 0.78]) / np.linalg.norm([0.27, 0.57, 0.78]))
    pixel = np.round(255 * light).astype(np.uint8)[None, None]
    assert stain_od(pixel)[0, 0] == pytest.approx(0.15, abs=0.01)
    assert density(pixel).shape == (1, 1, 3)


def test_otsu_parts_two_groups():
    assert 0.2 < otsu(np.concatenate([np.full(700, 0.1), np.full(300, 0.6)])) < 0.6


def test_pictures_without_stain_are_refused_in_a_sentence():
    white = np.full((64, 64, 3), 250, np.uint8)
    with pytest.raises(DataError, match="cannot be measured: only 0 stained pixels"):
        measure_dyes([(white, white)], mpp=1.0, positive_od=0.15, cell_od=0.15, compartment="nuclear")
