"""The cells of a row: kept whole, and told by formulas written out one cell after another."""

import numpy as np
import pytest

from tests.benchmark.test_board import PICTURE, POSITIVE, RNG, SLIDES, row
from wsistain.benchmark.cells import arrays_of, cell_metrics, packed


def told_row():
    """(row with probability and trust, its cells)."""
    rng = np.random.default_rng(5)
    one = row("A", 0, 1.0)
    full = {**arrays_of(one["cells"]), "chance": rng.random(720).round(2), "trust": rng.integers(0, 5, 720) / 5}
    one["cells"] = packed(full, 12)
    return one, arrays_of(one["cells"])


def bits(chance, positive):
    share = positive.mean()
    own = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    p = np.clip(chance, 1e-4, 1 - 1e-4)
    return own + np.log2(np.where(positive, p, 1 - p)).mean()


def calibration(chance, positive):
    total = 0.0
    for k in range(10):
        here = (chance >= k / 10) & ((chance < (k + 1) / 10) | (k == 9))
        if here.any():
            total += here.sum() * abs(chance[here].mean() - positive[here].mean())
    return total / len(chance)


def error_of_most_trusted(chance, positive, trust, share):
    """Whole levels of trust from the top; the level that the share cuts through counts by its mean."""
    wrong, left, bad = (chance >= 0.5) != positive, share * len(trust), 0.0
    for level in sorted(set(trust), reverse=True):
        here = trust == level
        took = min(left, here.sum())
        bad, left = bad + took * wrong[here].mean(), left - took
    return bad / (share * len(trust))


def test_cells_survive_a_row():
    cells = {"picture": PICTURE, "positive": POSITIVE, "od": RNG.random(720) * 3, "chance": RNG.random(720)}
    again = arrays_of(packed(cells, 13))
    assert (again["picture"] == PICTURE).all() and (again["positive"] == POSITIVE).all()
    assert all(np.abs(again[name] - cells[name]).max() < 6e-5 for name in ("od", "chance"))


def test_the_metrics_of_a_row_are_those_of_its_cells():
    one, cells = told_row()
    found = {m: v["value"] for m, v in cell_metrics(one["cells"], SLIDES, 0.1).items()}
    c, p = cells["chance"], cells["positive"]
    assert found["information"] == pytest.approx(bits(c, p))
    assert found["calibration_error"] == pytest.approx(calibration(c, p))
    assert found["error_at_80"] == pytest.approx(error_of_most_trusted(c, p, cells["trust"], 0.8))
    without = cell_metrics(packed({n: v for n, v in cells.items() if n != "trust"}, 12), SLIDES, 0.1)
    sure = error_of_most_trusted(c, p, np.abs(c - 0.5), 0.8)
    assert without["error_at_80"]["value"] == pytest.approx(sure)
    assert "error_at_80" not in cell_metrics(row("A", 0, 1.0)["cells"], SLIDES, 0.1)
