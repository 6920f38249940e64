"""U-Net: published size, shape, dropout only while training."""

import torch

from tests.networks.counting import count_parameters
from wsistain.networks.unet import UnetGenerator


def test_parameter_count_equals_the_published_one():
    with torch.device("meta"):
        assert count_parameters(UnetGenerator()) == 54_413_955


def test_shape_and_range_are_kept_and_evaluation_is_deterministic():
    torch.manual_seed(0)
    G = UnetGenerator(6, 4)
    x = torch.rand(2, 3, 64, 128) * 2 - 1
    y = G(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert not torch.equal(G(x), G(x))
    G.eval()
    assert torch.equal(G(x), G(x))


def test_every_level_reaches_the_output():
    G = UnetGenerator(6, 4)
    G(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in G.parameters())
