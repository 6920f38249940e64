import csv
import io
import json
import shutil

import imagecodecs
import numpy as np
import pytest

from tests.evaluation.made import section
from tests.pages.pages import check_self_contained
from tests.pipeline.slides import small_config, write_slide
from wsistain.errors import ConfigError, DataError, OutputError, SlideError
from wsistain.evaluation.slide_page import heat_map
from wsistain.evaluation.slides import evaluate_slides
from wsistain.evaluation.stain_map import CELL_UM, map_stain
from wsistain.markers import find_marker
from wsistain.optics.scoring import count_stain, stain_od
from wsistain.pipeline.run import run
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import TissueMask

ER = find_marker("ER")


def ihc_picture(height: int = 520, width: int = 640, *, positive: float = 0.7) -> np.ndarray:
    """IHC-like tissue with a share `positive` of brown nuclei in one half, glass round it."""
    picture = np.full((height, width, 3), 244, np.uint8)
    left, right = section(1, 400, positive=positive)[1], section(2, 400, positive=0.02)[1]
    picture[40:440, 40:300] = left[:, :260]
    picture[40:440, 300:560] = right[:, :260]
    picture[150:220, 420:500] = 244
    return picture


@pytest.fixture(scope="module")
def stained(tmp_path_factory):
    """A finished virtual slide whose pixels are those of `ihc_picture`, and the picture."""
    folder = tmp_path_factory.mktemp("slides")
    picture = ihc_picture()
    source = write_slide(folder / "case.tiff", picture, mpp=1.0)
    run(source, "ER", output=folder, config=small_config())
    return folder / "case.ER.ome.zarr", picture


def test_facts_of_a_finished_slide_are_those_of_its_pixels(stained):
    path, picture = stained
    facts = evaluate_slides([path])["slides"][0]
    of_the_run = json.loads(path.with_name("case.ER.run.json").read_text())["seam_score"]
    assert facts["seam_score"] == of_the_run and of_the_run is not None
    assert facts["name"] == "case.ER" and facts["system"] == "identity" and facts["marker"] == "ER"
    tissue = 400 * 520 * 1e-6  # mm2, drawn above
    assert facts["tissue_mm2"] == pytest.approx(tissue, rel=0.15)
    od = stain_od(picture[40:440, 40:560])
    assert facts["positive_fraction"] == pytest.approx((od >= 0.15).mean(), rel=0.2)
    assert facts["h_score"] == pytest.approx(count_stain(od, ER.cutoffs).h_score, rel=0.2)


def test_the_map_is_that_of_the_pixels_square_by_square_and_does_not_depend_on_windows(stained, monkeypatch):
    path, picture = stained
    slide = open_slide(path)
    everywhere = TissueMask.everywhere(slide.info)
    found = map_stain(slide, everywhere, ER)
    px = round(CELL_UM)
    od = stain_od(picture)
    assert found.tissue.shape == (-(-520 // px), 640 // px) and found.cell_um == px
    assert found.counts[0, 2, 3] == pytest.approx((od[2 * px : 3 * px, 3 * px : 4 * px] >= 0.15).mean())
    assert found.total.positive_fraction == (od >= 0.15).mean()
    assert found.total == count_stain(od, ER.cutoffs)
    monkeypatch.setattr("wsistain.evaluation.stain_map._WINDOW_PX", 128)
    rows = []
    again = map_stain(slide, everywhere, ER, progress=lambda done, n: rows.append((done, n)))
    assert np.array_equal(again.counts, found.counts) and np.array_equal(again.tissue, found.tissue)
    assert rows[-1] == (520, 520)
    nothing = TissueMask(np.zeros_like(everywhere.mask), everywhere.downsample)
    assert np.isnan(map_stain(slide, nothing, ER).total.positive_fraction)
    slide.close()


def test_a_registered_real_slide_of_the_same_tissue_agrees(stained, tmp_path):
    path, picture = stained
    turned = np.ascontiguousarray(np.rot90(picture))
    reference = write_slide(tmp_path / "real.tiff", turned, mpp=1.0)
    facts = evaluate_slides([path], reference=reference)["slides"][0]["reference"]
    matrix = np.array(facts["matrix_yx_px"])
    point = np.array([200.0, 150.0]) / facts["mpp"]
    there = (matrix[:, :2] @ point + matrix[:, 2]) * facts["mpp"]
    assert there == pytest.approx([640 - 1 - 150, 200], abs=3)
    assert facts["area_r_64um"] > 0.95 and facts["correlation"] > 0.95
    assert facts["positive_fraction_virtual"] == pytest.approx(facts["positive_fraction_real"], rel=0.1)
    assert facts["residual_um_median"] is None or facts["residual_um_median"] < 3


def test_a_real_slide_with_other_stain_in_the_same_tissue_disagrees(stained, tmp_path):
    path, _ = stained
    other = write_slide(tmp_path / "real.tiff", ihc_picture(positive=0.0), mpp=1.0)
    facts = evaluate_slides([path], reference=other)["slides"][0]["reference"]
    assert facts["positive_fraction_real"] < 0.01 < facts["positive_fraction_virtual"]
    assert facts["h_score_virtual"] > facts["h_score_real"] + 5
    assert facts["area_r_64um"] is None or facts["area_r_64um"] < 0.5


def test_report_files_are_written_and_agree(stained, tmp_path):
    path, _ = stained
    results = evaluate_slides([path], output=tmp_path / "o")
    folder = tmp_path / "o"
    assert json.loads((folder / "results.json").read_text()) == results
    row = next(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert float(row["seam_score"]) == pytest.approx(results["slides"][0]["seam_score"])
    html = (folder / "report.html").read_text()
    check_self_contained(html)
    assert html.count("data:image/jpeg;base64,") == 3 and html.count('class="legend"') == 2 and "seam_score" in html
    assert "| case.ER |" in (folder / "results.md").read_text()
    maps = np.load(folder / "case.ER.map.npz")
    assert maps["positive_fraction"].shape == maps["h_score"].shape == maps["tissue"].shape
    assert imagecodecs.png_decode((folder / "case.ER.positive.png").read_bytes()).ndim == 3
    with pytest.raises(OutputError, match="--overwrite"):
        evaluate_slides([path], output=folder)
    assert evaluate_slides([path], output=folder, overwrite=True)["slides"] == results["slides"]


def test_without_run_json_the_seam_score_is_missing_with_the_reason(stained, tmp_path):
    path, _ = stained
    beside = path.with_name("case.ER.run.json")
    kept = beside.read_text()
    try:
        beside.unlink()
        facts = evaluate_slides([path], output=tmp_path / "o")["slides"][0]
        assert facts["seam_score"] is None and "is not beside the slide" in facts["seam_score_missing"]
        assert "is not beside the slide" in (tmp_path / "o" / "report.html").read_text()
        beside.write_text("[]")
        assert "does not say" in evaluate_slides([path])["slides"][0]["seam_score_missing"]
    finally:
        beside.write_text(kept)


def test_bad_input_is_refused(stained, tmp_path):
    path, _ = stained
    with pytest.raises(ConfigError, match="no slides"):
        evaluate_slides([])
    with pytest.raises(ConfigError, match="called alike"):
        evaluate_slides([path, path])
    with pytest.raises(OutputError, match="does not exist"):
        evaluate_slides([tmp_path / "absent.ome.zarr"])
    with pytest.raises(SlideError):
        evaluate_slides([path], reference=tmp_path / "absent.svs")
    blank = write_slide(tmp_path / "blank.tiff", np.full((300, 300, 3), 244, np.uint8), mpp=1.0)
    with pytest.raises(DataError, match="cannot be registered"):
        evaluate_slides([path], reference=blank)


def test_a_result_with_a_damaged_chunk_is_refused(stained, tmp_path):
    broken = tmp_path / "broken.ER.ome.zarr"
    shutil.copytree(stained[0], broken)
    chunk = next(p for p in sorted((broken / "0").rglob("*")) if p.is_file() and p.name != "zarr.json")
    data = bytearray(chunk.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    chunk.write_bytes(data)
    with pytest.raises(OutputError, match=r"is damaged: .* of its chunks cannot be decoded; stain it again"):
        evaluate_slides([broken])


def test_the_heat_map_darkens_with_the_value_and_greys_what_is_not_known():
    picture = heat_map(np.array([[0.0, 0.5], [1.0, np.nan]]), 1.0)
    side = picture.shape[0] // 2
    light = picture.mean(axis=2)[::side, ::side]
    assert light[0, 0] > light[0, 1] > light[1, 0]
    assert len(set(picture[-1, -1].tolist())) == 1


def test_two_results_of_one_name_are_told_apart_by_their_folders(stained, tmp_path):
    import shutil

    path, _ = stained
    places = [tmp_path / name / path.name for name in ("one", "two")]
    for place in places:
        shutil.copytree(path, place)
    results = evaluate_slides(places, output=tmp_path / "report")
    assert [s["name"] for s in results["slides"]] == ["one.case.ER", "two.case.ER"]
    assert {p.name for p in (tmp_path / "report").glob("*.map.npz")} == {"one.case.ER.map.npz", "two.case.ER.map.npz"}
