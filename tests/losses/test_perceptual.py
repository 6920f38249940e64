import pytest
import torch

from wsistain.errors import WeightsError
from wsistain.losses.perceptual import Lpips
from wsistain.networks.alexnet import AlexNetFeatures
from wsistain.networks.vgg import Vgg16Features


def images(seed: int, n: int = 2, size: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(params=["vgg", "alex"])
def plain(request) -> Lpips:
    return Lpips.tiny(request.param)


@pytest.fixture(params=["vgg", "alex", "vgg_st", "alex_st"])
def net(request) -> Lpips:
    return Lpips.tiny(request.param)


def published_files(folder, name: str, divisor: int = 16, seed: int = 3):
    """Checkpoints in the published layout: backbone with a classifier beside it, and the five linear layers."""
    torch.manual_seed(seed)
    source = Lpips(name, divisor)
    backbone = {k.removeprefix("net."): v for k, v in source.state_dict().items() if k.startswith("net.")}
    linear = {k: v for k, v in source.state_dict().items() if k.startswith("lin")}
    torch.save({**backbone, "classifier.6.bias": torch.zeros(10)}, folder / "backbone.pth")
    torch.save(linear, folder / "lin.pth")
    return source, folder / "backbone.pth", folder / "lin.pth"


def test_equal_images_are_at_distance_zero_and_others_are_not(net):
    a, b = images(0), images(1)
    assert torch.equal(net(a, a), torch.zeros(2))
    assert (net(a, b) > 1e-3).all()
    assert torch.allclose(net(a, b), net(b, a))


def test_each_pair_of_a_batch_has_its_own_distance(net):
    a, b = images(0), images(1)
    one_by_one = torch.cat([net(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert torch.allclose(net(a, b), one_by_one, atol=1e-6)


def test_the_distance_has_a_finite_gradient_also_on_flat_pictures(net):
    for a in (images(0), torch.full((1, 3, 48, 48), 1.0), torch.zeros(1, 3, 48, 48)):
        a = a.requires_grad_()
        net(a, images(1, len(a))).sum().backward()
        assert a.grad is not None and torch.isfinite(a.grad).all()
    assert not any(p.requires_grad for p in net.parameters())


def test_the_distance_is_the_published_formula(net):
    a, b = images(0), images(1)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    total = torch.zeros(2)
    for k, (fa, fb) in enumerate(zip(net.net((a - shift) / scale), net.net((b - shift) / scale), strict=True)):
        na, nb = torch.nn.functional.normalize(fa, dim=1), torch.nn.functional.normalize(fb, dim=1)
        weight = net.state_dict()[f"lin{k}.model.1.weight"].view(1, -1, 1, 1)
        total += ((na - nb) ** 2 * weight).sum(1).mean((1, 2))
    assert torch.allclose(net(a, b), total, atol=1e-6)


def test_published_files_are_loaded_tensor_by_tensor(tmp_path, plain):
    source, backbone, lin = published_files(tmp_path, plain.name)
    plain.load_published(backbone, lin)
    assert torch.equal(plain(images(0), images(1)), source(images(0), images(1)))


def test_a_shift_tolerant_net_is_one_file_and_hardly_sees_a_shift(tmp_path):
    torch.manual_seed(3)
    source, whole = Lpips("alex_st", 16), tmp_path / "whole.pth"
    torch.save({**source.state_dict(), "scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, whole)
    net = Lpips.tiny("alex_st")
    net.load_whole(whole)
    a = images(0, size=64)
    assert torch.equal(net(a, images(1, size=64)), source(a, images(1, size=64)))
    with pytest.raises(ValueError, match="one file"):
        net.load_published(whole, whole)
    smooth = torch.nn.functional.interpolate(images(2, size=9), size=96, mode="bicubic").clamp(-1, 1)
    shares = [
        (Lpips.tiny(n)(smooth, smooth.roll(1, 3)) / Lpips.tiny(n)(smooth, smooth.flip(3))).mean()
        for n in ("alex_st", "alex")
    ]
    assert shares[0] < shares[1]


def test_a_file_with_missing_surplus_or_misshapen_tensors_is_refused_and_changes_nothing(tmp_path, plain):
    net = plain
    _, backbone, lin = published_files(tmp_path, net.name)
    before = net(images(0), images(1))
    good = torch.load(backbone, weights_only=True)
    first = next(iter(good))
    for change, words in (
        ({k: v for k, v in good.items() if k != first}, f"missing {first}"),
        ({**good, "features.99.weight": torch.zeros(1)}, "surplus features.99.weight"),
        ({**good, first: torch.zeros(1)}, "shapes differ"),
    ):
        torch.save(change, backbone)
        with pytest.raises(WeightsError, match=words):
            net.load_published(backbone, lin)
    with pytest.raises(WeightsError, match="there is no file of weights"):
        net.load_published(backbone, tmp_path / "absent.pth")
    assert torch.equal(net(images(0), images(1)), before)


def test_a_damaged_file_and_a_pickle_with_code_are_refused(tmp_path, plain):
    net = plain
    _, backbone, lin = published_files(tmp_path, net.name)
    backbone.write_bytes(backbone.read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        net.load_published(backbone, lin)
    torch.save({"a": print}, backbone)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        net.load_published(backbone, lin)


def test_the_backbones_have_the_published_sizes():
    with torch.device("meta"):
        vgg, alex = Vgg16Features(), AlexNetFeatures()
    assert sum(p.numel() for p in vgg.parameters()) == 14_714_688
    assert sum(p.numel() for p in alex.parameters()) == 2_469_696
    assert vgg.channels == (64, 128, 256, 512, 512) and alex.channels == (64, 192, 384, 256, 256)
    assert vgg.state_dict()["features.28.weight"].shape == (512, 512, 3, 3)
    assert alex.state_dict()["features.10.weight"].shape == (256, 256, 3, 3)


def test_a_net_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="wanted one of vgg, alex"):
        Lpips("squeeze")
