"""Every shipped training configuration runs, and what it saves can be loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from tests.data.made_patches import make_mist
from wsistain.config import RunConfig, TrainConfig, load_config
from wsistain.phantom.quick_slide import write_quick_slide
from wsistain.pipeline.run import run
from wsistain.systems import SYSTEMS, find_system, system_class
from wsistain.training.loop import train
from wsistain.weights.file import load_network

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
FILES = sorted(CONFIGS.rglob("*.yaml"))
UNLIKE = [p for p in FILES if not p.stem.endswith("_small") or p.stem == "lpstain_small"]
"""Without those that a smoke run cuts to the same as the configuration of which they are the small form."""


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches")
    for marker in ("ER", "PR", "Ki67", "HER2"):
        make_mist(root, marker=marker, n_train=3, n_val=1, px=128)
    return root


@pytest.mark.parametrize("path", UNLIKE, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_configuration_trains_and_stains_a_slide(path: Path, patches: Path, tmp_path: Path) -> None:
    overrides = [f"data.root={patches}", "data.layout=mist", "data.mpp=0.4661", "steps=2", "device=cpu"]
    cfg = load_config(TrainConfig, path, overrides)
    weights = train(cfg, tmp_path / "run", tiny=True)
    network, header = load_network(weights)
    edge = header.tile_px
    assert edge % header.size_multiple == 0
    with torch.no_grad():
        out = network(torch.zeros(1, 3, edge, edge))
    assert out.shape == (1, 3, edge, edge)
    assert out.abs().max() <= 1

    slide = write_quick_slide(tmp_path / "slide.tiff", height=200, width=260, mpp=header.mpp)
    settings = RunConfig(weights=str(weights), device="cpu", all_tiles=True, norm="tile")  # as in training
    reports = run(slide, cfg.marker, tmp_path / "out", config=settings)
    assert all(report.tiles_generated == report.tiles_planned > 0 for report in reports)
    for marker in cfg.marker.split(","):
        stained = zarr.open_array(tmp_path / "out" / f"slide.{marker}.ome.zarr", path="0", mode="r")
        assert stained.shape == (3, 200, 260)
        assert (np.asarray(stained) != 255).any()  # tiny networks may be almost constant, but they are not glass


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_configuration_is_valid_at_full_size(path: Path) -> None:
    cfg = load_config(TrainConfig, path)
    options = find_system(cfg.system).Config.preset(cfg.preset, cfg.options)
    assert issubclass(system_class(cfg.system), torch.nn.Module)
    assert options == type(options).preset(cfg.preset, options.model_dump())


def test_every_system_has_a_configuration() -> None:
    assert {load_config(TrainConfig, p).system for p in FILES} == set(SYSTEMS)
