"""Scores are those of the guidelines, on counts that can be done by hand."""

import numpy as np
import pytest

from tests.reading.made import lattice
from wsistain.markers import find_marker
from wsistain.reading.scores import find_hotspot, score_cells
from wsistain.reading.stain import NOT_READ

ER, KI67, HER2 = (find_marker(name) for name in ("ER", "Ki67", "HER2"))


def scored(grades, marker=ER):
    grade = np.array(grades, np.int8)
    y = np.arange(len(grade)) * 10.0
    return score_cells(y, y, grade, marker)


def values(scores):
    return {name: estimate.value for name, estimate in scores.numbers.items()}


@pytest.mark.parametrize(
    ("grades", "percent", "h", "allred", "category"),
    [
        ([0] * 1000, 0, 0, 0, "negative"),
        ([0] * 995 + [1] * 5, 0.5, 0.5, 2, "negative"),
        ([0] * 99 + [1], 1, 1, 3, "low positive"),
        ([0] * 90 + [3] * 10, 10, 30, 5, "low positive"),
        ([0] * 89 + [1] * 5 + [2] * 6, 11, 17, 5, "positive (> 10 %)"),
        ([0, 1, 2, 3], 75, 150, 7, "positive (> 10 %)"),
        ([3] * 50, 100, 300, 8, "positive (> 10 %)"),
    ],
)
def test_er_is_scored_as_the_guideline_says(grades, percent, h, allred, category):
    scores = scored(grades)
    assert values(scores) == pytest.approx({"percent_positive": percent, "h_score": h, "allred": allred})
    assert scores.category.startswith(category)


@pytest.mark.parametrize(("positive", "category"), [(5, "low"), (6, "between"), (29, "between"), (30, "high")])
def test_ki67_counts_every_grade_and_has_two_borders(positive, category):
    scores = scored([0] * (100 - positive) + [1] * positive, KI67)
    assert values(scores)["ki67_index"] == positive and scores.category.startswith(category)


@pytest.mark.parametrize(
    ("grades", "score"),
    [
        ([3] * 11 + [0] * 89, 3),
        ([3] * 10 + [2] + [0] * 89, 2),  # ten in a hundred are not more than ten
        ([3] * 5 + [1] * 6 + [0] * 89, 1),
        ([3] * 10 + [0] * 90, 0),
        ([NOT_READ] * 90 + [2] + [0] * 9, 0),
        ([NOT_READ] * 90 + [2] * 2 + [0] * 8, 2),
    ],
)
def test_her2_is_scored_by_the_membranes_of_more_than_ten_percent(grades, score):
    assert values(scored(grades, HER2))["her2_score"] == score


def test_cells_that_were_not_read_are_no_negatives():
    scores = scored([NOT_READ] * 60 + [0] * 20 + [1] * 20)
    assert scores.n_cells == 40 and scores.not_read == 60 and values(scores)["percent_positive"] == 50
    nothing = scored([NOT_READ] * 3)
    assert nothing.n_cells == 0 and set(values(nothing).values()) == {None} and nothing.category == ""
    assert scored([]).n_cells == 0


def test_an_interval_holds_the_value_and_needs_tiles():
    y, x, grade = lattice(60, 40.0, 0)
    grade[::3] = 2
    estimate = score_cells(y, x, grade, ER).numbers["percent_positive"]
    assert estimate.low < estimate.value < estimate.high and estimate.high - estimate.low < 5
    assert score_cells(y, x, grade, ER).numbers["percent_positive"] == estimate  # drawn from a seed
    patchy = np.where(x < 1200, 2, 0).astype(np.int8)  # the same share, unevenly: less is known
    wide = score_cells(y, x, patchy, ER).numbers["percent_positive"]
    assert wide.high - wide.low > 2 * (estimate.high - estimate.low)
    assert scored([0, 1]).numbers["percent_positive"].low is None


def test_the_hot_spot_is_where_the_positive_cells_are():
    y, x, grade = lattice(75, 40.0, 0)
    inside = (y >= 1000) & (y < 2000) & (x >= 500) & (x < 1500)
    grade[inside] = 1
    found = find_hotspot(y, x, grade, KI67)
    assert (found.y, found.x) == (1000, 500) and found.scores.numbers["ki67_index"].value == 100
    assert find_hotspot(y[:400], x[:400], grade[:400], KI67) is None  # too few cells for one
    small = (y < 900) & (x < 900)
    assert small.sum() > 500 and find_hotspot(y[small], x[small], grade[small], KI67) is None  # all there is


def test_no_positive_cell_is_no_certainty():
    y, x, grade = lattice(40, 40.0, 0)
    none = score_cells(y, x, grade, ER).numbers["percent_positive"]
    assert none.value == none.low == 0 and 0.2 < none.high < 0.3  # 3.84 in 1600 cells
    grade[:40] = 2  # all in one row of tiles: fewer independent cells than there are
    some = score_cells(y, x, grade, ER).numbers["percent_positive"]
    alone = 196 * np.sqrt(0.025 * 0.975 / 1600)
    assert some.low < 2.5 - alone and some.high > 2.5 + 2 * alone and some.high - 2.5 > 2.5 - some.low
