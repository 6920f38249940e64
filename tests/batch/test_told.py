"""What is taken from the files beside a stain, and what is left out of damaged ones."""

import json

import pytest

from wsistain.batch.told import Told, read_told, why_not_read


def write(folder, date="d1", **changes):
    run = {"provenance": {"date": "d1", "trust": {"verdict": "unlike training"}}}
    estimate = {"value": 41.2, "low": 30.0, "high": None}
    scores = {"cells": 12, "category": "positive", "percent_positive": estimate, "odd": {"value": "12"}}
    read = {"scores": {"slide": scores}, "trust": {"trusted": 0.25}, "provenance": {"stain": {"date": date}}, **changes}
    (folder / "a.ER.run.json").write_text(json.dumps(run))
    (folder / "a.ER.read.json").write_text(json.dumps(read))
    (folder / "a.ER.report.html").write_text("<p>")
    return folder / "a.ER.ome.zarr"


def test_scores_verdict_and_report_are_told(tmp_path):
    told = read_told(write(tmp_path), "a.ER")
    assert told.scores == {"percent_positive": 41.2, "percent_positive_low": 30.0}
    assert (told.trusted, told.cells, told.category, told.verdict, told.report) == (
        0.25,
        12,
        "positive",
        "unlike training",
        "a.ER.report.html",
    )


def test_a_stain_that_nobody_read_has_its_verdict_alone(tmp_path):
    stain = write(tmp_path)
    (tmp_path / "a.ER.read.json").unlink()
    assert read_told(stain, "a.ER") == Told("unlike training")
    assert read_told(stain, "b.ER") == Told()


@pytest.mark.parametrize("trust", [None, {}, {"trusted": "1"}, {"trusted": 40}, {"trusted": float("nan")}])
def test_a_trusted_share_that_is_none_is_not_told(tmp_path, trust):
    assert read_told(write(tmp_path, trust=trust), "a.ER").trusted is None


@pytest.mark.parametrize("changes", [{"date": "d0"}, {"scores": []}, {"scores": {"slide": 3}}])
def test_what_is_of_another_stain_or_damaged_is_no_score(tmp_path, changes):
    told = read_told(write(tmp_path, **changes), "a.ER")
    assert not told.scores and told.cells is None and "read" in told.note and not told.report


def test_the_log_says_why_the_cells_were_not_read(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("Warning: a.svs: the cells were not read: no nucleus was found\nwsistain: x\n")
    assert why_not_read(log) == "not read: no nucleus was found"
    assert why_not_read(tmp_path / "none.log") == ""
