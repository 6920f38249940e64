"""The positive fraction of a batch's summary is that of `evaluate`, and is counted once."""

import json

import numpy as np
import pytest

from tests.evaluation.made import section
from tests.pipeline.slides import small_config, write_slide
from wsistain.batch import score
from wsistain.batch.score import Kept, count_slide
from wsistain.errors import OutputError
from wsistain.evaluation.slides import evaluate_slides
from wsistain.markers import find_marker
from wsistain.optics.scoring import count_stain, stain_od
from wsistain.pipeline.run import run

ER = find_marker("ER")


@pytest.fixture(scope="module")
def stained(tmp_path_factory):
    """A stain whose pixels are those of IHC-like tissue with glass round it."""
    folder = tmp_path_factory.mktemp("score")
    picture = np.full((330, 420, 3), 244, np.uint8)
    picture[30:300, 40:380] = section(1, 400, positive=0.6)[1][:270, :340]
    run(write_slide(folder / "a.tiff", picture, mpp=1.0), "ER", folder, config=small_config())
    return folder / "a.ER.ome.zarr", picture


def test_summary_and_evaluation_agree_to_the_last_bit(stained, monkeypatch):
    path, picture = stained
    (facts,) = evaluate_slides([path])["slides"]
    counts = count_slide(path, ER)
    assert facts["positive_fraction"] == counts.positive_fraction and facts["h_score"] == counts.h_score
    drawn = count_stain(stain_od(picture[30:300, 40:380]), ER.cutoffs)
    assert counts.positive_fraction == pytest.approx(drawn.positive_fraction, rel=0.2) and counts.reached[0] > 1000
    monkeypatch.setattr(score, "WINDOW_PX", 100)
    assert count_slide(path, ER) == counts


def test_what_was_counted_is_kept_until_the_stain_or_the_cutoffs_change(stained, tmp_path, monkeypatch):
    path, _ = stained
    kept = Kept(tmp_path / "scores.json")
    first = kept.count(path, ER)
    calls = []
    monkeypatch.setattr(score, "count_slide", lambda *a: calls.append(a) or first)
    assert Kept(tmp_path / "scores.json").count(path, ER) == first and not calls
    Kept(tmp_path / "scores.json").count(path, ER.model_copy(update={"cutoffs": (0.1, 0.3, 0.5)}))
    assert len(calls) == 1
    (tmp_path / "scores.json").write_text(json.dumps({"x": 3}))
    Kept(tmp_path / "scores.json").count(path, ER)
    assert len(calls) == 2
    with pytest.raises(OutputError, match="is not finished"):
        kept.count(tmp_path / "none.ome.zarr", ER)


def test_glass_has_no_share(tmp_path):
    slide = write_slide(tmp_path / "g.tiff", np.full((128, 128, 3), 255, np.uint8))
    run(slide, "ER", tmp_path, config=small_config(all_tiles=True))
    assert np.isnan(count_slide(tmp_path / "g.ER.ome.zarr", ER).positive_fraction)
