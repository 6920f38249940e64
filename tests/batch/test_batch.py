"""`wsistain batch` for real: Snakemake, separate processes, a broken slide among good ones."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.pipeline.slides import level0, tissue_picture, write_slide
from wsistain.batch.workflow import run_batch, summarise_folder, workflow_folder
from wsistain.config import RunConfig
from wsistain.errors import ConfigError, OutputError

pytest.importorskip("snakemake")
ODD, ODD_NAME = "b {1}'two\udce4", "b_1_two"
"""A file name with a wildcard of Snakemake, a quote and a byte that is no text, and what the slide is called."""

SMALL = ["tiling.stride=64", "tiling.overlap=16", "tiling.block=256", "output.chunk=64", "output.shard=128"]


def batch(source, output, *more):
    """The command in its own process."""
    sets = [word for value in (*SMALL, "strict=true") for word in ("--set", value)]
    command = [sys.executable, "-m", "wsistain", "batch", source, "-o", output, "-w", "identity", *sets, *more]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=900)


def rows_of(output):
    with (output / "summary.csv").open(newline="") as file:
        return {(r["slide"], r["marker"]): r for r in csv.DictReader(file)}


def test_a_broken_slide_does_not_stop_the_others_and_a_second_call_does_what_is_missing(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pictures = {name: tissue_picture(200, 260, seed) for seed, name in enumerate(("a", ODD, "c"))}
    for name, picture in pictures.items():
        write_slide(folder / f"{name}.tiff", picture)
    good = (folder / "c.tiff").read_bytes()
    broken = bytearray(good)
    broken[2000:9000] = bytes(7000)  # tiles that cannot be decoded, in a slide that opens
    (folder / "c.tiff").write_bytes(broken)
    (folder / "cut.svs").write_bytes(good[:3000])
    (folder / "notes.txt").write_text("read me")

    first = batch(folder, output, "--marker", "ER,PR")
    assert first.returncode == 2, first.stderr
    rows = rows_of(output)
    states = {key: row["state"] for key, row in rows.items()}
    assert states == {
        **{(slide, marker): "done" for slide in ("a", ODD_NAME) for marker in ("ER", "PR")},
        **{(slide, marker): "failed" for slide in ("c", "cut") for marker in ("ER", "PR")},
        ("notes", ""): "skipped",
    }
    assert "cannot be decoded" in rows["c", "ER"]["message"] and "truncated" in rows["cut", "ER"]["message"]
    assert float(rows["a", "ER"]["mp_per_second"]) > 0 and rows["a", "ER"]["positive_fraction"] != ""
    assert "4 done, 4 failed, 1 skipped" in first.stdout.splitlines()[-1]
    assert {(row.slide, row.marker): row.state for row in summarise_folder(output)} == states
    tissue = pictures[ODD][..., 1] < 200
    assert (level0(output / f"{ODD}.PR.ome.zarr")[tissue] == pictures[ODD][tissue]).all()
    assert not (output / "c.ER.ome.zarr" / "zarr.json").exists()

    before = (output / "a.ER.run.json").stat().st_mtime_ns
    (folder / "c.tiff").write_bytes(good)
    (folder / "cut.svs").unlink()
    shutil.rmtree(output / f"{ODD}.ER.ome.zarr")
    targets = ("--cores", "all", "all", "batch/reports/a.ER-PR")
    second = batch(folder, output, "--marker", "ER,PR", "--", *targets)
    assert second.returncode == 0, second.stdout + second.stderr
    rows = rows_of(output)
    assert {row["state"] for key, row in rows.items() if key[0] != "notes"} == {"done"} and len(rows) == 7
    assert (output / "a.ER.run.json").stat().st_mtime_ns == before
    assert level0(output / f"{ODD}.ER.ome.zarr").shape == (200, 260, 3)
    tissue = pictures["c"][..., 1] < 200
    assert (level0(output / "c.ER.ome.zarr")[tissue] == pictures["c"][tissue]).all()
    report = json.loads((output / "batch" / "reports" / "a.ER-PR" / "results.json").read_text())
    assert [slide["marker"] for slide in report["slides"]] == ["ER", "PR"]


def test_flags_of_snakemake_pass_through_and_a_dry_run_stains_nothing(tmp_path, capfd):
    write_slide(tmp_path / "in.tiff", tissue_picture(96, 128))
    (tmp_path / "s.tsv").write_text("path\nin.tiff\n")
    (tmp_path / "cut.yaml").write_text("system: cut\n")
    (tmp_path / "pairs.tsv").write_text(
        "slide\the\tihc\tmarker\tpatient\nS1\tfile://x/a.svs\tfile://x/b.svs\tER\tP 7\n"
    )
    training = f"training={{er: {tmp_path / 'cut.yaml'}}}"
    targets = ("all", "evaluate_all", "pair_all", "train_all")
    done = batch(
        *(tmp_path / "s.tsv", tmp_path / "out", "--"),
        *("--dry-run", "--printshellcmds", "--config", training, f"pairs={tmp_path / 'pairs.tsv'}", "--", *targets),
    )
    assert done.returncode == 0, done.stderr
    assert all(f"wsistain {command} " in done.stderr for command in ("run", "evaluate --slides", "train"))
    cut = "wsistain pair file://x/a.svs file://x/b.svs --marker ER --name S1 --patient 'P 7' --patch-mpp 0.4661"
    assert cut in done.stderr
    assert not list((tmp_path / "out").glob("*.zarr"))
    with pytest.raises(ConfigError, match="Snakemake ended"):
        run_batch(tmp_path / "s.tsv", ["ER"], tmp_path / "out", config=RunConfig(), flags=["--no-such-flag"])
    assert "no-such-flag" in capfd.readouterr().err


def test_a_folder_of_strangers_needs_no_snakemake_run(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.txt").write_text("hello")
    (row,) = run_batch(tmp_path / "in", ["ER"], tmp_path / "out", config=RunConfig())
    assert row.state == "skipped"


def test_two_batches_on_one_output_are_refused(tmp_path):
    import fcntl

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.txt").write_text("hello")
    (tmp_path / "out" / "batch").mkdir(parents=True)
    held = os.open(tmp_path / "out" / "batch" / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another batch"):
            run_batch(tmp_path / "in", ["ER"], tmp_path / "out", config=RunConfig())
    finally:
        os.close(held)


@pytest.mark.parametrize("where", ["the folder itself", "nothing there", "a file in the way"])
def test_impossible_places_are_one_sentence(tmp_path, where):
    (tmp_path / "x.txt").write_text("hello")
    source, output = tmp_path, tmp_path / "out"
    if where == "the folder itself":
        output = tmp_path
    elif where == "nothing there":
        source = tmp_path / "none"
    else:
        output = tmp_path / "x.txt"
    with pytest.raises((ConfigError, OutputError)):
        run_batch(source, ["ER"], output, config=RunConfig())


def test_the_workflow_comes_with_the_package():
    folder = workflow_folder()
    assert {p.name for p in (folder / "rules").glob("*.smk")} == {
        "pair.smk",
        "stain.smk",
        "summary.smk",
        "evaluate.smk",
        "train.smk",
        "sheet.smk",
    }


def test_the_rules_call_wsistain_and_nothing_else():
    for rules in (workflow_folder() / "rules").glob("*.smk"):
        text = rules.read_text()
        assert text.count("shell:") == text.count('"{resources.known_markers}wsistain ')
        assert not re.search(r"^\s*(run|script|notebook|wrapper|container):", text, re.MULTILINE)


def snakemake(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_snakemake_finds_nothing_to_better_in_the_workflow(tmp_path):
    """`snakemake --lint` on the workflow with its own example configuration."""
    shutil.copytree(workflow_folder() / "config", tmp_path / "config")
    done = snakemake("--snakefile", workflow_folder() / "Snakefile", "--lint", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_for_the_workflow_catalogue_plans_the_stains_of_its_sheet(tmp_path):
    shutil.copytree(workflow_folder() / "catalogue", tmp_path, dirs_exist_ok=True)
    shutil.copytree(workflow_folder() / "config", tmp_path / "config")
    (tmp_path / "a.svs").touch()
    (tmp_path / "config" / "slides.tsv").write_text(f"slide\tpath\tmarkers\nc17\t{tmp_path / 'a.svs'}\tKi67\n")
    done = snakemake("--cores", 1, "-n", cwd=tmp_path)
    assert done.returncode == 0 and "batch/done/c17.Ki67.done" in done.stdout, done.stdout + done.stderr
