"""The contrastive systems as their shipped configurations have them: published widths, one step on a CPU.

A step at the smallest crop that the discriminator takes is in every run, one at 256 px is marked slow.
"""

from pathlib import Path

import pytest
import torch

from wsistain.config import TrainConfig, load_config
from wsistain.markers import find_marker
from wsistain.systems import system_class
from wsistain.systems.base import Batch, Progress
from wsistain.training.setup import system_options

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
NAMES = ("cut", "fastcut", "monce", "src", "asp", "pspstain_mlpa", "usigan", "sim_gan", "asp_dgrank")
SMALLEST_PX = 32  # the five-layer discriminators need 96


def one_step(name: str, px: int, n: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The system of configs/train/<name>.yaml after one plain step on `n` crops of `px`, and its terms."""
    cfg = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
    torch.manual_seed(0)
    system = system_class(cfg.system)(system_options(cfg, tiny=False), find_marker(cfg.marker)).train()
    ihc = torch.rand(n, 3, px, px) * 2 - 1
    batch = Batch(ihc.flip(1), ihc, cfg.marker, tuple("ab"[:n]), cfg.data.pairing == "weak")

    def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    progress = Progress(0, 0, 10, cfg.epochs, cfg.decay_epochs, 10)
    before = [p.detach().clone() for p in system.generator().parameters()]
    terms = system.training_step(batch, progress, update)
    assert all(torch.isfinite(v) for v in terms.values())
    assert all(torch.isfinite(p).all() for p in system.parameters())
    assert sum(not torch.equal(a, b) for a, b in zip(before, system.generator().parameters(), strict=True)) > 20
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
    one_step(name, 256, 2 if name == "usigan" else 1)
