"""Adversarial losses: values at known logits, precision, gradients."""

import math

import pytest
import torch

from wsistain.losses import adversarial as A


def test_least_squares_is_zero_exactly_at_its_targets():
    one, zero = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert A.lsgan_d(one, zero) == 0
    assert A.lsgan_g(one) == 0
    assert A.lsgan_d(zero, one) == 1


def test_cross_entropy_at_undecided_logits_is_ln_2():
    zero = torch.zeros(4)
    assert A.bce_d(zero, zero).item() == pytest.approx(math.log(2))
    assert A.bce_g(zero).item() == pytest.approx(math.log(2))
    assert A.bce_d(zero, zero, real_target=0.8).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [A.lsgan_g, A.bce_g])
def test_generator_losses_pull_logits_up(loss):
    logits = torch.zeros(5, requires_grad=True)
    loss(logits).backward()
    assert (logits.grad < 0).all()


def test_half_precision_logits_give_a_float32_loss_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = A.lsgan_g(torch.full((7,), 0.5, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == 0.25
