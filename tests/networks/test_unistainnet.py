"""UNIStainNet's generator and UNI's tower: the published names and shapes, and the arithmetic written out a second time."""

import pytest
import torch
import torch.nn.functional as F

from wsistain.networks.unistainnet import UNUSED_PREFIXES, SpadeUNet, UniTower

PUBLISHED = {
    "class_embed.weight": (5, 64),
    "uni_processor.proj.0.weight": (512, 1024),
    "uni_processor.proc_32.3.weight": (512, 512, 3, 3),
    "uni_processor.up_64.0.weight": (512, 256, 4, 4),
    "uni_processor.up_128.3.bias": (128,),
    "uni_processor.up_256.0.weight": (128, 64, 4, 4),
    "edge_encoder.sobel_x": (1, 1, 3, 3),
    "edge_encoder.scale_512.0.weight": (32, 5, 3, 3),
    "edge_encoder.scale_128.2.weight": (64, 64, 3, 3),
    "edge_encoder.scale_32.2.weight": (128, 128, 3, 3),
    "enc1.0.weight": (64, 3, 4, 4),
    "enc5.0.weight": (512, 512, 4, 4),
    "bottleneck.0.block.3.weight": (512, 512, 3, 3),
    "bottleneck.1.norm.weight": (512,),
    "bottleneck.1.qkv.weight": (1536, 512, 1, 1),
    "bottleneck.2.block.0.bias": (512,),
    "dec5_conv.weight": (512, 1152, 3, 3),
    "dec5_spade.spade_shared.0.weight": (128, 512, 3, 3),
    "dec4_conv.weight": (256, 896, 3, 3),
    "dec3_conv.weight": (128, 448, 3, 3),
    "dec2_conv.weight": (64, 224, 3, 3),
    "dec2_spade.spade_shared.0.weight": (64, 64, 3, 3),
    "dec2_spade.film_gamma.weight": (64, 64),
    "output.0.weight": (64, 99, 3, 3),
    "output.2.weight": (3, 64, 3, 3),
}
"""Some names of the published generator with their shapes, as its repository builds them."""


def test_the_published_size_has_the_published_names_and_shapes():
    with torch.device("meta"):
        state = SpadeUNet().state_dict()
        large = SpadeUNet(large=True).state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    assert not [name for name in state if name.startswith(UNUSED_PREFIXES)]
    changed = {n: tuple(t.shape) for n, t in large.items() if n not in state or state[n].shape != t.shape}
    assert changed == {
        "enc0.0.weight": (32, 3, 4, 4),
        "enc0.0.bias": (32,),
        "enc1.0.weight": (64, 32, 4, 4),
        "dec1_conv.0.weight": (64, 128, 3, 3),
        "dec1_conv.0.bias": (64,),
        "output.0.weight": (64, 67, 3, 3),
    }
    # "42M parameters" with the layer that nothing asks for
    n_unused = 512 * 512 * 16 + 512
    assert sum(t.numel() for t in state.values()) + n_unused == pytest.approx(42e6, rel=0.02)


def test_the_published_unis_names_and_size():
    with torch.device("meta"):
        state = UniTower().state_dict()
    assert len(state) == 2 + 2 + 24 * 14 + 2
    assert {"blocks.23.ls2.gamma", "blocks.0.attn.qkv.bias", "patch_embed.proj.weight", "norm.bias"} <= set(state)
    assert sum(t.numel() for t in state.values()) == pytest.approx(303e6, rel=0.01)  # "303M"


def written_out(s, he, tokens, label):
    """The generator's forward pass on a state dict `s`, for the form of 512 px."""

    def conv(x, name, stride=1, padding=1):
        return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], stride, padding)

    def leaky(x):
        return F.leaky_relu(x, 0.2)

    norm = F.instance_norm
    up = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)  # noqa: E731

    x = leaky(F.linear(tokens, s["uni_processor.proj.0.weight"], s["uni_processor.proj.0.bias"])).permute(0, 3, 1, 2)
    y = leaky(norm(conv(x, "uni_processor.proc_32.0")))
    maps = [leaky(norm(conv(y, "uni_processor.proc_32.3"))) + x]
    for name in ("up_64", "up_128", "up_256"):
        w, b = s[f"uni_processor.{name}.0.weight"], s[f"uni_processor.{name}.0.bias"]
        y = leaky(norm(F.conv_transpose2d(maps[-1], w, b, stride=2, padding=1)))
        maps.append(leaky(norm(conv(y, f"uni_processor.{name}.3"))))

    edges = {}
    for k in range(5):
        small = (he + 1) / 2
        if k:
            small = F.interpolate(small, size=he.shape[-1] >> k, mode="bilinear", align_corners=False)
        gray = small.mean(1, keepdim=True)
        kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        sobel = [F.conv2d(gray, m[None, None], padding=1) for m in (kernel, kernel.T)]
        name = f"edge_encoder.scale_{512 >> k}"
        edges[k] = leaky(conv(leaky(conv(torch.cat([small, *sobel], 1), f"{name}.0")), f"{name}.2"))

    levels, x = [], he
    for k in range(1, 6):
        x = conv(x, f"enc{k}.0", 2)
        x = leaky(norm(x) if k > 1 else x)
        levels.append(x)
    for k in (0, 1, 2):
        name = f"bottleneck.{k}"
        if k == 1:
            b, c, h, w = x.shape
            y = F.group_norm(x, 32, s[f"{name}.norm.weight"], s[f"{name}.norm.bias"])
            q, key, v = conv(y, f"{name}.qkv", padding=0).reshape(b, 3, c, h * w).unbind(1)
            seen = ((q.transpose(1, 2) @ key) * c**-0.5).softmax(-1)
            x = x + conv((v @ seen.transpose(1, 2)).reshape(x.shape), f"{name}.proj", padding=0)
        else:
            y = leaky(norm(conv(x, f"{name}.block.0")))
            x = leaky(x + norm(conv(y, f"{name}.block.3")))
    stain = s["class_embed.weight"][label][None]
    for k, uni in zip((5, 4, 3, 2), maps, strict=True):
        x = conv(torch.cat([up(x), levels[k - 2], edges[k - 1]], 1), f"dec{k}_conv")
        shared = leaky(conv(uni, f"dec{k}_spade.spade_shared.0"))
        parts = []
        for part in ("gamma", "beta"):
            film = F.linear(stain, s[f"dec{k}_spade.film_{part}.weight"], s[f"dec{k}_spade.film_{part}.bias"])
            parts.append(conv(shared, f"dec{k}_spade.spade_{part}") + film[:, :, None, None])
        x = leaky(parts[0] * norm(x) + parts[1])
    x = torch.cat([up(x), he, edges[0]], 1)
    return conv(leaky(conv(x, "output.0")), "output.2").tanh()


def test_the_generator_computes_what_its_authors_write():
    torch.manual_seed(0)
    network = SpadeUNet(width=8, class_dim=6).eval()
    he, tokens = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 4, 1024)
    with torch.no_grad():
        made = [network(he, tokens, label) for label in (0, 3)]
        torch.testing.assert_close(made[1], written_out(network.state_dict(), he, tokens, 3), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(made[0], made[1])


def test_the_large_form_is_a_level_deeper():
    with torch.no_grad():
        out = SpadeUNet(width=8, class_dim=6, large=True)(torch.zeros(1, 3, 128, 128), torch.zeros(1, 4, 4, 1024), 0)
    assert out.shape == (1, 3, 128, 128)


def test_the_grid_of_tokens_lies_as_the_picture_does(monkeypatch):
    """Each token tells the mean colour of its 16 px: the grid is then the shrunk picture."""
    tower = UniTower(0, 1)

    def mean_colour(crops):
        return F.avg_pool2d(crops, 16).permute(0, 2, 3, 1)

    monkeypatch.setattr(tower, "forward", mean_colour)
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    he = F.interpolate(coarse, size=(512, 512), mode="nearest") * 2 - 1
    grid = tower.grid(he, 8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(grid, (coarse.permute(0, 2, 3, 1) - mean) / std, atol=0.02, rtol=0)
