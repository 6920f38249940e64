from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from tests.systems.test_lpstain import BOTH
from wsistain.config import RunConfig
from wsistain.generators.load import build_generator, find_generator
from wsistain.generators.spec import stain_all
from wsistain.markers import find_marker
from wsistain.networks.expression import ExpressionNet
from wsistain.phantom.quick_slide import write_quick_slide
from wsistain.pipeline.run import run
from wsistain.systems.lpstain import Config, LPStain
from wsistain.weights.file import Header, save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    system = LPStain(Config.tiny({"dyes": {name: d.model_dump() for name, d in BOTH.items()}}), find_marker("ER"))
    facts = system.G.facts
    header = Header(
        system="lpstain",
        options=system.header_options(),
        markers=list(BOTH),
        mpp=0.5,
        tile_px=64,
        size_multiple=facts.size_multiple,
        halo_px=facts.halo_px,
        norm="frozen",
    )
    path = tmp_path_factory.mktemp("weights") / "two.safetensors"
    save_weights(path, header, system.generator_state())
    return path


def test_a_shared_network_is_loaded_and_run_once_and_stains_as_each_alone(weights, monkeypatch):
    specs = [find_generator(str(weights), name) for name in ("HER2", "ER")]
    alone = [build_generator(s, device="cpu") for s in specs]
    first = build_generator(specs[0], device="cpu")
    both = [first, build_generator(specs[1], device="cpu", beside=[first])]
    assert both[1].network is first.network and [g.spec.marker for g in both] == ["HER2", "ER"]
    identity = build_generator(find_generator("identity", "PR"))
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    places = [(0, 0), (0, 64)]
    asked = []
    original = ExpressionNet.logits
    monkeypatch.setattr(
        ExpressionNet, "logits", lambda self, x, m, cut: asked.append(len(m)) or original(self, x, m, cut)
    )
    found = stain_all([both[0], identity, both[1]], tiles, places)
    assert asked == [2, 2]  # once a tile, for two markers
    assert np.array_equal(found[1], tiles)
    for k, generator in ((0, alone[0]), (2, alone[1])):
        assert np.array_equal(found[k], generator.stain(tiles, places))
    assert not np.array_equal(found[0], found[2])
    for whole, core in zip(found, stain_all([both[0], identity, both[1]], tiles, places, 20), strict=True):
        assert np.abs(core.astype(int) - whole[:, 20:-20, 20:-20]).max() <= 1


def test_a_run_of_two_markers_gives_the_bytes_of_two_runs(weights, tmp_path):
    slide = write_quick_slide(tmp_path / "s.tiff", height=150, width=200, mpp=0.5)
    config = RunConfig(weights=str(weights), device="cpu", all_tiles=True)
    run(slide, "ER,HER2", tmp_path / "both", config=config)
    for name in ("ER", "HER2"):
        run(slide, name, tmp_path / "one", config=config)
        pixels = [
            np.asarray(zarr.open_array(tmp_path / folder / f"s.{name}.ome.zarr", path="0", mode="r"))
            for folder in ("both", "one")
        ]
        assert np.array_equal(*pixels)
