"""How parts are combined: what is spoiled, strange or near the cut-off is trusted less; what is not known stays unknown."""

import numpy as np
import pytest

from wsistain.reading.trusted import TrustMap, as_share, as_stored, clearness, combine, spread


def parts(**more):
    values = {"looks": 0.9, "clear": 0.8, "focus": 1.0, "ink": 1.0, "fold": 1.0, "tissue": 1.0} | more
    return {name: as_stored(np.full((1, 1), v)) for name, v in values.items() if v is not None}


def test_a_density_on_the_cut_off_is_in_doubt_and_one_far_from_it_is_not():
    left = clearness(np.array([0.11, 0.11 * 1.5, 0.11 / 1.5, 1.0, 0.0, np.nan]), 0.11)
    assert left[0] == 0 and left[1] == pytest.approx(left[2]) and 0.5 < left[1] < 0.7 and min(left[3], left[4]) > 0.99
    assert np.isnan(left[5])


def test_trust_is_what_training_the_picture_and_the_densities_leave():
    trust, place = combine(parts(focus=0.5), never=False)
    assert trust[0, 0] == pytest.approx(0.9 * 0.8 * 0.5, abs=0.01) and place[0, 0] == pytest.approx(0.45, abs=0.01)
    # Of several flaws of the picture the worst counts, and features stand in the place of looks.
    assert combine(parts(focus=0.5, fold=0.6), never=False)[1][0, 0] == place[0, 0]
    assert combine(parts(features=0.3), never=False)[1][0, 0] == pytest.approx(0.3, abs=0.01)
    # Steadiness is told and does not count; no nucleus is no reason for doubt.
    assert combine(parts(steady=0.1), never=False)[0] == combine(parts(), never=False)[0]
    assert combine(parts(clear=np.nan), never=False)[0][0, 0] == pytest.approx(0.9, abs=0.01)
    assert combine(parts(), never=True)[0][0, 0] == 0


def test_a_good_picture_is_no_reason_for_trust_and_a_bad_one_is_against_it():
    for unknown in (None, np.nan):
        assert np.isnan(combine(parts(looks=unknown), never=False)[0]).all()
        assert combine(parts(looks=unknown, ink=0.2), never=False)[1][0, 0] == pytest.approx(0.2, abs=0.01)
    nothing = {name: np.zeros((1, 1), np.uint8) for name in parts()}
    assert np.isnan(combine(nothing, never=True)[0]).all()


def test_a_cell_is_trusted_by_its_place_and_its_own_density():
    stored = {name: np.repeat(v, 2, axis=1) for name, v in parts(clear=0.1).items()}
    made = TrustMap(as_stored(combine(stored, False)[0]), stored, 32.0, (0.0, 64.0))
    at = np.array([1.0, 1.0, 40.0]), np.array([70.0, 100.0, 70.0])
    trust = made.of_cells(*at, np.array([1.0, 0.11, 1.0]), 0.11)
    assert trust[0] == pytest.approx(0.9, abs=0.01) and trust[1] == 0 and np.isnan(trust[2])
    assert made.at(*at)[0] == pytest.approx(0.09, abs=0.01)
    assert np.array_equal(as_stored(as_share(np.arange(256).astype(np.uint8))), np.arange(256))


def test_what_is_known_is_spread_to_what_is_wanted_and_no_further():
    known = np.full((4, 40), np.nan, np.float32)
    known[:, :4], known[0, 0] = 0.2, np.nan
    known[:, 8:12] = 0.8
    wanted = np.zeros(known.shape, bool)
    wanted[:, 4:8], wanted[:, 39] = True, True
    found = spread(known, wanted, 8)
    assert np.isnan(found[:, 12:39]).all() and np.isnan(found[0, 0])  # nobody asked
    assert (found[:, :4] == known[:, :4])[1:].all() and (found[:, 8:12] == known[:, 8:12]).all()
    assert (np.diff(found[1, 3:9]) > 0).all() and 0.2 < found[1, 4] < found[1, 7] < 0.8
    assert found[:, 39] == pytest.approx(0.8, abs=1e-3)  # far from all: the nearest speaks
    unknown = np.full((2, 2), np.nan, np.float32)
    assert np.isnan(spread(unknown, np.ones((2, 2), bool), 8)).all()
