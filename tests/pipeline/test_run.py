"""End to end: a slide through the whole run, with a generator that must give it back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.pipeline.slides import level0, small_config, tissue_picture, tree_hash, write_slide
from wsistain.errors import ConfigError, OutputError, SlideError
from wsistain.pipeline.run import run
from wsistain.slide.roi import parse_region


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "case.tiff", tissue_picture(700, 930))


@pytest.fixture(scope="module")
def whole(slide, tmp_path_factory):
    """The identity run that others are compared with."""
    out = tmp_path_factory.mktemp("whole")
    (report,) = run(slide, "ER", out, config=small_config())
    return out / "case.ER.ome.zarr", report


def test_identity_gives_the_slide_back_on_tissue(slide, whole):
    picture, stained = tissue_picture(700, 930), level0(whole[0])
    assert stained.shape == picture.shape
    is_tissue = picture[..., 1] < 200
    assert np.array_equal(stained[is_tissue], picture[is_tissue])


def test_all_tiles_gives_back_every_pixel(slide, tmp_path):
    run(slide, "ER", tmp_path, config=small_config(all_tiles=True))
    assert np.array_equal(level0(tmp_path / "case.ER.ome.zarr"), tissue_picture(700, 930))


def test_far_glass_is_blank(whole):
    assert np.all(level0(whole[0])[:10, :10] == 255)


def test_each_tile_is_generated_once_and_each_shard_written_once(whole):
    path, report = whole
    files = [p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert report.tiles_generated == report.tiles_planned > 0
    assert report.shards_written == len(files) > 0


def test_run_json_holds_the_names_that_scripts_rely_on(whole):
    facts = json.loads((whole[0].parent / "case.ER.run.json").read_text())
    names = (
        "tiles_planned tiles_generated shards_written unreadable_tiles seconds mp_per_second peak_rss_mb seam_score "
        "resumed_blocks provenance"
    )
    assert set(names.split()) <= set(facts)
    assert facts["provenance"]["virtual"] is True and "total" in facts["seconds"]
    assert (whole[0].parent / "case.ER.preview.jpg").stat().st_size > 0


def test_the_same_stain_as_a_tiff_for_qupath_comes_with_the_run_and_is_made_up_for_later(slide, tmp_path):
    config = small_config(output={"formats": "zarr,ome-tiff"})
    run(slide, "ER", tmp_path, config=config)
    tiff = tmp_path / "case.ER.ome.tif"
    made = tiff.read_bytes()
    off = np.abs(tifffile.imread(tiff).astype(int) - level0(tmp_path / "case.ER.ome.zarr"))
    assert off.mean() < 6  # JPEG of a picture that is noise
    tiff.unlink()
    assert run(slide, "ER", tmp_path, config=config, resume=True) == [] and tiff.read_bytes() == made


def test_a_tiff_that_lies_where_the_result_would_go_is_not_replaced_unasked(slide, tmp_path):
    config, tiff = small_config(output={"formats": ["zarr", "ome-tiff"]}), tmp_path / "case.ER.ome.tif"
    tiff.write_text("mine")
    with pytest.raises(OutputError, match=r"case.ER.ome.tif exists; pass --overwrite"):
        run(slide, "ER", tmp_path, config=config)
    assert tiff.read_text() == "mine" and not (tmp_path / "case.ER.ome.zarr").exists()


@pytest.mark.parametrize(
    "tiling",
    [{"block": 128}, {"block": 512}, {"block": 1024}, {"overlap": 0}, {"overlap": 32}, {"stride": 32}, {"halo": 8}],
)
def test_pixels_do_not_depend_on_blocks_and_identity_not_on_overlap(slide, whole, tmp_path, tiling):
    run(slide, "ER", tmp_path, config=small_config(tiling=tiling, all_tiles=True))
    picture = tissue_picture(700, 930)
    assert np.array_equal(level0(tmp_path / "case.ER.ome.zarr"), picture)


@pytest.mark.parametrize("block", [128, 512])
def test_the_bytes_do_not_depend_on_the_block_size(slide, whole, tmp_path, block):
    run(slide, "ER", tmp_path, config=small_config(tiling={"block": block}))
    assert tree_hash(tmp_path / "case.ER.ome.zarr") == tree_hash(whole[0])


def test_a_region_equals_the_crop_of_the_whole(slide, whole, tmp_path):
    run(slide, "ER", tmp_path, config=small_config(), region=parse_region("300,200,250,333"))
    stained, full = level0(tmp_path / "case.ER.ome.zarr"), level0(whole[0])
    facts = json.loads((tmp_path / "case.ER.run.json").read_text())
    y, x = facts["plan"]["origin_px"]["y"], facts["plan"]["origin_px"]["x"]
    assert (y, x) == (192, 256)
    assert np.array_equal(stained, full[y : y + stained.shape[0], x : x + stained.shape[1]])


def test_several_markers_are_stained_in_one_pass(slide, tmp_path):
    reports = run(slide, "ER,PR", tmp_path, config=small_config())
    assert [r.marker for r in reports] == ["ER", "PR"]
    assert tree_hash(tmp_path / "case.ER.ome.zarr") == tree_hash(tmp_path / "case.PR.ome.zarr")
    assert reports[0].tiles_generated == reports[0].tiles_planned


def test_an_existing_output_is_refused_and_a_finished_one_is_left_alone_by_resume(slide, tmp_path):
    run(slide, "ER", tmp_path, config=small_config())
    with pytest.raises(OutputError, match="--overwrite"):
        run(slide, "ER", tmp_path, config=small_config())
    assert run(slide, "ER", tmp_path, config=small_config(), resume=True) == []
    (report,) = run(slide, "ER", tmp_path, config=small_config(), overwrite=True)
    assert report.tiles_generated > 0


def test_resume_with_another_plan_says_what_changed(slide, tmp_path):
    run(slide, "ER", tmp_path, config=small_config())
    with pytest.raises(OutputError, match="plan"):
        run(slide, "ER", tmp_path, config=small_config(tiling={"overlap": 32}), resume=True)


def test_glass_alone_is_refused(tmp_path):
    blank = write_slide(tmp_path / "blank.tiff", np.full((400, 400, 3), 244, np.uint8))
    with pytest.raises(SlideError, match="no tissue"):
        run(blank, "ER", tmp_path / "out", config=small_config())
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_stain_that_is_glass_throughout_says_so(tmp_path):
    pixels = np.full((300, 400, 3), 255, np.uint8)
    pixels[:, :200] = tissue_picture(300, 200)
    case = write_slide(tmp_path / "case.tiff", pixels)
    region = parse_region("260,100,20,20")  # the tile to the left of it reaches into it
    (report,) = run(case, "ER", tmp_path / "out", config=small_config(), region=region)
    assert report.tiles_planned and not report.shards_written
    assert report.warnings == ["the stain is glass throughout: no tissue lies in what was stained, only beside it"]


def test_frozen_norm_is_refused_where_there_is_none(slide, tmp_path):
    with pytest.raises(ConfigError, match="instance norm"):
        run(slide, "ER", tmp_path, config=small_config(norm="slide"))
    assert not any(tmp_path.iterdir())


KILLED = """
import sys, os, signal
from tests.pipeline.slides import small_config
import wsistain.pipeline.run as r
n = 0
def watch(event):
    global n
    if event.done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
r.run(sys.argv[1], "ER", sys.argv[2], config=small_config(), resume=True, on_event=watch)
"""


def test_three_kills_and_a_resume_give_the_bytes_of_an_unbroken_run(slide, whole, tmp_path):
    for stop in (2, 4, 7):
        child = subprocess.run([sys.executable, "-c", KILLED, str(slide), str(tmp_path), str(stop)], check=False)
        assert child.returncode == -signal.SIGKILL
        assert not (tmp_path / "case.ER.ome.zarr" / "zarr.json").exists()
    (report,) = run(slide, "ER", tmp_path, config=small_config(), resume=True)
    assert report.resumed_blocks >= 7
    for fact in ("tiles_generated", "shards_written", "bytes_written", "blocks", "seam_score"):  # of the whole run
        assert getattr(report, fact) == getattr(whole[1], fact), fact
    assert tree_hash(tmp_path / "case.ER.ome.zarr") == tree_hash(whole[0])


def test_two_worker_processes_give_the_same_bytes(slide, whole, tmp_path):
    script = (
        "import sys\nfrom tests.pipeline.slides import small_config\nfrom wsistain.pipeline.run import run\n"
        "if __name__ == '__main__':\n    run(sys.argv[1], 'ER', sys.argv[2], config=small_config(), workers=2)\n"
    )
    path = tmp_path / "two.py"
    path.write_text(script)
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    start = time.monotonic()
    subprocess.run([sys.executable, str(path), str(slide), str(tmp_path / "out")], check=True, env=env, timeout=120)
    assert time.monotonic() - start < 120
    assert tree_hash(tmp_path / "out" / "case.ER.ome.zarr") == tree_hash(whole[0])


def test_a_run_without_a_network_never_loads_torch(slide, tmp_path):
    script = (
        "import sys\nfrom tests.pipeline.slides import small_config\nfrom wsistain.pipeline.run import run\n"
        "run(sys.argv[1], 'ER', sys.argv[2], config=small_config())\nsys.exit('torch' in sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", script, str(slide), str(tmp_path)]
    assert subprocess.run(command, check=False, env=env, timeout=120).returncode == 0
