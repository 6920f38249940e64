"""Calibration, information and abstention by what must be true of them."""

import numpy as np
import pytest

from wsistain.evaluation.chances import (
    calibration_error,
    entropy,
    errors_by_coverage,
    information,
    recalibrated,
    surprise,
)

RNG = np.random.default_rng(3)
CHANCE = RNG.random(20_000)
POSITIVE = RNG.random(20_000) < CHANCE
GROUPS = np.repeat(np.arange(20), 1000)


def test_true_probabilities_are_calibrated_and_tell_what_they_can():
    assert calibration_error(CHANCE, POSITIVE) < 0.01
    # Mutual information of a uniform probability and its draw: H(1/2) - integral of H(p) = 1 - 1 / (2 ln 2).
    assert information(CHANCE, POSITIVE) == pytest.approx(1 - 1 / (2 * np.log(2)), abs=0.01)


def test_overconfidence_costs_calibration_and_information():
    bold = np.clip(CHANCE * 3 - 1, 0, 1)
    assert calibration_error(bold, POSITIVE) > 0.1
    assert information(bold, POSITIVE) < information(CHANCE, POSITIVE) - 0.1


def test_the_share_alone_tells_nothing_and_the_truth_its_whole_entropy():
    share = np.full(len(POSITIVE), POSITIVE.mean())
    assert information(share, POSITIVE) == pytest.approx(0, abs=1e-9)
    assert information(POSITIVE.astype(float), POSITIVE) == pytest.approx(entropy(POSITIVE.mean()), abs=1e-3)
    assert surprise(np.array([0.25]), np.array([True]))[0] == 2
    assert np.isnan(information(CHANCE[:0], POSITIVE[:0])) and np.isnan(calibration_error(CHANCE[:0], POSITIVE[:0]))


def test_a_score_is_made_a_probability_that_others_would_believe():
    chance = recalibrated(np.exp(3 * CHANCE), POSITIVE, GROUPS)
    assert calibration_error(chance, POSITIVE) < 0.03
    assert information(chance, POSITIVE) == pytest.approx(information(CHANCE, POSITIVE), abs=0.02)


def test_a_score_the_wrong_way_round_and_a_constant_tell_nothing():
    for score in (-CHANCE, np.zeros(len(CHANCE))):
        assert information(recalibrated(score, POSITIVE, GROUPS), POSITIVE) == pytest.approx(0, abs=0.005)


def test_a_slide_is_not_told_by_itself():
    """One slide alone has score and truth the other way round: nobody else's cells say so."""
    score, positive = CHANCE.copy(), CHANCE > 0.5
    positive[GROUPS == 7] = CHANCE[GROUPS == 7] < 0.5
    chance = recalibrated(score, positive, GROUPS)
    assert information(chance[GROUPS == 7], positive[GROUPS == 7]) < -3
    assert information(chance[GROUPS != 7], positive[GROUPS != 7]) > 0.7
    with pytest.raises(ValueError, match="found 1 group"):
        recalibrated(score, positive, np.zeros(len(score)))


def test_leaving_out_what_is_not_trusted_lowers_errors_only_where_trust_knows():
    wrong = RNG.random(len(CHANCE)) < 0.4 * CHANCE
    informed, blind = errors_by_coverage(wrong, -CHANCE), errors_by_coverage(wrong, np.ones(len(wrong)))
    assert informed[0.5] < informed[0.8] < informed[1.0] == pytest.approx(wrong.mean())
    assert blind[0.5] == pytest.approx(blind[1.0]) and blind[0.8] == pytest.approx(blind[1.0])
