"""Draws of slides by independent means: each metric of a draw is that of its slides' cells written out, one copy after another."""

import itertools

import numpy as np
import pytest

from tests.benchmark.test_board import PICTURE, SLIDES, row
from tests.benchmark.test_cells import bits, calibration, error_of_most_trusted, told_row
from wsistain.benchmark.compare import drawn, ranks, system_of, told_apart
from wsistain.evaluation.chances import recalibrated
from wsistain.evaluation.summary import SlideBootstrap

RNG = np.random.default_rng(5)
DRAWS = 12


@pytest.fixture(scope="module")
def told():
    """(row with probability and trust, its cells, draws)."""
    one, cells = told_row()
    return one, cells, SlideBootstrap(SLIDES, draws=DRAWS)


def written_out(cells, weights):
    """The cells of a draw: those of a slide as often as it was drawn."""
    index = np.concatenate([np.repeat(np.flatnonzero(cells["picture"] == k), w) for k, w in enumerate(weights)])
    return {name: values[index] for name, values in cells.items()}


def auc(score, positive):
    wins = (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])
    return wins.mean()


def test_every_cell_metric_of_a_draw_is_that_of_its_cells_written_out(told):
    one, cells, boot = told
    chance = recalibrated(cells["od"], cells["positive"], [SLIDES[k] for k in PICTURE])
    weights = boot.weights_of(SLIDES, SLIDES)
    found = {
        m: drawn(one, m, boot, cells)
        for m in (
            "cell_auc",
            "information_od",
            "information",
            "calibration_error",
            "error_at_100",
            "error_at_80",
            "error_at_50",
            "ssim",
            "cell_h_error",
        )
    }
    for k in range(DRAWS):
        c = written_out({**cells, "od_chance": chance}, weights[k])
        wanted = {
            "cell_auc": auc(c["od"], c["positive"]),
            "information_od": bits(c["od_chance"], c["positive"]),
            "information": bits(c["chance"], c["positive"]),
            "calibration_error": calibration(c["chance"], c["positive"]),
            **{f"error_at_{s}": error_of_most_trusted(c["chance"], c["positive"], c["trust"], s / 100) for s in (100, 80, 50)},
            **{m: np.average(one["pictures"][m], weights=weights[k]) for m in ("ssim", "cell_h_error")},
        }  # fmt: skip
        assert {m: v[k] for m, v in found.items()} == pytest.approx(wanted, abs=1e-9)


def test_the_isotonic_fit_is_that_of_pools_of_violators():
    """A slide's cells by a fit on all others, written as the oldest algorithm has it: neighbours that fall are pooled until none do."""
    score, groups = RNG.integers(0, 30, 240) / 30, np.repeat(np.arange(8), 30)
    positive = RNG.random(240) < score
    found = recalibrated(score, positive, groups)
    for k in range(8):
        out = groups != k
        blocks = [
            [s, float(positive[out][score[out] == s].sum()), int((score[out] == s).sum())]
            for s in np.unique(score[out])
        ]
        while any(a[1] / a[2] >= b[1] / b[2] for a, b in itertools.pairwise(blocks)):
            i = next(i for i, (a, b) in enumerate(itertools.pairwise(blocks)) if a[1] / a[2] >= b[1] / b[2])
            blocks[i : i + 2] = [[blocks[i][0], blocks[i][1] + blocks[i + 1][1], blocks[i][2] + blocks[i + 1][2]]]
        steps = [(start, (hits + 0.5) / (n + 1)) for start, hits, n in blocks]
        wanted = [max((v for v in steps if v[0] <= s), default=steps[0])[1] for s in score[~out]]
        np.testing.assert_allclose(found[~out], wanted, atol=1e-9)


def test_draws_are_paired_so_that_what_is_hard_for_all_hides_no_difference():
    """One system is a little better on every slide; slides differ far more than the systems do."""
    hard = np.linspace(0.1, 0.9, 12)
    rows = {}
    for name, gain in (("Better", 0.02), ("Worse", 0.0)):
        rows[name] = [row(name, seed, 1.0, 1) for seed in range(2)]
        for k, one in enumerate(rows[name]):
            one["pictures"]["cell_h_error"] = (50 * (hard - gain) + 0.01 * k).tolist()
            one["metrics"]["cell_h_error"]["value"] = float(np.mean(one["pictures"]["cell_h_error"]))
    boot = SlideBootstrap(SLIDES, draws=400)
    systems = [system_of(r, ["cell_h_error"], boot) for r in rows.values()]
    low, high = systems[0].interval("cell_h_error")
    assert high - low > 10  # ten times the difference
    assert told_apart(systems, "cell_h_error") == {(0, 1)}
    assert ranks(systems, "cell_h_error") == [(1, 1, 1), (2, 2, 2)]


def test_of_equal_systems_about_one_pair_in_twenty_boards_is_told_apart():
    """The rule's own error: at most some 5 % of boards of five equal systems name any pair."""
    boot = SlideBootstrap(SLIDES, draws=300)
    named = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        shared = rng.normal(size=12)
        systems = []
        for k in range(5):
            runs = []
            for seed in range(3):
                one = {**BARE, "entry": {**BARE["entry"], "system": f"S{k}", "seed": seed}}
                values = (shared + rng.normal(size=12)).tolist()
                one |= {
                    "pictures": {"slides": SLIDES, "ssim": values},
                    "metrics": {"ssim": {"value": float(np.mean(values))}},
                }
                runs.append(one)
            systems.append(system_of(runs, ["ssim"], boot))
        named += bool(told_apart(systems, "ssim"))
    assert named <= 9


BARE = row("S", 0, 1.0)
