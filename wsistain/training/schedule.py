"""How long a run is, its learning rate, and the exponential mean of parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsistain.config import TrainConfig
from wsistain.systems.base import Progress


def linear_factor(epoch: int, epochs: int, decay_epochs: int) -> float:
    """Learning-rate factor of an epoch counted from 0: 1 for `epochs`, then down by equal steps, never 0 in the run.

    1 - max(0, epoch + 1 - epochs) / (decay_epochs + 1), as in the CUT and CycleGAN code.

    >>> [round(linear_factor(e, 2, 3), 2) for e in range(5)]
    [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    return 1.0 - max(0, epoch + 1 - epochs) / (decay_epochs + 1)


@dataclass(frozen=True)
class Length:
    """A run of `steps`, seen as `epochs` at a constant rate and `decay_epochs` of decay.

    With `steps` from the configuration the epochs are stretched or squeezed over them, so that a short run goes
    through the whole schedule; otherwise an epoch is one pass over the patches.
    """

    steps: int
    epochs: int
    decay_epochs: int

    @classmethod
    def of(cls, cfg: TrainConfig, steps_per_epoch: int) -> "Length":
        """The length that a configuration asks for, given the steps of one pass over the patches."""
        total = cfg.epochs + cfg.decay_epochs
        return cls(cfg.steps if cfg.steps is not None else total * steps_per_epoch, cfg.epochs, cfg.decay_epochs)

    def progress(self, step: int) -> Progress:
        """Where training stands before `step` (from 0)."""
        total = self.epochs + self.decay_epochs
        return Progress(
            step=step,
            epoch=step * total // self.steps,
            steps=self.steps,
            epochs=self.epochs,
            decay_epochs=self.decay_epochs,
            steps_per_epoch=-(-self.steps // total),
        )


def set_learning_rates(optimizers: Mapping[str, Optimizer], factor: float) -> None:
    """Set each parameter group's rate to `factor` times its first one (kept as `initial_lr` in the group)."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


class Ema:
    """Exponential mean of a network's parameters: mean <- d mean + (1 - d) parameter after each step.

    d is min(decay, (1 + step) / (10 + step)), steps counted from 0: early means forget fast, or a short run would save
    its random start (at 0.9999 82 % of it are left after 2,000 steps). As in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}, wanted 0 <= decay < 1")
        self.network, self.decay = network, decay
        self.mean = {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.network.named_parameters():
            self.mean[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the network holds the mean; afterwards its own parameters again."""
        own = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            parameter.copy_(values[name])
