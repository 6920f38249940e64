"""Curves of sensitivity: points are checked, drawn where they belong, and stand only below their own table."""

import json
import re
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from tests.benchmark.test_board import row
from wsistain.benchmark.curves import KINDS, Point, drawn, read_curves
from wsistain.cli import app
from wsistain.errors import DataError


def point(kind="misfit", at=0.0, auc=0.7, system="A <b>", **more):
    return {"edition": "v0", "condition": "mist-c3-ER", "what": kind, "at": at, "system": system, "seed": 0, "crops": 2400,
            "cell_auc": auc, "ci_low": auc - 0.05, "ci_high": auc + 0.05, **more}  # fmt: skip


def saved(path, *points):
    path.write_text(json.dumps({str(k): p for k, p in enumerate(points)}))
    return path


def circles(svg):
    return [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("circle")]


def test_a_worse_point_lies_lower_and_a_later_one_further_right(tmp_path):
    path = saved(tmp_path / "c.json", point(at=0, auc=0.9), point(at=50, auc=0.6), point(at=10, auc=0.7))
    svg = drawn(read_curves(path))
    at = sorted((float(c.get("cx")), float(c.get("cy"))) for c in circles(svg))
    assert len(at) == 3 and at[0][1] < at[1][1] < at[2][1]  # y grows downwards
    assert "A &lt;b&gt;, 2,400 crops" in svg and KINDS["misfit"] in svg and "training slides" not in svg
    assert drawn([]) == ""


def test_a_line_goes_through_the_mean_of_the_seeds_and_budgets_are_curves_of_their_own(tmp_path):
    points = [point(auc=0.6), point(auc=0.8, seed=1), point(auc=0.7, crops=6400)]
    svg = drawn(read_curves(saved(tmp_path / "c.json", *points)))
    lines = [e.get("points") for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("polyline")]
    assert len(lines) == 2 and lines[0] == lines[1] and len(circles(svg)) == 3
    assert "2,400 crops" in svg and "6,400 crops" in svg and "dashed" not in svg


def test_a_probability_has_a_dashed_line(tmp_path):
    svg = drawn(read_curves(saved(tmp_path / "c.json", point(probability_cell_auc=0.8))))
    assert svg.count("stroke-dasharray") == 1 and "by the probability" in svg


@pytest.mark.parametrize(
    "spoil",
    [{"what": "luck"}, {"cell_auc": 1.4}, {"cell_auc": "x"}, {"at": float("nan")}, {"edition": None, "seed": "a"}],
)
def test_a_point_that_is_none_is_refused_by_its_file(tmp_path, spoil):
    with pytest.raises(DataError, match=r"c.json holds no points"):
        read_curves(saved(tmp_path / "c.json", point(), {**point(), **spoil}))
    (tmp_path / "d.json").write_text("[1]")
    with pytest.raises(DataError, match=r"d.json holds no points"):
        read_curves(tmp_path / "d.json")


def test_the_page_draws_curves_below_their_table_and_refuses_those_of_no_row(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "one.json").write_text(json.dumps(row("A", 0, 1.0)))
    curves = saved(tmp_path / "c.json", point())
    arguments = ["benchmark", "table", str(tmp_path / "rows"), "--curves", str(curves), "-o"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "board")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "board" / "leaderboard.html").read_text()
    assert len(re.findall("<h3>Sensitivity</h3>", page)) == 1 and "A &lt;b&gt;, 2,400 crops" in page
    saved(curves, point(), point(edition="v1"))
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "other")])
    assert isinstance(result.exception, DataError) and "edition v1, which has no row" in str(result.exception)
    assert not (tmp_path / "other").exists()


def test_points_say_whose_they_are(tmp_path):
    found = read_curves(saved(tmp_path / "c.json", point(ci_low=None, ci_high=None)))
    assert found == [Point("v0", "mist-c3-ER", "misfit", 0.0, "A <b>", 2400.0, 0, 0.7, None, None, None)]
