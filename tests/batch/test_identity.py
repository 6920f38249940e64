"""Who a slide is: the same however the folder changes, and never somebody else's result."""

import json
import os
import random
import shutil

import pytest

from tests.batch.made import batch, in_process
from tests.pipeline.slides import tissue_picture, write_slide
from wsistain.config import RunConfig

pytest.importorskip("snakemake")


@pytest.fixture(autouse=True)
def no_snakemake(monkeypatch):
    in_process(monkeypatch)


def slide(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_slide(path, tissue_picture(128, 128, seed))


def facts(output, row):
    """Name of the slide's file and time of the result that a row names."""
    report = output / row.result.replace(".ome.zarr", ".run.json")
    return json.loads(report.read_text())["provenance"]["slide"], report.stat().st_mtime_ns


def check(output, rows):
    """Every row's result is of the row's own bytes, no two share one, and nothing failed."""
    from wsistain.slide.reader import open_slide

    assert {r.state for r in rows.values()} <= {"done", "skipped"}, rows
    done = {name: r for name, r in rows.items() if r.state == "done"}
    assert len({r.result.lower() for r in done.values()}) == len({r.slide.lower() for r in done.values()}) == len(done)
    for row in done.values():
        opened = open_slide(row.path)
        assert facts(output, row)[0]["fingerprint"] == opened.info.fingerprint == row.fingerprint
        opened.close()
    return done


@pytest.mark.parametrize("order", range(4))
def test_slides_that_come_later_rename_nobody_in_any_order(tmp_path, order):
    places = ["b/slide.tiff", "c/slide.tiff", "slide.tiff", "slide.tif", "a/slide.tiff", "a_slide.tiff", "SLIDE.btf"]
    random.Random(order).shuffle(places)
    source, output = tmp_path / "in", tmp_path / "out"
    before = {}
    for number, place in enumerate(places):
        slide(source / place, number)
        if number % 2 and number < len(places) - 1:
            continue
        if number == 4:
            (output / "batch" / "slides.tsv").unlink()  # a lost sheet: the results themselves know
        done = check(output, batch(source, output, recursive=True))
        assert len(done) == number + 1
        for name, (result, when) in before.items():
            assert (done[name].result, facts(output, done[name])[1]) == (result, when), name
        before = {name: (row.result, facts(output, row)[1]) for name, row in done.items()}


def test_a_byte_copy_under_another_name_has_a_row_and_a_result(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    first = slide(source / "case_1.tiff", 1)
    shutil.copy(first, source / "case_2.tiff")
    shutil.copy(first, source / "case_1.tif")
    os.link(first, source / "x.tiff")
    done = check(output, batch(source, output))
    assert {r.slide for r in done.values()} >= {"case_1", "case_2", "x"} and len(done) == 4


def test_a_sheet_of_an_older_version_is_kept_where_it_is_right_and_mended_where_it_is_wrong(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate("abc"):
        slide(source / name / "slide.tiff", seed)
    old = ["slide\tpath\tmarkers\tmpp\tfolder"]
    old += [f"{i}\t{source}/{n}/slide.tiff\tER\t\t{i}" for n, i in (("b", "slide"), ("c", "slide-2"))]
    from tests.pipeline.slides import small_config
    from wsistain.pipeline.run import run

    for name, folder in (("b", "slide"), ("c", "slide-2")):
        run(source / name / "slide.tiff", "ER", output / folder, config=small_config())
    (output / "batch").mkdir()
    wrong = [row.replace("/b/", "/a/").replace("/c/", "/b/") for row in old]  # as renumbering left it
    for text in (old, wrong):
        (output / "batch" / "slides.tsv").write_text("\n".join(text) + "\n")
        done = check(output, batch(source, output, recursive=True))
        assert done["b/slide.tiff"].result == "slide/slide.ER.ome.zarr"
        assert done["c/slide.tiff"].result == "slide-2/slide.ER.ome.zarr"


def test_a_slide_replaced_under_its_own_name_is_told_and_overwrite_mends_it(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    slide(source / "a.tiff", 1)
    slide(source / "b.tiff", 2)
    check(output, batch(source, output))
    slide(source / "a.tiff", 3)
    rows = batch(source, output)
    assert (
        rows["b.tiff"].state == "done" and rows["a.tiff"].state == "failed" and "--overwrite" in rows["a.tiff"].message
    )
    check(output, batch(source, output, overwrite=True))


def test_a_marker_of_done_is_no_proof_when_the_result_is_of_other_bytes(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    slide(source / "a.tiff", 1)
    slide(tmp_path / "other" / "a.tiff", 2)
    batch(source, output)
    first = facts(output, batch(source, output)["a.tiff"])
    rows = batch(tmp_path / "other", output)  # another folder into the same output
    assert rows["a.tiff"].state == "done" and rows["a.tiff"].result != "a.ER.ome.zarr"
    assert facts(output, batch(source, output)["a.tiff"]) == first
    check(output, batch(tmp_path / "other", output))


def test_mpp_is_for_slides_that_have_none(tmp_path):
    import tifffile

    source, output = tmp_path / "in", tmp_path / "out"
    slide(source / "has.tiff", 1)
    tifffile.imwrite(source / "none.tif", tissue_picture(256, 256, 2), tile=(64, 64), photometric="rgb", metadata=None)
    rows = batch(source, output, config=RunConfig(weights="identity", mpp=0.25))
    assert [facts(output, rows[n])[0]["mpp"] for n in ("has.tiff", "none.tif")] == [0.5, 0.25]
    (source / "s.csv").write_text("Path;MPP;patient\nhas.tiff;0,25;7\nnone.tif;0,3;8\n")
    told = []
    rows = batch(source / "s.csv", tmp_path / "out2", tell=told.append)
    assert [facts(tmp_path / "out2", rows[n])[0]["mpp"] for n in ("has.tiff", "none.tif")] == [0.5, 0.3]
    assert "0.25 was not used: the slide says 0.5" in rows["has.tiff"].message and "patient" in told[0]


def test_a_blank_slide_is_a_row_of_its_own_kind(tmp_path):
    import numpy as np

    source, output = tmp_path / "in", tmp_path / "out"
    slide(source / "a.tiff", 1)
    write_slide(source / "blank.tiff", np.full((128, 128, 3), 244, np.uint8))
    for _ in range(2):
        rows = batch(source, output)
        assert {n: r.state for n, r in rows.items()} == {"a.tiff": "done", "blank.tiff": "no tissue"}


def test_a_blank_slide_is_looked_at_again_only_when_something_changed(tmp_path):
    import numpy as np

    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_slide(source / "blank.tiff", np.full((128, 128, 3), 244, np.uint8))
    log = output / "batch" / "logs" / "blank.ER.log"

    def is_looked_at(**options):
        if log.exists():
            log.write_text(f"kept\n{log.read_text()}")
        batch(source, output, **options)
        return "kept" not in log.read_text()

    assert is_looked_at()
    assert not is_looked_at() and not is_looked_at()
    assert is_looked_at(overwrite=True)
    assert is_looked_at(config=RunConfig(weights="identity", mpp=None, batch_size=3))
    write_slide(source / "blank.tiff", np.full((128, 128, 3), 243, np.uint8))
    assert is_looked_at(config=RunConfig(weights="identity", mpp=None, batch_size=3))
