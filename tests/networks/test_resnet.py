"""ResNet generator: authors' numbers, parameter counts, taps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.networks.counting import count_parameters
from wsistain.networks.layers import BlurUp, folded_state
from wsistain.networks.resnet import CUT_TAPS, ResnetGenerator


def authors_state(path):
    file = np.load(path)
    return file, {k[3:]: torch.from_numpy(file[k]) for k in file.files if k.startswith("sd/")}


@pytest.mark.parametrize(("n_blocks", "count"), [(6, 7_837_699), (9, 11_378_179)])
def test_parameter_count_equals_the_published_one(n_blocks, count):
    with torch.device("meta"):
        assert count_parameters(ResnetGenerator(n_blocks)) == count
        assert count_parameters(ResnetGenerator(n_blocks, spectral=True)) == count
        assert count_parameters(ResnetGenerator(n_blocks, blur=False)) == count


def test_output_and_taps_equal_the_authors_own(vectors):
    file, state = authors_state(vectors / "cut_resnet6_generator.npz")
    G = ResnetGenerator(6, 4, spectral=True).eval()
    kernels = {k for k in state if k.endswith("filt")}
    G.load_state_dict({k: v for k, v in state.items() if k not in kernels})
    out, features = G.forward_with_features(torch.from_numpy(file["x"]), CUT_TAPS)
    torch.testing.assert_close(out, torch.from_numpy(file["y"]), atol=1e-4, rtol=0)
    for tap, feature in zip(CUT_TAPS, features, strict=True):
        torch.testing.assert_close(feature, torch.from_numpy(file[f"feat_{tap}"]), atol=1e-4, rtol=1e-4)


def test_taps_are_the_same_with_and_without_finishing_the_pass():
    torch.manual_seed(0)
    G = ResnetGenerator(6, 4)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    out, features = G.forward_with_features(x, (0, 1, 4, 8, 12, 16))
    assert torch.equal(out, G(x))
    for a, b in zip(features, G.features(x, (0, 1, 4, 8, 12, 16)), strict=True):
        assert torch.equal(a, b)
    assert [tuple(f.shape[1:]) for f in features] == [
        (3, 38, 38),
        (4, 32, 32),
        (8, 32, 32),
        (16, 16, 16),
        (16, 8, 8),
        (16, 8, 8),
    ]
    assert G.tap_channels((0, 1, 4, 8, 12, 16)) == (3, 4, 8, 16, 16, 16)


@pytest.mark.parametrize("blur", [True, False])
def test_every_layer_has_the_channels_it_states(blur):
    G = ResnetGenerator(2, 4, blur=blur)
    taps = range(len(G.model))
    features = G.forward_with_features(torch.rand(1, 3, 16, 16), taps)[1]
    assert G.tap_channels(taps) == tuple(f.shape[1] for f in features)


def test_unordered_taps_are_refused():
    with pytest.raises(ValueError, match="rising layer numbers"):
        ResnetGenerator(2, 4).features(torch.rand(1, 3, 16, 16), (4, 0))


def test_doubling_equals_zero_insertion_and_the_four_tap_filter():
    x = torch.rand(2, 3, 9, 7)
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = torch.outer(row, row).expand(3, 1, 4, 4)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    filtered = F.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=3)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(BlurUp()(x), filtered, atol=1e-6, rtol=0)


def test_folding_the_spectral_norm_keeps_the_output():
    torch.manual_seed(0)
    G = ResnetGenerator(2, 4, spectral=True)
    x = torch.rand(1, 3, 16, 16)
    for _ in range(3):
        G(x)
    G.eval()
    plain = ResnetGenerator(2, 4).eval()
    plain.load_state_dict(folded_state(G))
    torch.testing.assert_close(plain(x), G(x), atol=1e-6, rtol=1e-5)


def test_spectral_norm_equals_the_one_of_torch():
    torch.manual_seed(0)
    from torch.nn.utils import spectral_norm

    from wsistain.networks.layers import SpectralConv2d

    ours = SpectralConv2d(3, 5, 3)
    theirs = spectral_norm(torch.nn.Conv2d(3, 5, 3))
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 8, 8)
    for _ in range(3):
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(ours.weight_orig.grad, theirs.weight_orig.grad)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_two_training_passes_before_one_backward_do_not_disturb_the_gradient():
    G = ResnetGenerator(1, 4, spectral=True)
    x = torch.rand(1, 3, 16, 16)
    (G(x).mean() + G(x.flip(3)).mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in G.parameters())
