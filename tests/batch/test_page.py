"""The page over all slides: sortable, self-contained, its links lead to files beside it, names are text."""

from urllib.parse import unquote

import numpy as np
from PIL import Image

from tests.pages.pages import check_self_contained, elements, text_of
from wsistain.batch.page import thumbnail, to_html, write_page
from wsistain.batch.summary import Row

NASTY = "<img src=x onerror=alert(1)>"
SCORES = {"percent_positive": 41.25, "percent_positive_low": 30.0, "percent_positive_high": 55.5, "allred": 5.0}


def row(name: str, **changes) -> Row:
    told = {"cells": 1234, "category": "positive", "verdict": "unlike training", "trusted": 0.125, "scores": SCORES}
    told |= {
        "result": f"{name}.ER.ome.zarr",
        "report": f"{name}.ER.report.html",
        "positive_fraction": 0.18,
        "minutes": 4.3,
    }
    return Row(name, "ER", "done", **{**told, **changes})


def test_every_slide_has_a_line_with_what_is_known_of_it(tmp_path):
    Image.fromarray(np.full((50, 400, 3), 200, np.uint8)).save(tmp_path / "a.ER.preview.jpg")
    rows = [row("a", note="DEMONSTRATION only"), Row("b", "ER", "failed", message="it is truncated")]
    write_page(tmp_path / "summary.html", rows)
    page = (tmp_path / "summary.html").read_text(encoding="utf-8")
    check_self_contained(page)
    text = text_of(page)
    assert "1 done, 1 failed" in text and "it is truncated" in text and "research use only" in text
    assert (
        "41.2 % 30.0 to 55.5" in text
        and "Allred 5" in text
        and "unlike training 12 % trusted" in text
        and "18.0 %" in text
    )
    assert "synthetic tissue" in text and len([1 for tag, _ in elements(page) if tag == "img"]) == 1
    assert {a["href"] for tag, a in elements(page) if tag == "a"} == {"./a.ER.report.html", "./a.ER.preview.jpg"}


def test_names_of_slides_are_text_and_links_stay_in_the_folder(tmp_path):
    names = [NASTY, "javascript:alert(1)", "//host/x", 'a "b"#c?d', "=1+1", "\u202egpj", "b\udce4"]
    rows = [row(name, message=NASTY, category=NASTY, verdict=NASTY, note=NASTY) for name in names]
    page = to_html(rows, tmp_path)
    check_self_contained(page)
    places = [a["href"] for tag, a in elements(page) if tag == "a"]
    assert all(place.startswith("./") and ":" not in place and "#" not in place for place in places)
    assert unquote(places[0]) == f"./{NASTY}.ER.report.html" and "img" not in {tag for tag, _ in elements(page)}


def test_thumbnails_are_small_and_damaged_previews_are_none(tmp_path):
    Image.fromarray(np.full((900, 1200, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    assert 100 < len(thumbnail(tmp_path / "a.jpg")) < 20_000
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    (tmp_path / "c.jpg").write_bytes(b"GIF89a")
    assert thumbnail(tmp_path / "b.jpg") == thumbnail(tmp_path / "c.jpg") == thumbnail(tmp_path / "none.jpg") == ""


def test_an_empty_batch_has_a_page(tmp_path):
    assert "nothing" in text_of(to_html([], tmp_path))
