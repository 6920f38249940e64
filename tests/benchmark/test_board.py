"""The leaderboard: rows side by side, ranked with intervals, and told apart only where they differ."""

import copy
import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from wsistain.benchmark.board import board_of, grouped, label, read_rows, write_board
from wsistain.benchmark.cells import cell_metrics, packed
from wsistain.benchmark.compare import told_apart
from wsistain.benchmark.score import FORMAT
from wsistain.cli import app
from wsistain.errors import DataError, OutputError
from wsistain.evaluation.pathology import area_under_curve

SLIDES = [f"S{k:02d}" for k in range(12)]
RNG = np.random.default_rng(1)
PICTURE = np.repeat(np.arange(12), 60)
POSITIVE = RNG.random(720) < 0.5
HARD = RNG.normal(size=12)[PICTURE]
"""What makes a slide hard for everybody."""


def row(system, seed, strength, noise_seed=None, **entry):
    """A row whose stain follows the truth with this strength; what is hard on a slide is hard for all."""
    rng = np.random.default_rng(100 * (seed or 0) + (noise_seed or 0))
    od = np.round(strength * POSITIVE * (1 + 0.3 * HARD) + rng.normal(size=720) + 20, 4) / 10
    cells = packed({"picture": PICTURE, "positive": POSITIVE, "od": od}, 12)
    values = {"ssim": rng.uniform(0.2, 0.4, 12).tolist(), "cell_h_error": rng.uniform(20, 30, 12).tolist()}
    metrics = {name: {"value": float(np.mean(v))} for name, v in values.items()}
    metrics |= {"cell_auc": {"value": area_under_curve(od, POSITIVE)}} | cell_metrics(cells, SLIDES, 0.1)
    form = {"system": system, "budget": "short", "seed": seed, "crops": 100, "cpu_seconds": 60.0, "learning_rate": None,
            "parameters": None, "config": "", "commit": "", "note": "", **entry}  # fmt: skip
    reach = {
        "cell_auc": 0.9,
        "information": 0.4,
        "calibration_error": 0.0,
        "truth_cell_auc": 0.99,
        "positive_share": 0.5,
        "bins": 10,
    }
    return {
        "format": FORMAT, "edition": "v0", "condition": "mist-c3-ER", "data_sha256": "00", "entry": form, "made": {},
        "metrics": metrics, "missing": {"lpips_alex": "no network"}, "attainable": reach, "cutoff": 0.1,
        "pictures": {"names": SLIDES, "slides": SLIDES, **values}, "cells": cells,
    }  # fmt: skip


ONE = row("A", 0, 1.0)


def test_a_plain_difference_is_told_and_equal_systems_are_not():
    rows = [row("Good", s, 2.0, 1) for s in range(3)] + [row("Same", s, 0.6, 2) for s in range(3)]
    rows += [row("Too", s, 0.6, 3) for s in range(3)]
    board = board_of("mist-c3-ER", rows)
    assert board.systems[0].name == "Good"
    apart = {(board.systems[i].name, board.systems[j].name) for i, j in board.apart["cell_auc"]}
    assert apart == {("Good", "Same"), ("Good", "Too")} and not board.apart["cell_h_error"]
    assert board.ranks["cell_auc"][0] == (1, 1, 1)
    assert {r[1:] for r in board.ranks["cell_auc"][1:]} == {(2, 3)}
    low, high = board.systems[0].interval("cell_auc")
    assert low < board.systems[0].value["cell_auc"] < high


def test_seeds_that_scatter_widen_the_interval_and_hide_a_difference():
    steady = [row("Steady", s, 1.0, 1) for s in range(3)]
    wild = [row("Wild", s, strength, 2) for s, strength in enumerate((0.2, 1.6, 3.0))]
    board = board_of("mist-c3-ER", steady + wild)
    of = {s.name: s for s in board.systems}
    width = {n: s.interval("cell_auc")[1] - s.interval("cell_auc")[0] for n, s in of.items()}
    assert width["Wild"] > 3 * width["Steady"] and not told_apart(board.systems, "cell_auc")


def test_one_seed_is_told_apart_from_none_and_that_is_said():
    rows = [
        row("Once", 0, 3.0, 1),
        row("Twice", 0, 0.2, 2),
        row("Twice", 1, 0.2, 2),
        row("identity", None, 0.1, 3, budget="none"),
    ]
    board = board_of("mist-c3-ER", rows)
    assert all("Once" not in (board.systems[i].name, board.systems[j].name) for i, j in board.apart["cell_auc"])
    assert any("One seed alone: Once (short)" in note for note in board.notes)
    assert label(board.systems[-1]) in ("Identity (H&E)", "Twice (short)")


def test_an_inverted_stain_tells_nothing_and_a_perfect_one_all():
    inverted, perfect = row("a", 0, -3.0), row("b", 0, 50.0)
    assert inverted["metrics"]["information_od"]["value"] == pytest.approx(0, abs=0.03)
    assert perfect["metrics"]["information_od"]["value"] > 0.7


def test_the_tables_are_written_with_the_same_numbers(tmp_path):
    rows = [row("A <b>", s, 2.0, 1) for s in range(2)] + [row("B", s, 0.4, 2) for s in range(2)]
    for k, r in enumerate(rows):
        (tmp_path / f"{k}.json").write_text(json.dumps(r))
    result = CliRunner().invoke(app, ["benchmark", "table", str(tmp_path), "-o", str(tmp_path / "board")])
    assert result.exit_code == 0 and "mist-c3-ER, edition v0: 4 rows" in result.output
    lines = list(csv.DictReader(io.StringIO((tmp_path / "board" / "leaderboard.csv").read_text())))
    mean = np.mean([r["metrics"]["cell_auc"]["value"] for r in rows[:2]])
    assert float(lines[0]["cell_auc"]) == pytest.approx(mean) and lines[0]["cell_auc_better_than"] == "B (short)"
    page, text = (
        (tmp_path / "board" / "leaderboard.html").read_text(),
        (tmp_path / "board" / "leaderboard.md").read_text(),
    )
    assert (
        f"{mean:.3f}" in page
        and f"{mean:.3f}" in text
        and "A &lt;b&gt;" in page
        and "<b>" not in page.split("<body>")[1].split("</b>")[0][:200]
    )
    assert "data-sort" in page and "rank 1" in page and "100 crops, 1 min" in page
    with pytest.raises(OutputError, match="holds a leaderboard"):
        write_board([tmp_path / "0.json"], tmp_path / "board")


@given(
    of=st.lists(
        st.tuples(st.sampled_from(("v0", "v1")), st.sampled_from(("mist-c3-ER", "far-c1-ER"))), min_size=1, max_size=6
    )
)
@settings(max_examples=25, deadline=None)
def test_no_table_ever_holds_rows_of_two_editions_and_no_row_is_lost(of):
    rows = {
        f"{k}.json": {**ONE, "edition": edition, "condition": condition, "data_sha256": f"{edition} {condition}", "entry": {**ONE["entry"], "seed": k}}
        for k, (edition, condition) in enumerate(of)
    }  # fmt: skip
    groups = grouped(rows)
    assert all({(r["edition"], r["condition"]) for r in found} == {key} for key, found in groups.items())
    assert sorted(r["entry"]["seed"] for found in groups.values() for r in found) == list(range(len(of)))


def test_two_editions_are_two_tables_that_say_so(tmp_path):
    for k, edition in enumerate(("v0", "v1")):
        one = {**ONE, "edition": edition, "data_sha256": edition}
        (tmp_path / f"{k}.json").write_text(json.dumps(one))
    assert write_board([tmp_path], tmp_path / "board") == {("v0", "mist-c3-ER"): 1, ("v1", "mist-c3-ER"): 1}
    lines = list(csv.DictReader(io.StringIO((tmp_path / "board" / "leaderboard.csv").read_text())))
    assert [line["edition"] for line in lines] == ["v0", "v1"]
    for name in ("leaderboard.html", "leaderboard.md"):
        text = (tmp_path / "board" / name).read_text()
        assert text.count("mist-c3-ER, edition v0") == 1 == text.count("mist-c3-ER, edition v1")


def test_rows_of_other_data_twice_the_same_run_and_no_rows_are_refused(tmp_path):
    one = row("A", 0, 1.0)
    other = {**copy.deepcopy(one), "data_sha256": "11"}
    with pytest.raises(DataError, match="data_sha256 differs"):
        grouped({"a": one, "b": other})
    with pytest.raises(DataError, match="both seed 0 of A"):
        grouped({"a": one, "b": copy.deepcopy(one)})
    for spoil in (
        lambda r: r["cells"].update(od=r["cells"]["od"][:-8]),
        lambda r: r.pop("metrics"),
        lambda r: r.update(format=9),
        lambda r: r["entry"].update(x=1),
    ):
        bad = copy.deepcopy(one)
        spoil(bad)
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(Exception, match=r"bad.json") as error:
            read_rows([tmp_path / "bad.json"])
        assert error.type.__name__ in ("DataError", "ConfigError")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no row"):
        read_rows([tmp_path / "none"])
    with pytest.raises(DataError, match="no file or folder"):
        read_rows([tmp_path / "nowhere"])
