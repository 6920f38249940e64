"""DDPM's U-Net in EGSDE's layout."""

import torch

from tests.networks.counting import count_parameters
from wsistain.networks.score_unet import ScoreUNet, time_code

TINY = {"base": 16, "multipliers": (1, 2), "n_blocks": 1, "attention": (), "groups": 8}


def test_published_size_has_the_published_count_and_names():
    with torch.device("meta"):
        network = ScoreUNet()
    assert count_parameters(network) == 113_673_219
    shapes = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    assert shapes["temb.dense.0.weight"] == (512, 128)
    assert shapes["down.4.attn.1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["down.4.downsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes["up.5.block.0.conv1.weight"] == (512, 1024, 3, 3)
    assert shapes["up.0.block.2.conv1.weight"] == (128, 256, 3, 3)
    assert shapes["up.1.upsample.conv.weight"] == (128, 128, 3, 3)
    assert "down.5.downsample.conv.weight" not in shapes and "up.0.upsample.conv.weight" not in shapes
    assert network.size_multiple == 32


def test_noise_has_the_images_shape_depends_on_time_and_every_weight_is_used():
    torch.manual_seed(0)
    network = ScoreUNet(**TINY)
    x = torch.randn(2, 3, 16, 24)
    early, late = network(x, torch.tensor([0, 0])), network(x, torch.tensor([900, 900]))
    assert early.shape == x.shape
    assert (early - late).abs().max() > 1e-3
    late.square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] in (
        [],
        ["mid.attn_1.k.bias"],
    )


def test_features_are_the_ends_of_the_levels_on_the_way_down():
    torch.manual_seed(0)
    network = ScoreUNet(base=16, multipliers=(1, 2, 2), n_blocks=2, attention=(1,), groups=8).eval()
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([5])
    shapes = [tuple(f.shape) for f in network.features(x, t, (0, 1, 2))]
    assert shapes == [(1, 16, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]


def test_time_code_starts_with_sines_then_cosines():
    code = time_code(torch.tensor([0, 3]), 8)
    assert torch.equal(code[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(code[1, 0], torch.sin(torch.tensor(3.0)))
    torch.testing.assert_close(code[1, 7], torch.cos(torch.tensor(3e-4)))
