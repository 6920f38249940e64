"""What the contrastive systems (CUT, ASP, USIGAN, ASP-DGRank) and CycleGAN build alike: generator, optimiser, checks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from wsistain.config import Strict, validate
from wsistain.networks.layers import Norm
from wsistain.networks.resnet import ResnetGenerator


class ResnetOptions(Strict):
    """What a weights header says of a ResNet generator; spectral norm is folded into the tensors when they are saved."""

    n_blocks: int = Field(6, ge=1, le=64)
    ngf: int = Field(64, ge=1, le=1024)
    norm: Norm = "instance"
    blur: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)


def resnet_generator(options: Mapping[str, Any]) -> ResnetGenerator:
    """The generator that a header's options describe, with random weights; ConfigError on unknown or wild values."""
    wanted = validate(ResnetOptions, dict(options), "generator options")
    return ResnetGenerator(wanted.n_blocks, wanted.ngf, norm=wanted.norm, blur=wanted.blur, dropout=wanted.dropout)


def check_taps(taps: Sequence[int], n_blocks: int) -> tuple[int, ...]:
    """`taps` if they rise and lie in the encoder (layers 0 to the last residual block); ValueError otherwise."""
    last = 11 + n_blocks
    if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] > last:
        raise ValueError(f"taps {tuple(taps)} are not rising layer numbers in 0..{last} (the encoder's)")
    return tuple(taps)


def adam(modules: Iterable[nn.Module], lr: float, betas: tuple[float, float]) -> Adam:
    """One Adam over the trained parameters of all `modules`."""
    return Adam([p for m in modules for p in m.parameters() if p.requires_grad], lr=lr, betas=betas)


STUCK_STEPS = 50
_CHANCE_BAND = 0.01  # a run that learns crosses ln N in a few steps; one that has collapsed stays within 0.2 %


class ChanceWatch:
    """Notices when PatchNCE stays at ln N, where every patch resembles every other: nothing is learned of the H&E then.

    remedy : what to set, said with the reason.
    """

    def __init__(self, remedy: str):
        self.remedy = remedy
        self._n_at_chance: Tensor | None = None
        self._chance = 0.0
        self._n_patches = 0

    def see(self, nce: Tensor, queries: Sequence[Tensor]) -> None:
        """Count one step: `nce` is a mean over layers, `queries` (b, n, d) are what it was taken of. No GPU is waited for."""
        self._chance = sum(math.log(q.shape[1]) for q in queries) / len(queries)
        self._n_patches = max(q.shape[1] for q in queries)
        at_chance = (nce.detach() - self._chance).abs() <= _CHANCE_BAND * self._chance
        before = torch.zeros_like(nce.detach()) if self._n_at_chance is None else self._n_at_chance
        self._n_at_chance = torch.where(at_chance, before + 1, torch.zeros_like(before))

    def concern(self) -> str | None:
        """What is wrong and what to set, where `nce` has been at ln N for the last 50 steps; else None."""
        if self._n_at_chance is None or float(self._n_at_chance) < STUCK_STEPS:
            return None
        return (
            f"nce stays at ln({self._n_patches}) = {self._chance:.2f}: all patches look alike to the encoder, and the "
            f"generator learns nothing from its H&E; {self.remedy}"
        )
