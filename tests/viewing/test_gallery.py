import json

import numpy as np
import pytest

from tests.pipeline.slides import write_slide
from tests.viewing.made import MPP, gallery_of, write_parquet_cells
from wsistain.errors import ConfigError, OutputError, SlideError
from wsistain.output.journal import open_journal
from wsistain.output.store import create_output
from wsistain.output.unfinished import describe_begun
from wsistain.viewing.gallery import Gallery
from wsistain.viewing.samples import make_wanted
from wsistain.viewing.tables import cells_file, known_scores


def named(listing, marker):
    return next(r for r in listing["results"] if r["marker"] == marker)


def test_results_of_one_slide_are_one_sample_with_its_h_and_e(case):
    listing = gallery_of(case).listing()
    (sample,) = listing["samples"]
    assert [r["marker"] for r in listing["results"]] == ["ER", "HER2"] and not listing["is_live"]
    assert sample["results"] == [r["id"] for r in listing["results"]]
    assert sample["picture"]["height"] == 700 and sample["mpp"] == MPP
    assert "research" in listing["statement"] and "seam_score" in named(listing, "ER")["scores"]


def test_a_region_of_another_scale_lies_right_over_the_h_and_e(case):
    gallery = gallery_of(case)
    listing = gallery.listing()
    region, he = named(listing, "HER2")["picture"], listing["samples"][0]["picture"]
    stain, slide = gallery.picture(region["name"]).tile(0, 0, 0), gallery.picture(he["name"]).tile(1, 0, 0)
    y, x = (round((region[f"{a}_um"] - he[f"{a}_um"]) / region["mpp"]) for a in "yx")
    under = slide[y : y + 256, x : x + 320]
    assert np.abs(stain[:256, :320].astype(int) - under).mean() < 1  # the same pixels, by exact means
    shifted = slide[y + 1 : y + 257, x : x + 320]
    assert np.abs(stain[:256, :320].astype(int) - shifted).mean() > 3


def test_without_a_slide_the_one_beside_the_folder_is_found(case, tmp_path):
    assert "picture" in Gallery(make_wanted([case.er])).listing()["samples"][0]
    lonely = tmp_path / "case.ER.ome.zarr"
    lonely.symlink_to(case.er)
    listing = Gallery(make_wanted([lonely])).listing()
    assert "picture" not in listing["samples"][0] and named(listing, "ER")["picture"]


def test_another_slide_is_refused_before_anything_is_shown(case, tmp_path):
    other = write_slide(tmp_path / "other.tiff", np.full((400, 400, 3), 200, np.uint8), mpp=MPP)
    with pytest.raises(SlideError, match="is not the slide of"):
        Gallery(make_wanted([case.er], slides=[other]))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(OutputError, match="does not exist"):
        make_wanted([case.er], slides=[tmp_path / "nothing.svs"])
    with pytest.raises(OutputError, match="holds no results"):
        Gallery(make_wanted([empty]))


def test_names_that_are_no_pictures_give_none(case):
    gallery = gallery_of(case)
    id = named(gallery.listing(), "ER")["id"]
    for name in (
        "",
        ".",
        "he-",
        "he-x",
        f"{id}.nothing",
        f"{id}.positivity.x",
        "../etc",
        f"he-{id}",
        f"he-{id}.tissue",
    ):
        assert gallery.picture(name) is None, name


def test_cells_beside_a_result_are_found_and_counted_in_an_area(case):
    gallery = gallery_of(case)
    id = named(gallery.listing(), "ER")["id"]
    assert gallery.cells(id) is None
    path = write_parquet_cells(case.er.with_name("case.ER.cells.parquet"))
    try:
        assert cells_file(case.er, None) == path and named(gallery.listing(), "ER")["cells"] is True
        scores = gallery.score(id, [[60, 60], [120, 60], [120, 130], [60, 130]])
        assert sum(scores["cells"].values()) == 2 and scores["tissue_of"] == "H&E"
    finally:
        path.unlink()
    assert gallery.score("nothing", []) is None


def test_drawn_areas_are_shown_in_micrometres(case, tmp_path):
    roi = tmp_path / "roi.geojson"
    roi.write_text('{"type":"Polygon","coordinates":[[[10,20],[110,20],[110,220],[10,20]]]}')
    gallery = gallery_of(case, roi=roi)
    (shape,) = gallery.shapes(gallery.listing()["samples"][0]["id"])
    assert shape["rings"][0][0] == [10 * MPP, 20 * MPP]
    roi.write_text("{}")
    with pytest.raises(ConfigError):
        gallery_of(case, roi=roi)


def test_a_run_that_goes_on_is_followed_from_its_first_block_to_its_end(tmp_path):
    from tests.output.making import block_of, small_spec, tissue_like
    from wsistain.output.metadata import write_metadata
    from wsistain.output.pyramid import finish_pyramid
    from wsistain.output.store import write_block

    spec = small_spec(tmp_path / "a.ER.ome.zarr", 200, 300)
    gallery = Gallery(make_wanted([], expected=[spec.folder]))
    assert gallery.listing()["results"] == [] and gallery.listing()["is_live"]
    pixels = tissue_like(200, 300)
    with open_journal(spec.path, {"plan": "p"}, False, False) as journal:
        create_output(spec)
        describe_begun(spec, {"marker": "ER", "blocks": 6, "slide": {"name": "a.svs"}})
        gallery.scan(now=True)
        told = named(gallery.listing(), "ER")
        assert told["state"] == "running" and told["blocks"] == {"done": 0, "total": 6}
        picture = gallery.picture(told["id"])
        assert (picture.tile(0, 0, 0) == 255).all()
        for row in range(2):
            for col in range(3):
                journal.append(write_block(spec, row, col, block_of(spec, pixels, row, col)))
        gallery.scan(now=True)
        assert named(gallery.listing(), "ER")["blocks"]["done"] == 6
        assert np.array_equal(gallery.picture(told["id"]).tile(0, 0, 0), pixels)
        with pytest.raises(ConfigError, match="once it is finished"):
            gallery.score(told["id"], [[0, 0], [1, 0], [1, 1]])
        finish_pyramid(spec)
        write_metadata(spec, {"marker": "ER", "system": "test"}, "a", key={"plan": "p"})
        journal.finish()
    gallery.scan(now=True)
    assert named(gallery.listing(), "ER")["state"] == "finished" and not gallery.listing()["is_live"]
    assert np.array_equal(gallery.picture(told["id"]).tile(0, 0, 0), pixels)


def test_scores_that_were_computed_before_are_told(tmp_path):
    path = tmp_path / "a.ER.ome.zarr"
    assert known_scores(path) == {}
    (tmp_path / "a.ER.run.json").write_text('{"seam_score": 1.02}')
    told = {"cells": 9, "category": "positive", "h_score": {"value": 120.5, "low": 100.0, "high": 130.0}}
    (tmp_path / "a.ER.read.json").write_text(json.dumps({"scores": {"slide": told}}))
    assert known_scores(path) == {"seam_score": 1.02, **told}
    for wrong in ("[]", "{", '{"scores": 3}', '{"scores": {"slide": {}}}', '{"scores": {"slide": null}}'):
        (tmp_path / "a.ER.read.json").write_text(wrong)
        assert known_scores(path) == {"seam_score": 1.02}
