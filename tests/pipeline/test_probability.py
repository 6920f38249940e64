import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import zarr

from tests.generators.test_many_markers import weights as weights
from wsistain.config import RunConfig
from wsistain.errors import ConfigError, OutputError
from wsistain.output.metadata import _check
from wsistain.output.recognise import virtual_stain
from wsistain.phantom.quick_slide import write_quick_slide
from wsistain.pipeline.run import run
from wsistain.slide.reader import open_slide
from wsistain.weights.file import load_network

STORED = {"chunk": 32, "shard": 64}
TILING = {"stride": 64, "block": 64}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_quick_slide(tmp_path_factory.mktemp("slide") / "s.tiff", height=150, width=200, mpp=0.5)


def _config(weights, **options):
    return RunConfig.model_validate(
        {"weights": str(weights), "device": "cpu", "all_tiles": True, "probability": True, "output": STORED}
        | {"tiling": TILING}
        | options
    )


def _bytes(folder):
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and not f.name.endswith((".json", ".xml")) and not f.name.startswith(".z")
    }


def _level(folder, level):
    return np.asarray(zarr.open_array(folder, path=level, mode="r"))


@pytest.fixture(scope="module")
def stained(slide, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(slide, "ER,HER2", folder, config=_config(weights))
    return folder


def test_p_lies_beside_each_stain_as_one_pass_over_the_slide_tells_it(slide, weights, stained):
    network, _ = load_network(weights)
    opened = open_slide(slide)
    pixels = opened.read_level(0, 0, 0, 150, 200)
    opened.close()
    edge = -(-network.facts.halo_px // 4) * 4
    padded = np.full((152 + 2 * edge, 200 + 2 * edge, 3), 255, np.uint8)  # white all round, as a tile sees it
    padded[edge : edge + 150, edge : edge + 200] = pixels
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        whole = network.stain_and_tell(x, ["ER", "HER2"])
    for k, name in enumerate(("ER", "HER2")):
        found = _level(stained / f"s.{name}.ome.zarr" / "probability", "0")
        wanted = (255 * whole[k][1][0, 0, edge : edge + 150, edge : edge + 200]).round().numpy()
        assert found.shape == (1, 150, 200) and found.dtype == np.uint8
        assert np.abs(found[0].astype(int) - wanted).max() <= 1
        assert found.std() > 0


def test_the_stain_is_the_same_with_and_without_p(slide, weights, stained, tmp_path):
    run(slide, "ER", tmp_path, config=_config(weights, probability=False))
    alone, beside = _bytes(tmp_path / "s.ER.ome.zarr"), _bytes(stained / "s.ER.ome.zarr")
    assert alone == {name: value for name, value in beside.items() if not name.startswith("probability/")}
    assert not (tmp_path / "s.ER.ome.zarr" / "probability").exists()


def test_p_is_an_ome_zarr_of_its_own_that_says_what_it_is(stained):
    root = zarr.open_group(stained / "s.ER.ome.zarr", mode="r")
    layer = root["probability"]
    _check(layer, type("Spec", (), {"storage": RunConfig().output}))
    datasets = [g.attrs["ome"]["multiscales"][0]["datasets"] for g in (root, layer)]
    assert datasets[0] == datasets[1]
    for level in range(len(datasets[0])):
        assert root[str(level)].shape[1:] == layer[str(level)].shape[1:] and layer[str(level)].fill_value == 0
    facts = layer.attrs["wsistain"]
    assert (facts["layer"], facts["one"], facts["marker"], facts["virtual"]) == ("probability", 255, "ER", True)
    assert root.attrs["wsistain"]["layers"] == ["probability"] and "positive for ER" in facts["statement"]
    assert virtual_stain(stained / "s.ER.ome.zarr" / "probability") == "a virtual ER stain"
    assert not list(stained.rglob(".wsistain"))


def test_levels_of_p_are_means_of_the_one_below(stained):
    folder = stained / "s.ER.ome.zarr" / "probability"
    fine, coarse = _level(folder, "0")[0].astype(int), _level(folder, "1")[0]
    assert np.array_equal((fine[0::2, 0::2] + fine[1::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 1::2] + 2) // 4, coarse)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_p_is_the_same_after_an_interruption_and_in_other_blocks(slide, weights, tmp_path, ngff):
    stored = {**STORED, "ngff": ngff}
    run(slide, "ER", tmp_path / "whole", config=_config(weights, output=stored, tiling={**TILING, "block": 256}))

    def stop(event):
        if event.done == 2:
            raise KeyboardInterrupt

    config = _config(weights, output=stored)
    with pytest.raises(KeyboardInterrupt):
        run(slide, "ER", tmp_path / "torn", config=config, on_event=stop)
    torn = tmp_path / "torn" / "s.ER.ome.zarr"
    for file in list(torn.rglob("probability/0/**/*"))[-1:]:  # a file of the layer is lost: its block is done again
        if file.is_file():
            file.unlink()
    run(slide, "ER", tmp_path / "torn", config=config, resume=True)
    assert _bytes(torn) == _bytes(tmp_path / "whole" / "s.ER.ome.zarr")


def test_p_is_the_same_on_any_number_of_workers(slide, weights, stained, tmp_path):
    sets = {"output.chunk": 32, "output.shard": 64, "tiling.stride": 64, "tiling.block": 64}
    command = [
        sys.executable,
        "-m",
        "wsistain",
        "run",
        slide,
        "--marker",
        "ER,HER2",
        "--weights",
        weights,
        "--probability",
    ]
    command += ["--workers", "2", "--device", "cpu", "--all-tiles", "--output", tmp_path]
    command += [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=120)
    for name in ("ER", "HER2"):
        assert _bytes(tmp_path / f"s.{name}.ome.zarr") == _bytes(stained / f"s.{name}.ome.zarr")


def test_a_run_without_p_is_not_continued_with_it(slide, weights, tmp_path):
    run(slide, "ER", tmp_path, config=_config(weights, probability=False))
    with pytest.raises(OutputError, match=r"the probability \(was null, is true\)"):
        run(slide, "ER", tmp_path, config=_config(weights), resume=True)
    report = json.loads((tmp_path / "s.ER.run.json").read_text())
    assert report["provenance"]["layers"] == []


@pytest.mark.parametrize("name", ["identity", "demo"])
def test_p_is_refused_before_anything_is_made_where_the_system_tells_none(slide, tmp_path, name):
    with pytest.raises(ConfigError, match=r"tells no probability: of the systems only lpstain does"):
        run(slide, "ER", tmp_path / "out", config=_config(name, output={}, tiling={}))
    assert not (tmp_path / "out").exists()
