import numpy as np
import pytest
from skimage.metrics import hausdorff_distance

from wsistain.evaluation.pathology import (
    area_under_curve,
    block_means,
    cell_od,
    precision_recall,
    stain_accuracy,
    stain_mask,
)


def masks() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:60, :80]
    return np.hypot(y - 30, x - 30) < 12, np.hypot(y - 28, x - 36) < 14


def test_overlap_follows_its_definition_and_hausdorff_equals_scikit_image():
    a, b = masks()
    got = stain_accuracy(a, b)
    both, either = (a & b).sum(), (a | b).sum()
    assert got["iou"] == pytest.approx(both / either)
    assert got["dice"] == pytest.approx(2 * both / (a.sum() + b.sum()))
    assert got["sensitivity"] == pytest.approx(both / b.sum())
    assert got["specificity"] == pytest.approx((~a & ~b).sum() / (~b).sum())
    assert got["hausdorff"] == pytest.approx(hausdorff_distance(a, b))
    assert stain_accuracy(a, b, px=4)["hausdorff"] == pytest.approx(4 * got["hausdorff"])


def test_equal_masks_agree_and_empty_masks_are_told_apart():
    a, _ = masks()
    empty = np.zeros_like(a)
    assert stain_accuracy(a, a) == {"dice": 1, "iou": 1, "hausdorff": 0, "sensitivity": 1, "specificity": 1}
    nothing = stain_accuracy(empty, empty)
    assert (nothing["dice"], nothing["iou"], nothing["hausdorff"], nothing["specificity"]) == (1, 1, 0, 1)
    assert np.isnan(nothing["sensitivity"])
    one = stain_accuracy(a, empty)
    assert one["dice"] == one["iou"] == 0 and np.isnan(one["hausdorff"])


def test_masks_are_made_on_means_of_four_pixels():
    od = np.zeros((9, 8), np.float32)
    od[:4, :4] = 0.2
    od[5, 5] = 1.0  # a single dark pixel is no stain
    assert np.array_equal(stain_mask(od, 0.15), [[True, False], [False, False]])
    values = np.arange(64.0).reshape(8, 8)
    assert block_means(values)[1, 0] == values[4:, :4].mean()


def test_cells_are_read_in_their_disc_or_ring():
    y, x = np.mgrid[:64, :64]
    distance = np.hypot(y - 32, x - 32)
    od = np.where(distance <= 5, 0.8, 0.0).astype(np.float32)
    nuclear = cell_od(od, np.array([32.0]), np.array([32.0]), compartment="nuclear", mpp=0.5)
    membrane = cell_od(od, np.array([32.0]), np.array([32.0]), compartment="membranous", mpp=0.5)
    assert nuclear[0] == pytest.approx(0.8) and membrane[0] == 0
    ring = np.where((distance > 6.9) & (distance < 13.1), 0.5, 0.0)
    assert cell_od(ring, np.array([32.0]), np.array([32.0]), compartment="membranous", mpp=0.5)[0] == pytest.approx(0.5)
    assert np.isnan(cell_od(od, np.array([-3.0]), np.array([-3.0]), compartment="nuclear", mpp=0.5)[0])


def test_area_under_curve_counts_ordered_pairs_with_ties_half():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = score[positive][:, None] - score[~positive][None, :]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert area_under_curve(score, positive) == pytest.approx(expected)
    assert area_under_curve(np.arange(10.0), np.arange(10) > 4) == 1
    assert np.isnan(area_under_curve(score, np.zeros(60, bool)))


def test_precision_and_recall_follow_their_definition():
    called, positive = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert precision_recall(called, positive) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert np.isnan(precision_recall(np.zeros(5, bool), positive)[0])
