import csv

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.color import hed2rgb
from skimage.io import imread

from wsistain.evaluation.registration import register, resample


def made_section(height: int = 260, width: int = 300) -> np.ndarray:
    """Structure density float (h, w): a lobed piece of tissue with holes and texture."""
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.normal(0, 1, (height, width)), 9)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot((y - 120) / 95, (x - 150) / 120) + coarse * 4 < 1
    texture = 0.6 + gaussian_filter(rng.normal(0, 1, (height, width)), 2) * 2
    return np.where(inside, np.clip(texture, 0.1, 2), 0)


def stained(density: np.ndarray, stain: int) -> np.ndarray:
    hed = np.zeros((*density.shape, 3))
    hed[..., stain] = density * 0.08
    hed[..., 0] += density * 0.03
    return (hed2rgb(hed) * 255).round().astype(np.uint8)


def matrix_of(angle_deg: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    a = np.deg2rad(angle_deg)
    return np.array([[np.cos(a) * scale, -np.sin(a), shift[0]], [np.sin(a), np.cos(a) / scale, shift[1]]])


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0, 1.0, (0, 0)), (20, 1.05, (-30, 40)), (-100, 1.0, (30, 290))])
def test_a_known_affine_map_between_two_stains_is_found(angle, scale, shift):
    density = made_section()
    true = matrix_of(angle, scale, shift)
    inverse = np.linalg.inv(np.vstack([true, [0, 0, 1]]))[:2]
    fixed = stained(density, 1)
    moving = stained(np.clip(resample(density, inverse, (330, 330)), 0, None), 2)
    found = register(fixed, moving)
    points = np.array([[60.0, 80], [60, 220], [180, 80], [180, 220], [120, 150]])
    there = points @ true[:, :2].T + true[:, 2]
    assert np.hypot(*(found.map(points) - there).T).max() < 1.5
    assert found.correlation > 0.95 and np.median(found.residual_px) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("marker", ["Ki67", "CD31", "proSPC", "CC10"])
def test_real_serial_sections_are_registered_as_well_as_the_best_affine_fit(real_data, marker):
    folder = real_data / "pairs" / "cima_lung_lesion3"

    def landmarks(name: str) -> np.ndarray:
        with (folder / "landmarks" / f"lesion3_{name}.csv").open() as file:
            return np.array([[float(r["Y"]) / 10, float(r["X"]) / 10] for r in csv.DictReader(file)])

    he, ihc = landmarks("HE"), landmarks(marker)
    found = register(imread(folder / "he" / "lesion3_HE.jpg"), imread(folder / "ihc" / f"lesion3_{marker}.jpg"))
    ones = np.column_stack([he, np.ones(len(he))])
    fit = ones @ np.linalg.lstsq(ones, ihc, rcond=None)[0]
    error, best = np.hypot(*(found.map(he) - ihc).T), np.hypot(*(fit - ihc).T)
    assert np.median(error) < 1.5 * np.median(best)
    assert error.mean() < 1.5 * best.mean()


def test_a_real_serial_section_is_registered_at_reduced_size(real_data):
    folder = real_data / "pairs" / "cima_lung_lesion3"

    def landmarks(name: str) -> np.ndarray:
        with (folder / "landmarks" / f"lesion3_{name}.csv").open() as file:
            return np.array([[float(r["Y"]) / 20 - 0.25, float(r["X"]) / 20 - 0.25] for r in csv.DictReader(file)])

    def half(path):
        picture = imread(path)
        h, w = (n // 2 * 2 for n in picture.shape[:2])
        return picture[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)

    he, ihc = landmarks("HE"), landmarks("CD31")
    found = register(half(folder / "he" / "lesion3_HE.jpg"), half(folder / "ihc" / "lesion3_CD31.jpg"))
    ones = np.column_stack([he, np.ones(len(he))])
    fit = ones @ np.linalg.lstsq(ones, ihc, rcond=None)[0]
    assert np.median(np.hypot(*(found.map(he) - ihc).T)) < 1.5 * np.median(np.hypot(*(fit - ihc).T))


def test_pictures_without_structure_are_refused():
    flat = np.full((100, 100, 3), 240, np.uint8)
    with pytest.raises(ValueError, match="no structure"):
        register(flat, stained(made_section(), 1))


def test_pictures_of_different_tissue_are_refused_instead_of_registered_anyhow():
    noise = (np.random.default_rng(5).random((200, 200)) > 0.5) * 0.5
    with pytest.raises(ValueError, match="agree"):
        register(stained(made_section(), 1), stained(noise, 2))
