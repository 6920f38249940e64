"""Every system as its shipped configuration has it: published widths, one step on a CPU.

A step at the smallest crop that the networks take is in every run, one of the contrastive systems at 256 px is marked slow.
The turbo systems stand on tiny networks of the published ones' classes, which are not at hand. ATST-Net's ViT-B takes a
step without content, at its own crop: 15 s of a core otherwise.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsistain.config import TrainConfig, load_config
from wsistain.markers import parse_markers
from wsistain.systems import system_class
from wsistain.systems.base import Batch, Progress
from wsistain.training.setup import system_options

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
NAMES = ("cut", "fastcut", "monce", "src", "asp", "pspstain_mlpa", "usigan", "sim_gan", "asp_dgrank")
SMALLEST_PX = 32  # the five-layer discriminators need 96
OTHERS = {
    "cyclegan": 32,
    "pix2pix": 256,  # eight halvings
    "pyramidp2p": 64,
    "f_lsesim": 64,
    "demo": 64,
    "lpstain": 64,
    "lpstain_small": 64,
    **dict.fromkeys(("asp_dgrank_small", "asp_small", "usigan_small"), 96),
    **dict.fromkeys(("cut_small", "cyclegan_small", "pyramidp2p_small"), 64),
    "pix2pix_small": 256,
    **dict.fromkeys(("cyclegan_turbo_small", "ot_stainnet_small", "pix2pix_turbo_small", "atst_net_small"), 64),
    "miu_diff_small": 64,
    "miu_diff": 64,  # two places of the estimator's 32 px
}
TURBO = ("cyclegan_turbo", "ot_stainnet", "pix2pix_turbo")
TINY_NETS = ("options.model.base=tiny", "options.critic.clip=tiny", "options.critic.lpips=tiny")
BY_SHAPE = ("atst_net",)


def one_step(
    name: str, px: int, n: int, overrides: tuple[str, ...] = ()
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The system of configs/train/<name>.yaml after one plain step on `n` crops of `px`, and its terms."""
    cfg = load_config(TrainConfig, CONFIGS / f"{name}.yaml", overrides)
    torch.manual_seed(0)
    marker, options = parse_markers(cfg.marker)[0], system_options(cfg, tiny=False)
    rng = np.random.default_rng(0)
    pictures = [(rng.integers(0, 256, (64, 64, 3), np.uint8), rng.integers(0, 256, (64, 64, 3), np.uint8))]
    options = options.measured(marker, iter(pictures), 0.5)
    system = system_class(cfg.system)(options, marker).train()
    ihc = torch.rand(n, 3, px, px) * 2 - 1
    batch = Batch(
        ihc.flip(1), ihc, marker.name, tuple("ab"[:n]), cfg.data.pairing == "weak", markers=(marker.name,) * n
    )

    def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    progress = Progress(0, 0, 10, cfg.epochs, cfg.decay_epochs, 10)
    before = [p.detach().clone() for p in system.generator().parameters()]
    terms = system.training_step(batch, progress, update)
    assert all(torch.isfinite(v) for v in terms.values())
    assert all(torch.isfinite(p).all() for p in system.parameters())
    changed = [not torch.equal(a, b) for a, b in zip(before, system.generator().parameters(), strict=True)]
    assert sum(changed) >= min(20, len(changed) // 3)
    return system, terms


@pytest.mark.parametrize("name", NAMES)
def test_a_default_configuration_takes_a_step_at_its_own_width(name: str) -> None:
    options = system_options(load_config(TrainConfig, CONFIGS / f"{name}.yaml"), tiny=False)
    px = 96 if options.d_layers == 5 else SMALLEST_PX
    _, terms = one_step(name, px, 2 if name == "usigan" else 1)
    weighed = type(options.weights).model_fields
    assert set(weighed) <= set(terms)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_default_configuration_takes_a_step_at_256_px(name: str) -> None:
    _, terms = one_step(name, 256, 2 if name == "usigan" else 1)
    options = system_options(load_config(TrainConfig, CONFIGS / f"{name}.yaml"), tiny=False)
    assert set(type(options.weights).model_fields) <= set(terms)


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_default_configurations_take_a_step_at_their_own_width(name: str) -> None:
    _, terms = one_step(
        name, OTHERS[name], 2 if name == "usigan_small" else 1, ("options.vgg=tiny",) if name == "f_lsesim" else ()
    )
    assert terms


@pytest.mark.parametrize("name", TURBO)
def test_the_turbo_configurations_take_a_step_on_small_networks_of_the_published_classes(name: str) -> None:
    pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
    pytest.importorskip("peft", reason="the extra 'train' is not installed")
    _, terms = one_step(name, 64, 1, TINY_NETS)
    assert terms


@pytest.mark.parametrize("name", BY_SHAPE)
def test_a_large_default_configuration_takes_a_step_at_its_own_crop_without_content(name: str) -> None:
    counted = _benchmark().peak_of(CONFIGS / f"{name}.yaml", ["options.encoder=random"], n_steps=1, with_work=False)
    assert counted["crop_px"] == 512 and counted["trained_millions"] > 80
    assert 1 < counted["peak_gib"] < 24  # what the page promises: a card of 24 GB


@pytest.mark.slow  # 14 CPU seconds
@pytest.mark.parametrize("name", BY_SHAPE)
def test_a_large_default_configuration_takes_a_step_with_content(name: str) -> None:
    _, terms = one_step(name, 512, 1, ("options.encoder=random",))
    assert terms


def _benchmark() -> Any:
    """benchmarks/training_memory.py, which is no package."""
    path = CONFIGS.parents[1] / "benchmarks" / "training_memory.py"
    spec = importlib.util.spec_from_file_location("training_memory", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_shipped_configuration_takes_a_step_here() -> None:
    assert sorted((*NAMES, *OTHERS, *TURBO, *BY_SHAPE)) == sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def test_every_shipped_configuration_says_its_memory_and_hours() -> None:
    for path in CONFIGS.glob("*.yaml"):
        head = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        if path.stem.endswith("_small"):  # for a processor
            assert "minutes of one core" in head, path.name
            continue
        assert "Memory: " in head and ("GiB" in head or "GB" in head), path.name
        assert "estimate" in head and "hour" in head, path.name
