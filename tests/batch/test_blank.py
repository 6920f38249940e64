"""What an earlier batch found blank is kept by what the finding rests on, and nothing else is believed."""

from dataclasses import replace

import pytest

from wsistain.batch.blank import keep_blank, read_blank, terms_of
from wsistain.batch.sheet import Entry

ENTRY = Entry("a", "/a.tif", ("ER", "PR"), fingerprint="00ff00ff")


def test_what_is_kept_reads_back_and_slides_without_a_fingerprint_are_not_kept(tmp_path):
    keep_blank(tmp_path / "b.json", [ENTRY, replace(ENTRY, slide="c", fingerprint="")], "x: 1")
    assert read_blank(tmp_path / "b.json") == {"a.ER-PR": terms_of(ENTRY, "x: 1")}


def test_the_terms_change_with_whatever_decides(tmp_path):
    roi = tmp_path / "a.geojson"
    roi.write_text("1")
    changes = [{}, {"mpp": 0.5}, {"series": 1}, {"fingerprint": "ff"}, {"roi": str(roi)}, {"roi_class": "Tumor"}]
    terms = [terms_of(replace(ENTRY, **change), "x: 1") for change in changes] + [terms_of(ENTRY, "x: 2")]
    roi.write_text("2")
    terms.append(terms_of(replace(ENTRY, roi=str(roi)), "x: 1"))
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"a": 1}', "[" * 100_000])
def test_a_damaged_file_knows_nothing(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    assert read_blank(tmp_path / "b.json") == {} == read_blank(tmp_path / "none.json")
