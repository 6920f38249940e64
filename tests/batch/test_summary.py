"""Numbers and sentences of the summary."""

import csv

import pytest

from tests.pipeline.slides import small_config, tissue_picture, write_slide
from wsistain.batch.sheet import Entry, Refused
from wsistain.batch.summary import Row, last_words, summarise, write_summary
from wsistain.errors import OutputError
from wsistain.pipeline.run import run


def test_the_last_words_of_a_log_are_the_error(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("Staining\nwsistain: the disk is full\nerror: job failed\n")
    assert last_words(log) == "the disk is full"
    log.write_bytes(b"Killed \xff\n\n")
    assert last_words(log).startswith("Killed")
    assert last_words(tmp_path / "none.log") == ""


def test_what_has_no_result_says_why(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.ER-PR.log").write_text("wsistain: no tissue\n")
    entries = [Entry("a", "/x/a.svs", ("ER", "PR")), Entry("b", "/x/b.svs", ("ER",))]
    refused = [Refused("c", "/x/c.svs", "truncated", True), Refused("d", "/x/d.txt", "text", False)]
    rows = summarise(tmp_path, entries, refused, tmp_path / "logs", ["ER", "PR"])
    assert [(r.slide, r.marker, r.state, r.message) for r in rows] == [
        ("a", "ER", "failed", "no tissue"),
        ("a", "PR", "failed", "no tissue"),
        ("b", "ER", "missing", "it was not reached"),
        ("c", "ER", "failed", "truncated"),
        ("c", "PR", "failed", "truncated"),
        ("d", "", "skipped", "text"),
    ]


def test_a_stain_of_other_weights_is_not_taken_for_this_batch(tmp_path):
    slide = write_slide(tmp_path / "a.tiff", tissue_picture(128, 128))
    run(slide, "ER", tmp_path, config=small_config())
    for made in ("logs", "done"):
        (tmp_path / "batch" / made).mkdir(parents=True)
    entry, logs = Entry("a", str(slide), ("ER",)), tmp_path / "batch" / "logs"
    with pytest.raises(OutputError) as refusal:
        run(slide, "ER", tmp_path, config=small_config(seed=1), resume=True)
    (logs / "a.ER.log").write_text(f"Staining\nwsistain: {refusal.value}\n")
    (row,) = summarise(tmp_path, [entry], [], logs, ["ER"])
    assert row.state == "failed" and "the seed (was null, is 1)" in row.message and "--overwrite" in row.message
    (tmp_path / "batch" / "done" / "a.ER.done").touch()
    (row,) = summarise(tmp_path, [entry], [], logs, ["ER"])
    assert row.state == "done"


def test_no_cell_is_a_formula(tmp_path):
    write_summary(tmp_path / "s.csv", [Row("=1+1", "ER", "failed", message="@SUM(A1)\nx")])
    with (tmp_path / "s.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["slide"] == "'=1+1" and row["message"].startswith("'@")


def test_scores_have_columns_of_their_own(tmp_path):
    write_summary(tmp_path / "s.csv", [Row("a", "ER", "done", scores={"h_score": 12.5}), Row("b", "ER", "failed")])
    with (tmp_path / "s.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["h_score"]) == 12.5 and second["h_score"] == "" and "scores" not in first
