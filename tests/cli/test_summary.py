"""`wsistain summary` on the working folder of a workflow."""

import csv

from typer.testing import CliRunner

from tests.pages.pages import check_self_contained, text_of
from wsistain.cli import app


def test_a_folder_is_summed_up_again_from_its_sheet(tmp_path):
    (tmp_path / "batch" / "logs").mkdir(parents=True)
    (tmp_path / "batch" / "logs" / "c17.ER.log").write_text("wsistain: c17.svs is truncated\n")
    (tmp_path / "batch" / "slides.tsv").write_text("slide\tpath\nc17\t/x/c17.svs\nc18\t/x/c18.svs\n")
    done = CliRunner().invoke(app, ["summary", str(tmp_path)])
    assert done.exit_code == 0 and "summary.html: 1 failed, 1 missing" in done.output
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["failed", "missing"]
    page = (tmp_path / "summary.html").read_text(encoding="utf-8")
    check_self_contained(page)
    assert "c17.svs is truncated" in text_of(page)
