"""The page of a reading: it says what was read, keeps to itself, and what others named is text."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.pages.pages import check_self_contained, elements, text_of
from tests.viewing.test_trust import write_trust
from wsistain.output.reading import read_stain
from wsistain.reading.regions import Region, Regions
from wsistain.reading.report import to_html
from wsistain.reading.scores import Estimate, Scores
from wsistain.reading.shown import view_of

NASTY = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"


def page_of(reading, drawn=None, **changes):
    view = view_of(reading.result.stain, reading.facts["slide"]["mpp"])
    he = np.full((view.height, view.width, 3), 220, np.uint8)
    return to_html(replace(reading, **changes), view, he, drawn or Regions())


def with_provenance(reading, **told):
    stain = replace(reading.result.stain, provenance={**reading.result.stain.provenance, **told})
    return replace(reading.result, stain=stain)


def test_the_page_beside_the_stain_tells_what_the_table_does(reading):
    page = reading.files["report"].read_text(encoding="utf-8")
    check_self_contained(page)
    text = text_of(page)
    value = reading.slide.numbers["percent_positive"]
    assert f"{value.value:.1f} %" in text and reading.slide.category in text
    assert "research use only, not for diagnosis" in text and "VIRTUAL" in text
    assert "no trust" in text and "Trust map: not made" not in text
    assert "Guidelines count invasive tumour cells" in text
    assert (
        len([1 for tag, _ in elements(page) if tag == "image"]) == 4
    )  # H&E, stain, maps of positive cells and of trust


def test_what_others_named_is_text(reading):
    told = {
        "slide": {"name": NASTY + ".tif", "fingerprint": NASTY},
        "weights": {"name": NASTY, "licence": NASTY, "training_data": NASTY, "sha256": NASTY},
        "note": NASTY,
        "statement": NASTY,
        "trust": {"verdict": NASTY, "why": NASTY, "unlike": 0.5},
    }
    ring = np.array([[0, 0], [0, 300], [300, 300]], float)
    regions = Regions((Region(NASTY, ((ring,),), (), False),), True, (NASTY,))
    page = page_of(
        reading,
        regions,
        result=with_provenance(reading, **told),
        regions={NASTY: reading.slide},
        facts={**reading.facts, "roi": NASTY, "cells": NASTY, "notes": [NASTY]},
    )
    check_self_contained(page)
    assert "img" not in {tag for tag, _ in elements(page)} and text_of(page).count("<img src=x") > 8


@pytest.mark.parametrize(
    ("trust", "kind", "words"),
    [
        ({"verdict": "unlike training", "unlike": 0.77, "squares": 97, "why": "seen nothing"}, "bad", "Do not believe"),
        ({"verdict": "partly unlike training", "unlike": 0.2, "squares": 97, "why": ""}, "warn", "20% of 97"),
        ({"verdict": "like training", "unlike": 0.0, "squares": 97, "why": ""}, "good", "nothing of whether"),
        (None, "unknown", "not known"),
    ],
)
def test_the_verdict_is_plain(reading, trust, kind, words):
    page = page_of(reading, result=with_provenance(reading, trust=trust))
    assert f'class="verdict {kind}"' in page and words in text_of(page)


def test_weights_of_synthetic_tissue_are_called_so(reading):
    told = with_provenance(reading, note="", weights={"training_data": "Synthetic phantom"})
    assert "Trained on synthetic tissue" in text_of(page_of(reading, result=told))


def test_intervals_and_regions_stand_in_the_table(reading):
    scores = Scores(12, 3, {"percent_positive": Estimate(41.23, 30.04, 55.55), "odd_score": Estimate(None)}, "positive")
    ring = np.array([[0, 0], [0, 300], [300, 300]], float)
    drawn = Region("Tumour", ((ring,),), (), True)
    page = page_of(reading, Regions((drawn,), True), regions={"Tumour": scores}, slide=scores)
    text = text_of(page)
    assert "30.0 to 55.5" in text and "Tumour: 12 cells" in text and "odd score" in text and "3 not read" in text
    assert "Guidelines count" not in text


def test_a_trust_map_is_shown_where_there_is_one(reading, tmp_path):
    path = tmp_path / "trusted.ER.ome.zarr"
    shutil.copytree(reading.result.stain.path, path)
    write_trust(path, np.array([[255, 1, 1], [0, 255, 1]], np.uint8))
    result = replace(reading.result, stain=read_stain(path))
    text = text_of(page_of(reading, result=result))
    assert "not made" not in text and "below one half in 60%" in text
    write_trust(path, np.zeros((3, 3), np.uint16))
    assert "Trust map: " in text_of(page_of(reading, result=result))


def test_a_slide_on_which_nothing_counts_says_so(reading):
    kept = replace(reading.kept, counted=[np.zeros(len(c), bool) for c in reading.kept.counted])
    empty = Scores(0, 0, {"percent_positive": Estimate(None), "h_score": Estimate(None)}, "")
    page = page_of(reading, kept=kept, slide=empty, hotspot=None)
    check_self_contained(page)
    assert "No cell that counts was read" in text_of(page)
