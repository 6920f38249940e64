import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.errors import DataError
from wsistain.evaluation.pair import CellPlaces
from wsistain.evaluation.patches import _resized_cells
from wsistain.evaluation.report import evaluate
from wsistain.evaluation.truth import cell_table, gather_cells, read_truth, truth_facts
from wsistain.markers import find_marker
from wsistain.phantom.products import make_patches

ER = find_marker("ER")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Phantom patches of ER: three for validation, from two slides."""
    root = tmp_path_factory.mktemp("phantom")
    make_patches(root, markers="ER", train=1, val=3, size=256, slides=3, seed=2)
    return root


@pytest.fixture(scope="module")
def results(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    found = evaluate([], phantom, output=folder / "o", nets=folder, workers=1)
    return found, folder / "o"


def test_cells_are_those_of_the_tables_of_section_a(phantom):
    refs = list_patches("mist", phantom, ER, "val")
    truth = read_truth(refs, ER, "val")
    assert truth is not None and truth.mpp == pytest.approx(0.4661) and 0.5 < truth.best_auc <= 1
    for ref in refs:
        table = pq.read_table(ref.he.parents[1] / "valCellsA" / f"{ref.name}.parquet")
        assert len(truth.places[ref.name].y) == table.num_rows == len(truth.positive[ref.name])
        assert truth.tumour[ref.name].sum() == table["type"].to_pylist().count("tumour")


def test_the_aligned_truth_read_in_the_same_way_tells_positive_cells_almost_perfectly(results):
    found, _ = results
    truth = found["truth"]
    assert truth["truth_auc"] > 0.98 > 0.5
    assert truth["best_attainable_auc"] < 1 and truth["n_cells"] >= truth["n_tumour_cells"] > 50
    assert truth["phantom"]["kind"] == "patches"


def test_identity_knows_nothing_of_the_marker_and_its_errors_say_so(results):
    found, _ = results
    identity = found["systems"]["identity"]["metrics"]
    assert identity["cell_auc"]["value"] < 0.8 < found["truth"]["truth_auc"]
    assert identity["cell_recall"]["value"] < 0.2 and identity["cell_h_error"]["value"] > 20
    assert {"area_r_truth", "dice_truth", "ssim_truth", "cell_auc_all"} <= set(identity)


def test_a_system_that_paints_the_truth_reaches_the_truths_own_numbers(phantom):
    refs = list_patches("mist", phantom, ER, "val")
    truth = read_truth(refs, ER, "val")
    from wsistain.evaluation.pair import measure_pair

    measures = []
    for ref in refs:
        he, real, aligned = (read_picture(p) for p in (ref.he, ref.ihc, ref.truth))
        measures.append(measure_pair(he, real, {"oracle": aligned}, ER, aligned, truth.places[ref.name]))
    cells = gather_cells(truth, refs, [m.cell_od for m in measures])
    table = cell_table(cells, "oracle", [r.slide for r in refs], ER)
    facts = truth_facts(truth, cells)
    assert table["cell_auc"].value == pytest.approx(facts["truth_auc"])
    assert table["cell_h_error"].value == 0
    assert table["cell_precision"].value > 0.9 and table["cell_recall"].value > 0.9
    assert all(m.systems["oracle"]["ssim_truth"] == pytest.approx(1) for m in measures)
    weak = measures[0].systems["oracle"]["ssim"]
    assert weak < 0.95  # the adjacent section is not the truth


def test_the_report_shows_what_can_be_reached(results):
    found, folder = results
    best = f"{found['truth']['best_attainable_auc']:.3f}"
    assert f"Best attainable cell AUC from H&E: {best}" in (folder / "results.md").read_text()
    assert "best from H&amp;E" in (folder / "report.html").read_text()


def test_a_missing_cell_table_and_a_damaged_manifest_are_refused(phantom):
    refs = list_patches("mist", phantom, ER, "val")
    table = refs[0].he.parents[1] / "valCellsA" / f"{refs[0].name}.parquet"
    manifest = refs[0].he.parents[2] / "manifest.json"
    kept_table, kept_manifest = table.read_bytes(), manifest.read_text()
    try:
        table.unlink()
        with pytest.raises(DataError, match="cell table"):
            read_truth(refs, ER, "val")
        table.write_bytes(b"PAR1 nothing")
        with pytest.raises(DataError, match="cell table"):
            read_truth(refs, ER, "val")
        for text in ("{", json.dumps({"parameters": {"mpp": "x"}}), json.dumps([1])):
            manifest.write_text(text)
            with pytest.raises(DataError, match="no manifest of phantom patches"):
                read_truth(refs, ER, "val")
        manifest.unlink()
        assert read_truth(refs, ER, "val") is None
    finally:
        table.write_bytes(kept_table)
        manifest.write_text(kept_manifest)


def test_cells_move_with_a_picture_that_is_resized():
    cells = CellPlaces(np.array([-0.5, 99.5, 49.5]), np.array([49.5, -0.5, 199.5]), "nuclear", 0.5)
    moved = _resized_cells(cells, 100, 200, 50)
    assert moved.y == pytest.approx([-0.5, 49.5, 24.5]) and moved.x == pytest.approx([12, -0.5, 49.5])
    assert moved.mpp == pytest.approx(0.5 * math.sqrt(2 * 4))
    assert _resized_cells(None, 10, 10, 5) is None
