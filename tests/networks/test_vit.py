"""The ViT generator of ATST-Net: published sizes, checkpoint loading, windows."""

import pytest
import torch
from torch import nn

from tests.networks.counting import count_parameters
from wsistain.errors import WeightsError
from wsistain.networks.slide_norm import NormField, freeze
from wsistain.networks.vit import (
    ENCODER_PREFIXES,
    VitGenerator,
    Windowed,
    encoder_names,
    load_encoder,
    sincos_positions,
    window_offsets,
)

TINY = {"window": 32, "patch": 8, "width": 32, "depth": 4, "heads": 2, "taps": (1, 2, 4), "decoder": (16, 8, 4)}


def test_published_size_has_the_published_counts_and_names():
    with torch.device("meta"):
        network = VitGenerator()
    encoder = sum(p.numel() for n, p in network.named_parameters() if n.startswith(ENCODER_PREFIXES))
    assert encoder == 85_798_656  # with 152,064 fixed positions
    assert count_parameters(network) - encoder == 51_865_155
    assert len(encoder_names(network)) == 149
    shapes = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    assert shapes["pretext_token"] == shapes["cls_token"] == (1, 1, 768)
    assert shapes["pos_embed"] == (1, 198, 768)
    assert shapes["patch_embed.proj.weight"] == (768, 3, 16, 16)
    assert shapes["blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["generated_IHC_decoder.bottleneck_upsampler.0.weight"] == (768, 512, 2, 2)
    assert shapes["generated_IHC_decoder.decoder3_upsampler.3.weight"] == (512, 256, 2, 2)
    assert shapes["decoder1.2.block.1.weight"] == (128, 128, 3, 3)


def test_generator_keeps_shape_and_range_and_every_trained_tensor_gets_a_gradient():
    torch.manual_seed(0)
    network = VitGenerator(**TINY)
    y = network(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert y.shape == (2, 3, 32, 32)
    assert y.abs().max() <= 1
    y.square().mean().backward()
    idle = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    # a bias before instance norm is removed by it: its gradient is rounding noise or exactly zero
    assert [n for n in idle if "conv_block" not in n] == []
    assert not network.pos_embed.requires_grad


def test_positions_are_zero_for_the_extra_tokens_and_differ_between_all_patches():
    table = sincos_positions(14, 14, 768)[0]
    assert not table[:2].any()
    assert len(torch.unique(table[2:], dim=0)) == 196
    row = torch.sin(torch.tensor(3.0))  # patch (3, 5): first channel is sin(row), the half after it sin(column)
    assert table[2 + 3 * 14 + 5, 0] == pytest.approx(row.item())
    assert table[2 + 3 * 14 + 5, 384] == pytest.approx(torch.sin(torch.tensor(5.0)).item())


@pytest.mark.parametrize("prefix", ["", "module.base_encoder.", "module."])
def test_encoder_loads_from_flat_and_moco_checkpoints(tmp_path, prefix):
    torch.manual_seed(1)
    source, target = VitGenerator(**TINY), VitGenerator(**TINY)
    tensors = {prefix + n: source.state_dict()[n].clone() + 1 for n in encoder_names(source)}
    tensors[prefix + "norm.weight"] = torch.ones(32)
    if "base" in prefix:
        tensors |= {n.replace("base_encoder", "momentum_encoder"): t * 0 for n, t in tensors.items()}
        tensors = {"epoch": 3, "state_dict": tensors}
    torch.save(tensors, tmp_path / "checkpoint_HE.pth")
    before = target.state_dict()["decoder1.0.block.0.weight"].clone()
    assert load_encoder(target, tmp_path / "checkpoint_HE.pth") == len(encoder_names(source)) == 5 + 12 * 4
    for name in encoder_names(source):
        assert torch.equal(target.state_dict()[name], source.state_dict()[name] + 1), name
    assert torch.equal(target.state_dict()["decoder1.0.block.0.weight"], before)


def test_a_checkpoint_without_every_encoder_tensor_is_refused_by_name_and_changes_nothing(tmp_path):
    network = VitGenerator(**TINY)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    tensors = {n: t + 1 for n, t in before.items() if n in encoder_names(network)}
    del tensors["blocks.2.attn.qkv.bias"], tensors["cls_token"]
    tensors["patch_embed.proj.weight"] = torch.zeros(32, 3, 16, 16)
    torch.save(tensors, tmp_path / "c.pth")
    with pytest.raises(
        WeightsError,
        match=r"50 of 53 .*missing blocks\.2\.attn\.qkv\.bias, cls_token.*\(32, 3, 16, 16\), wanted \(32, 3, 8, 8\)",
    ):
        load_encoder(network, tmp_path / "c.pth")
    torch.save({"model.encoder." + n: t for n, t in tensors.items()}, tmp_path / "p.pth")
    with pytest.raises(WeightsError, match="0 of 53"):
        load_encoder(network, tmp_path / "p.pth")
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_a_deeper_encoder_is_refused_by_the_names_it_has_too_many(tmp_path):
    torch.save({n: t for n, t in VitGenerator(**TINY).state_dict().items() if n in encoder_names(VitGenerator(**TINY))},
               tmp_path / "four.pth")  # fmt: skip
    shallow = VitGenerator(**{**TINY, "depth": 3, "taps": (1, 2, 3)})
    before = {n: t.clone() for n, t in shallow.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"41 of 41 encoder tensors match\) .*surplus blocks\.3\.attn\.proj\.bias, .*"
    ):
        load_encoder(shallow, tmp_path / "four.pth")
    assert all(torch.equal(t, before[n]) for n, t in shallow.state_dict().items())


def test_windows_of_the_paper_lie_at_0_144_288_and_cover_other_sizes_to_the_end():
    assert window_offsets(512, 224, 144) == [0, 144, 288]
    assert window_offsets(224, 224, 144) == [0]
    assert window_offsets(300, 224, 144) == [0, 76]
    with pytest.raises(ValueError, match=r"200 px is smaller than the 224"):
        window_offsets(200, 224, 144)


class _Number(nn.Module):
    """Fills the n-th window it sees with n."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        n = torch.arange(self.seen, self.seen + len(x), dtype=x.dtype)
        self.seen += len(x)
        return n.view(-1, 1, 1, 1).expand_as(x)


def _pasted_by_hand(x, window, offsets_y, offsets_x):
    canvas, n = torch.full_like(x, -1), 0
    for r in offsets_y:
        for c in offsets_x:
            canvas[..., r : r + window, c : c + window] = n
            n += 1
    return canvas


@pytest.mark.parametrize("together", [True, False])
def test_paste_equals_writing_windows_one_over_the_other(together):
    x = torch.zeros(1, 3, 21, 26)
    pasted = Windowed(_Number(), window=8, stride=5, together=together, merge="paste")(x)
    assert torch.equal(pasted, _pasted_by_hand(x, 8, window_offsets(21, 8, 5), window_offsets(26, 8, 5)))


def test_blended_windows_of_a_pointwise_network_equal_the_network_on_the_whole():
    x = torch.rand(2, 3, 37, 50)
    blended = Windowed(nn.Tanh(), window=16, stride=10, merge="blend")(x)
    assert torch.allclose(blended, x.tanh(), atol=1e-6)


def test_auto_pastes_in_training_and_blends_in_evaluation():
    x = torch.zeros(1, 3, 13, 8)
    paste = Windowed(_Number(), window=8, stride=5).train()(x)
    blend = Windowed(_Number(), window=8, stride=5).eval()(x)
    assert paste.unique().tolist() == [0.0, 1.0]
    assert blend.unique().numel() > 2


class _Centred(nn.Module):
    """A network that sees its whole window: the difference to its mean."""

    def forward(self, x):
        assert x.shape[-2:] == (16, 16)
        return x - x.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("shape", [(16, 9), (5, 16), (3, 16), (7, 30)])
def test_an_image_smaller_than_a_window_is_mirrored_up_to_one(shape):
    x = torch.rand(2, 3, *shape)
    windowed = Windowed(_Centred(), window=16, stride=10).eval()
    rows = [i % (2 * shape[0]) for i in range(max(shape[0], 16))]
    rows = [i if i < shape[0] else 2 * shape[0] - 1 - i for i in rows]
    cols = [i % (2 * shape[1]) for i in range(max(shape[1], 16))]
    cols = [i if i < shape[1] else 2 * shape[1] - 1 - i for i in cols]
    whole = windowed(x[..., rows, :][..., cols])
    torch.testing.assert_close(windowed(x), whole[..., : shape[0], : shape[1]])
    assert windowed.facts.least_px == 16


def test_a_patch_that_does_not_fit_the_decoder_is_refused():
    with pytest.raises(ValueError, match="patch 16 needs 4 taps"):
        VitGenerator(patch=16, taps=(1, 2), decoder=(8, 4))
    with pytest.raises(ValueError, match="not increasing block numbers"):
        VitGenerator(**{**TINY, "taps": (1, 2, 9)})


def test_windows_tell_a_field_of_statistics_where_they_lie():
    """A network whose norm follows a ramp over the slide gives the ramp, whichever window a pixel is in."""
    rows, cols, spacing = 8, 8, 8.0
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    mean = 0.01 * (y * 3 + x)  # linear, so interpolation is exact
    lattice = torch.stack([mean, torch.ones_like(mean)], dim=-1)[..., None].float().numpy()
    network = Windowed(nn.Sequential(nn.InstanceNorm2d(1, eps=0.0)), window=8, stride=5, merge="blend").eval()
    where = freeze(network, NormField({"network.0": lattice}, spacing))
    where.boxes = [(6, 9, 18, 23), (20, 12, 18, 23)]
    out = network(torch.zeros(2, 1, 18, 23))
    for image, (top, left, _, _) in zip(out, where.boxes, strict=True):
        yy, xx = torch.arange(18) + top + 0.5, torch.arange(23) + left + 0.5
        expected = -0.01 * ((yy[:, None] / spacing - 0.5) * 3 + (xx / spacing - 0.5))
        assert torch.allclose(image[0], expected, atol=1e-5)
    assert where.boxes == [(6, 9, 18, 23), (20, 12, 18, 23)]
