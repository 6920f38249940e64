"""Adversarial losses as functions of logits (any shape); means over every logit. Computed in float32.

Sources: Goodfellow et al. 2014 (cross-entropy), Mao et al. 2017 (least squares).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import in_float32


@in_float32
def lsgan_d(real: Tensor, fake: Tensor) -> Tensor:
    """Half of mean((real - 1)^2) + mean(fake^2): the discriminator's least-squares loss."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


@in_float32
def lsgan_g(fake: Tensor) -> Tensor:
    """mean((fake - 1)^2): the generator's least-squares loss."""
    return (fake - 1).square().mean()


@in_float32
def bce_d(real: Tensor, fake: Tensor, *, real_target: float = 1.0) -> Tensor:
    """Half of the cross-entropies of `real` with `real_target` and of `fake` with 0."""
    real_loss = F.binary_cross_entropy_with_logits(real, torch.full_like(real, real_target))
    fake_loss = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return 0.5 * (real_loss + fake_loss)


@in_float32
def bce_g(fake: Tensor, *, real_target: float = 1.0) -> Tensor:
    """Cross-entropy of `fake` with `real_target` (the non-saturating generator loss)."""
    return F.binary_cross_entropy_with_logits(fake, torch.full_like(fake, real_target))
