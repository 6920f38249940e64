"""Tiny turbo systems, batches and updates for tests."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsistain.markers import find_marker
from wsistain.systems import find_system, system_class
from wsistain.systems.base import Batch, Progress

START = Progress(step=0, epoch=0, steps=10, epochs=1, decay_epochs=0, steps_per_epoch=10)


def build(name: str, options: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """The tiny system `name`, seeded."""
    torch.manual_seed(seed)
    return system_class(name)(find_system(name).Config.tiny(options or {}), find_marker("ER")).train()


def batch(n: int = 1, *, is_paired: bool = True) -> Batch:
    """Smooth random pictures of 64 px: an H&E, and an IHC that is its negative moved by a few pixels."""
    noise = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 2 - 1
    he = nn.functional.interpolate(noise, size=(64, 64), mode="bilinear")
    return Batch(he, -he.roll((5, -3), dims=(2, 3)), "ER", tuple("ab"[:n]), is_paired)


def plain_update(optimizer: Optimizer, loss: Tensor) -> None:
    """What the loop gives, without devices, processes and clipping."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Recorder:
    """An update that takes no step, and remembers which optimiser was called and which parameters had gradients."""

    def __init__(self, system: nn.Module) -> None:
        self.system = system
        self.calls: list[str] = []
        self.touched: list[set[str]] = []

    def __call__(self, optimizer: Optimizer, loss: Tensor) -> None:
        self.system.zero_grad()
        loss.backward()
        names = {id(o): name for name, o in self.system.optimizers.items()}
        self.calls.append(names[id(optimizer)])
        self.touched.append({n for n, p in self.system.named_parameters() if p.grad is not None and p.grad.any()})


def one_step(system: Any, images: Batch, seed: int = 1) -> dict[str, float]:
    """The terms of one seeded step."""
    torch.manual_seed(seed)
    return {name: float(value.detach()) for name, value in system.training_step(images, START, plain_update).items()}
