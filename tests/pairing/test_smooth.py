import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from wsistain.pairing.smooth import smooth_flow

SIDE, MPP = 200, 4.0


def section(seed: int = 0) -> np.ndarray:
    """Structure of the size of nests of cells."""
    noise = np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE))
    return np.clip(0.3 + 1.2 * gaussian_filter(noise, 4), 0, None).astype(np.float32)


@pytest.fixture(scope="module")
def stretched() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A section, the same one stretched by up to 6 px, and where its pixels went."""
    y, x = np.indices((SIDE, SIDE), dtype=np.float32)
    flow = np.stack([6 * np.sin(x / 40), 4 * np.cos(y / 45)]).astype(np.float32)
    # The picture of which `flow` finds the first one back: its own field, turned round by fixed-point steps.
    back = np.zeros_like(flow)
    for _ in range(8):
        back = np.stack([-map_coordinates(p, [y + back[0], x + back[1]], order=1, mode="nearest") for p in flow])
    picture = section()
    moved = map_coordinates(picture, [y + back[0], x + back[1]], order=1, mode="nearest")
    return picture, moved, flow


def test_a_smooth_stretch_is_found(stretched):
    picture, moved, flow = stretched
    seen = np.ones_like(picture)
    error = np.hypot(*(smooth_flow(picture, moved, seen, seen, MPP) - flow))[20:-20, 20:-20]
    assert np.median(error) < 0.5 and np.quantile(error, 0.9) < 1.2


def test_what_one_section_lacks_does_not_pull_at_the_other(stretched):
    """A third of the moved section is torn off; its edge would be taken for structure, were it not masked."""
    picture, moved, flow = stretched
    seen = np.ones_like(picture)
    left = seen.copy()
    left[:, 130:] = 0
    beside = (slice(20, -20), slice(90, 120))
    errors = [
        np.median(np.hypot(*(smooth_flow(picture, moved * left, seen, known, MPP) - flow))[beside])
        for known in (left, seen)
    ]
    assert errors[0] < 0.7 and errors[1] > 1.5 * errors[0]


def test_where_there_is_no_structure_the_field_is_that_of_the_surroundings(stretched):
    picture, moved, flow = stretched
    seen, flat = np.ones_like(picture), np.full_like(picture, 0.3)
    assert np.abs(smooth_flow(flat, flat, seen, seen, MPP)).max() < 1e-3
    assert np.abs(smooth_flow(picture, moved, seen, 0 * seen, MPP)).max() == 0
    hole = (slice(85, 115), slice(85, 115))
    pictures = picture.copy(), moved.copy()
    for p in pictures:
        p[hole] = 0.3
    found = smooth_flow(*pictures, seen, seen, MPP)[:, 92:108, 92:108]
    assert np.hypot(*(found - flow[:, 92:108, 92:108])).max() < 4


def test_a_picture_too_small_for_the_coarse_passes_is_left_to_the_fine_ones():
    small = section()[:40, :50]
    found = smooth_flow(small, np.roll(small, 1, axis=0), np.ones_like(small), np.ones_like(small), MPP)
    assert found.shape == (2, 40, 50) and abs(np.median(found[0]) - 1) < 0.3
    assert not smooth_flow(small[:6, :6], small[:6, :6] + 1, *[np.ones((6, 6), np.float32)] * 2, MPP).any()
