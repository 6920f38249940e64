import numpy as np
import pytest

from wsistain.evaluation.pathology import area_under_curve
from wsistain.evaluation.summary import SlideBootstrap, mean_estimate, pearson_estimate, summarise, summarise_cells


def slides_of(n: int, per_slide: int) -> list[str]:
    return [f"s{i // per_slide}" for i in range(n)]


def measured(n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    real = {"int_den": rng.uniform(1e4, 9e4, n), "positive_fraction": rng.uniform(0, 0.5, n)}
    values = {
        "int_den": real["int_den"] * 0.8 + rng.normal(0, 5e3, n),
        "positive_fraction": real["positive_fraction"] + rng.normal(0, 0.05, n),
        "r_c": rng.uniform(0.6, 0.9, n),
        "psnr": rng.uniform(12, 16, n),
    }
    return values, real


def test_values_are_the_plain_statistics():
    values, real = measured()
    table = summarise(values, real, slides_of(60, 6))
    assert table["psnr"].value == pytest.approx(values["psnr"].mean())
    r_p = np.corrcoef(values["int_den"], real["int_den"])[0, 1]
    assert table["r_p"].value == pytest.approx(r_p)
    assert table["r_avg"].value == pytest.approx((values["r_c"].mean() + r_p) / 2)
    difference = (values["int_den"] - real["int_den"]).sum() * 1e-7
    assert table["iod"].value == pytest.approx(abs(difference)) and table["iod_signed"].value == pytest.approx(
        difference
    )
    assert table["area_r"].value == pytest.approx(
        np.corrcoef(values["positive_fraction"], real["positive_fraction"])[0, 1]
    )


def test_intervals_hold_the_value_and_are_wider_when_pictures_of_a_slide_agree():
    rng = np.random.default_rng(1)
    by_slide = np.repeat(rng.normal(0, 1, 12), 20)
    slides = slides_of(240, 20)
    clustered = mean_estimate(by_slide, SlideBootstrap(slides))
    shuffled = mean_estimate(rng.permutation(by_slide), SlideBootstrap(slides))
    for estimate in (clustered, shuffled):
        assert estimate.low is not None and estimate.low < estimate.value < estimate.high
    assert clustered.high - clustered.low > 2.5 * (shuffled.high - shuffled.low)


def test_the_interval_of_a_mean_covers_the_truth_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    slides = slides_of(80, 2)
    hits = 0
    for k in range(100):
        values = np.repeat(rng.normal(0, 1, 40), 2) + rng.normal(0, 0.3, 80)
        estimate = mean_estimate(values, SlideBootstrap(slides, draws=300, seed=k))
        hits += estimate.low <= 0 <= estimate.high
    assert 86 <= hits <= 100


def test_infinite_and_missing_values_are_left_out_and_counted():
    values = np.array([1.0, np.inf, np.nan, 3.0])
    estimate = mean_estimate(values, SlideBootstrap(["a", "a", "b", "b"]))
    assert estimate.value == 2 and estimate.n == 2
    assert mean_estimate(np.full(4, np.nan), SlideBootstrap(["a", "a", "b", "b"])).as_json()["value"] is None


def test_without_slides_there_is_no_interval_and_a_reason():
    boot = SlideBootstrap([None] * 5)
    estimate = pearson_estimate(np.arange(5.0), np.arange(5.0) ** 2, boot)
    assert estimate.low is None and estimate.high is None and np.isfinite(estimate.value)
    assert "do not tell" in boot.why_not
    assert "1 slide" in SlideBootstrap(["a", "a"]).why_not


def test_constant_sides_have_no_correlation():
    assert np.isnan(pearson_estimate(np.full(6, 2.0), np.arange(6.0), SlideBootstrap(slides_of(6, 2))).value)


def test_cell_statistics_equal_their_definitions_and_repeat_for_one_seed():
    rng = np.random.default_rng(3)
    positive = rng.random(500) < 0.3
    score = rng.normal(positive * 0.2, 0.1).clip(0).round(3)
    slides = slides_of(20, 5)
    cell_slides = [slides[i % 20] for i in range(500)]
    got = summarise_cells(score, positive, cell_slides, slides, cutoff=0.15)
    assert got["cell_auc"].value == pytest.approx(area_under_curve(score, positive))
    assert got["cell_auc"].low < got["cell_auc"].value < got["cell_auc"].high
    assert got["cell_precision"].value == pytest.approx(positive[score >= 0.15].mean())
    assert got["cell_recall"].value == pytest.approx((score[positive] >= 0.15).mean())
    assert summarise_cells(score, positive, cell_slides, slides, cutoff=0.15) == got
    one_slide = summarise_cells(score, positive, ["s0"] * 500, ["s0"] * 20, cutoff=0.15)
    assert one_slide["cell_auc"].low is None
