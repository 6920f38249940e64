"""What a batch passed over stands in the table that `wsistain summary` writes later."""

from typer.testing import CliRunner

from tests.pages.pages import text_of
from wsistain.batch.passed_over import keep_passed_over
from wsistain.batch.summary import Row
from wsistain.cli import app


def test_files_that_a_batch_could_not_open_are_not_forgotten(tmp_path):
    work = tmp_path / "batch"
    work.mkdir()
    (work / "slides.tsv").write_text("slide\tpath\n")
    keep_passed_over(
        work, [Row("b\udce4", "ER", "failed", message="b is truncated", path="/x/b"), Row("t", "", "skipped")]
    )
    done = CliRunner().invoke(app, ["summary", str(tmp_path)])
    assert done.exit_code == 0 and "1 failed, 1 skipped" in done.output
    assert "b is truncated" in text_of((tmp_path / "summary.html").read_text(encoding="utf-8"))
    (work / "passed_over.json").write_text('[{"slide": 1}]')
    assert "passed_over.json cannot be read" in str(CliRunner().invoke(app, ["summary", str(tmp_path)]).exception)
