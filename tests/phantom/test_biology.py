"""Expression and what morphology shows of it."""

import numpy as np
import pytest

from wsistain.markers import MARKERS, Marker, panel
from wsistain.phantom.biology import POSITIVE_LEVEL, RING_POSITIVE, draw_clone, express, rank_auc

NEW = [
    Marker(name="Made53", compartment="nuclear", expression={"against": True, "shift": -0.4}),
    Marker(name="MadeCycle", compartment="nuclear", expression={"follows": "cycle", "shift": 0.6}),
    Marker(name="MadeRing", compartment="membranous"),
    Marker(name="MadeCyto", compartment="cytoplasmic", expression={"follows": "apocrine"}),
]
ALL = (*MARKERS.values(), *NEW)
EVERY = [m.name for m in ALL]


def many(visibility, slides=60, cells=400):
    found = []
    for seed in range(slides):
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, 2**63, cells).astype(np.uint64)
        place = rng.uniform(0, 4000, (2, cells))
        found.append(express(seed, draw_clone(seed, None, ALL), visibility, ALL, ids, *place))
    return found


def pooled(found, marker):
    return np.concatenate([f.score[marker] for f in found]), np.concatenate([f.positive[marker] for f in found])


@pytest.mark.parametrize("marker", EVERY)
def test_what_is_visible_decides_the_best_auc(marker):
    auc = [rank_auc(*pooled(many(v), marker)) for v in (0.0, 0.5, 0.85, 1.0)]
    assert abs(auc[0] - 0.5) < 0.04
    assert auc[0] < auc[1] < auc[2] < auc[3]
    assert auc[3] > 0.97
    if marker == "ER":
        assert 0.87 < auc[2] < 0.95


@pytest.mark.parametrize("marker", EVERY)
def test_scores_are_probabilities_that_come_true(marker):
    score, positive = pooled(many(0.85, slides=150, cells=200), marker)
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (score >= low) & (score < low + 0.2)
        assert some.sum() > 300
        assert abs(positive[some].mean() - score[some].mean()) < 0.12


def test_levels_leave_a_gap_between_negative_and_positive():
    for f in many(0.85, slides=10):
        for marker in ALL:
            level, positive = f.level[marker.name], f.positive[marker.name]
            if marker.compartment == "membranous":
                assert ((level >= RING_POSITIVE) == positive).all()
            else:
                assert level[positive].min(initial=9) >= POSITIVE_LEVEL and level[~positive].max(initial=0) < 0.1


def test_what_a_slide_expresses_does_not_depend_on_which_other_markers_are_known():
    ids, place = np.arange(500, dtype=np.uint64), np.random.default_rng(1).uniform(0, 5000, (2, 500))
    few, more = (express(3, draw_clone(3, None, m), 0.85, m, ids, *place) for m in (panel(), ALL))
    for marker in panel():
        assert np.array_equal(few.level[marker.name], more.level[marker.name])
        assert np.array_equal(few.score[marker.name], more.score[marker.name])
    assert np.array_equal(few.mitosis, more.mitosis) and np.array_equal(few.apocrine, more.apocrine)


def test_a_marker_that_goes_against_differentiation_marks_the_poor_cells():
    f = many(0.85, slides=6)
    low, high = (np.concatenate([x.differentiation[x.positive[m]] for x in f]) for m in ("Made53", "ER"))
    assert low.mean() < -0.3 and high.mean() > 0.3


def test_er_and_pr_go_together_and_ki67_is_a_minority():
    found = many(0.85)
    er, pr, ki = (np.concatenate([f.positive[m] for f in found]) for m in ("ER", "PR", "Ki67"))
    assert np.corrcoef(er, pr)[0, 1] > 0.5
    assert 0.05 < ki.mean() < 0.3
    mitosis = np.concatenate([f.mitosis for f in found])
    assert mitosis.any() and ki[mitosis].all()


def test_slide_scores_of_her2_order_the_cells():
    mean = []
    for score in range(4):
        ids = np.arange(2000, dtype=np.uint64) + 77
        place = np.random.default_rng(score).uniform(0, 5000, (2, 2000))
        mean.append(express(5, draw_clone(5, score, panel()), 0.85, panel(), ids, *place).level["HER2"].mean())
    assert mean == sorted(mean) and mean[0] < 0.7 and mean[3] > 2.2


def test_auc_is_the_probability_of_the_right_order():
    assert rank_auc(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])) == 1
    assert rank_auc(np.array([1.0, 1, 1, 1]), np.array([False, True, True, False])) == 0.5
    assert rank_auc(np.array([1.0, 2]), np.array([True, True])) is None
