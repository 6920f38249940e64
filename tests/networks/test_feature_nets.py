import pytest
import torch
import torch.nn.functional as F

from wsistain.errors import WeightsError
from wsistain.networks.inception import InceptionFeatures
from wsistain.networks.resnet50 import ResNet50Features
from wsistain.published.tensors import read_published


def seeded(network: torch.nn.Module) -> torch.nn.Module:
    """Weights and running statistics that make every layer count."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        spread = torch.rand(tensor.shape, generator=generator)
        scale = 1 / tensor[0].numel() ** 0.5 if tensor.ndim == 4 else 1.0
        tensor.copy_(0.5 + spread if name.endswith(("running_var", "bn.weight")) else (spread - 0.4) * 2 * scale)
    return network.eval()


def test_networks_have_the_published_sizes_and_key_names():
    with torch.device("meta"):
        resnet, fid, plain = ResNet50Features(), InceptionFeatures("fid"), InceptionFeatures("torchvision")
    assert sum(p.numel() for p in resnet.parameters()) == 25_557_032 - 2_049_000  # without the classifier
    for net in (fid, plain):
        assert sum(p.numel() for p in net.parameters()) == 27_161_264 - 3_326_696 - 2_049_000
    assert fid.state_dict().keys() == plain.state_dict().keys()
    assert resnet.state_dict()["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert resnet.state_dict()["layer3.0.downsample.0.weight"].shape == (1024, 512, 1, 1)
    assert fid.state_dict()["Mixed_6c.branch7x7dbl_4.conv.weight"].shape == (160, 160, 7, 1)
    assert fid.state_dict()["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    assert fid.Mixed_5b.branch_pool.bn.eps == 0.001


def test_resnet_stages_have_the_published_widths_and_strides():
    net = seeded(ResNet50Features(width_divisor=16))
    with torch.no_grad():
        stages = net(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    assert [tuple(s.shape) for s in stages] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6), (2, 128, 2, 3)]
    assert all(torch.isfinite(s).all() and (s >= 0).all() for s in stages)


def test_inception_resizes_to_299_and_gives_one_vector_a_picture():
    net = seeded(InceptionFeatures("fid", width_divisor=16))
    light = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = net(light)
        resized = F.interpolate(light, size=(299, 299), mode="bilinear", align_corners=False)
        assert torch.allclose(net(resized), features, atol=1e-4)
    assert features.shape == (2, 128) and torch.isfinite(features).all()


def test_the_two_inceptions_differ_in_their_pools_only():
    fid, plain = (seeded(InceptionFeatures(v, width_divisor=16)) for v in ("fid", "torchvision"))
    x = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    for block in ("Mixed_5b", "Mixed_6e", "Mixed_7b"):
        a, b = fid.get_submodule(block).pooled(x), plain.get_submodule(block).pooled(x)
        assert torch.allclose(a[inside], b[inside]) and not torch.allclose(a, b)
    assert torch.equal(fid.Mixed_7c.pooled(x), F.max_pool2d(x, 3, 1, 1))
    assert torch.equal(plain.Mixed_7c.pooled(x), F.avg_pool2d(x, 3, 1, 1))


@pytest.mark.parametrize("make", [lambda: ResNet50Features(16), lambda: InceptionFeatures("fid", 16)])
def test_published_files_fit_tensor_by_tensor(tmp_path, make):
    source, target = seeded(make()), make()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}  # as older files
    torch.save({**state, "fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}, tmp_path / "net.pth")
    target.load_published(tmp_path / "net.pth")
    for name, tensor in state.items():
        assert torch.equal(target.state_dict()[name], tensor)
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"surplus extra\.weight"):
        target.load_published(tmp_path / "net.pth")


def test_wrappers_and_prefixes_are_taken_off_and_other_things_refused(tmp_path):
    from safetensors.torch import save_file

    tensors = {"a.weight": torch.ones(2), "b.bias": torch.zeros(3)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "wrapped.pth")
    save_file(tensors, tmp_path / "plain.safetensors")
    for name in ("wrapped.pth", "plain.safetensors"):
        assert read_published(tmp_path / name).keys() == tensors.keys()
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"not a header")
    for name, words in (("list.pth", "no named tensors"), ("broken.safetensors", "cannot be read")):
        with pytest.raises(WeightsError, match=words):
            read_published(tmp_path / name)
