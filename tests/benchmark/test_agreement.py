"""How metrics agree with the cells over systems: by another library's formula, with the sign of what is better."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.benchmark.test_board import row
from wsistain.benchmark.agreement import LEAST, agreements, spearman
from wsistain.benchmark.board import board_of, to_html, to_markdown

RNG = np.random.default_rng(2)


def test_columns_are_correlated_as_scipy_does_and_constants_with_nothing():
    a, b = RNG.integers(0, 4, (6, 20)).astype(float), RNG.integers(0, 4, (6, 20)).astype(float)
    a[:, 3], b[2, 5] = 1.0, np.nan
    found = spearman(a, b)
    assert np.isnan(found[[3, 5]]).all()
    for k in set(range(20)) - {3, 5}:
        assert found[k] == pytest.approx(spearmanr(a[:, k], b[:, k]).statistic)


def of_strength(strength, k, better):
    one = row(f"S{k}", 0, strength, 7)
    for name, sign in (("ssim", 1), ("cell_h_error", -1)):
        values = np.full(12, (sign if better else -sign) * strength + 40.0)
        one["pictures"][name] = values.tolist()
        one["metrics"][name]["value"] = float(values.mean())
    return one


def test_a_metric_that_follows_the_cells_agrees_and_one_that_goes_the_other_way_does_not():
    strengths = (0.1, 0.6, 1.4, 3.0, 6.0)
    for better in (True, False):
        board = board_of("mist-c3-ER", [of_strength(s, k, better) for k, s in enumerate(strengths)])
        found = {a.metric: a for a in agreements(board.systems, ["ssim", "cell_h_error", "cell_auc"])}
        assert set(found) == {"ssim", "cell_h_error"}
        wanted = 1.0 if better else -1.0
        assert all(a.value == pytest.approx(wanted) and a.n == 5 for a in found.values())
        assert all(a.low <= a.high for a in found.values())


def test_few_systems_have_no_order_and_the_page_says_how_many_there_are():
    rows = [of_strength(s, k, True) for k, s in enumerate((0.1, 0.6, 1.4, 3.0))]
    few, enough = board_of("mist-c3-ER", rows[: LEAST - 1]), board_of("mist-c3-ER", rows)
    assert agreements(few.systems, ["ssim"]) == []
    assert "tell the order of" not in to_html([few]) and "tell the order of" not in to_markdown([few])
    assert "order of 4 systems" in to_html([enough]) and "order of 4 systems" in to_markdown([enough])
