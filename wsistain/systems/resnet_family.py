"""What the contrastive systems (CUT, ASP, USIGAN, ASP-DGRank) and CycleGAN build alike: generator, optimiser, checks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import nn
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
