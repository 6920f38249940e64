import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsistain.networks.context import ContextResnet, WeightedMean, _window_mean


def test_window_means_equal_numpy_and_leave_out_what_lies_outside():
    cells = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    got = _window_mean(cells, 5).numpy()
    want = np.zeros_like(got)
    for y in range(9):
        for x in range(11):
            want[..., y, x] = cells.numpy()[..., max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].mean((2, 3))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_tile_with_its_halo_equals_one_pass_and_a_smaller_halo_does_not():
    torch.manual_seed(0)
    network = ContextResnet(2, 4, (5, 9), 11).eval().double()
    halo = network.facts.halo_px
    margin = -(-halo // 4) * 4
    x = torch.rand(1, 3, 2 * margin + 96, 2 * margin + 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        whole = network(x)[..., margin + 32 : margin + 64, margin + 16 : margin + 48]
        tile = network(x[..., 32 : 2 * margin + 64, 16 : 2 * margin + 48])[
            ..., margin : margin + 32, margin : margin + 32
        ]
        less = network(x[..., 64:-64, 48:-48])[..., margin - 32 : margin, margin - 32 : margin]
        core = network(x[..., 32 : 2 * margin + 64, 16 : 2 * margin + 48], margin)
    assert torch.allclose(tile, whole, atol=1e-12) and torch.allclose(core, whole, atol=1e-12)
    assert not torch.allclose(less, whole, atol=1e-6)


@pytest.mark.parametrize(("height", "first", "early"), [(300, 0, 0), (300, 3, 9), (128, 0, 4), (132, 8, 10)])
def test_the_layers_of_full_size_in_strips_are_what_they_are_at_once(height, first, early):
    """Heights that are one strip, more than one, and one with four rows left over."""
    torch.manual_seed(0)
    network = ContextResnet(2, 4, (5,), 9).eval().double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    x = torch.rand(2, 3, height, 132, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        begun = network._begun(x, first, early)
        for at_once, in_strips in zip(begun, network._begun_in_strips(x, first, early), strict=True):
            torch.testing.assert_close(in_strips, at_once, rtol=0, atol=1e-12)
        full, half, _ = begun
        rest = network.rest(100)
        in_strips = network.read_in_strips(x, half, network.last[:2], network.last[3:], early + rest)
        at_once = network.last(network.at_full(half, full))[..., 4 * rest : -4 * rest, 4 * rest : -4 * rest]
        torch.testing.assert_close(in_strips, at_once, rtol=0, atol=1e-12)


def test_a_layer_of_the_full_size_is_whole_where_nothing_is_left_out():
    """The trust map takes it with a hook: of a picture longer than one strip it must not see the first strip alone."""
    network, seen = ContextResnet(2, 4, (5,), 9).eval(), []
    network.last[2].register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    with torch.no_grad():
        network(torch.zeros(1, 3, 300, 64))
    assert seen == [(1, 4, 302, 66)]


@pytest.mark.parametrize(("windows", "far"), [((41,), 3), ((), 41)])
def test_what_lies_beyond_the_reach_of_the_convolutions_changes_the_centre(windows, far):
    smooth = torch.zeros(1, 3, 256, 256)
    rough = smooth.clone()
    rough[..., 40:56, 120:136] = torch.rand(3, 16, 16) - 0.5  # 72 px above the centre

    def change(network):
        with torch.no_grad():
            return (network.eval()(smooth) - network(rough))[..., 128, 128].abs().sum()

    assert change(ContextResnet(1, 4, windows, far)) > 0
    assert change(ContextResnet(1, 4, (), 3)) == 0


def test_weighted_mean_is_the_mean_over_what_has_weight():
    """One find among nothing: wherever its window reaches, the mean is its value, however few cells hold it."""
    mean = WeightedMean(8, 5)
    with torch.no_grad():
        for layer in (mean.weight, mean.value, mean.out):
            layer.bias.zero_()
        mean.weight.weight.fill_(50.0)  # sigmoid: 1 where the map is positive,
        mean.weight.bias.fill_(-20.0)  # nearly 0 elsewhere
        mean.value.weight.copy_(torch.eye(8)[:, :, None, None])
        mean.out.weight.copy_(torch.eye(8)[:, :, None, None])
        found = torch.zeros(1, 8, 11, 11)
        found[..., 5, 5] = torch.linspace(0.5, 2, 8)
        got = mean(found)[0]
    share = (1 / 25) / (1 / 25 + 1e-3)  # the constant that keeps empty windows finite
    for k in range(8):
        assert got[k, 3:8, 3:8].numpy() == pytest.approx(float(share * found[0, k, 5, 5]), rel=1e-4)
    assert got[:, 0].abs().max() < 1e-3


def test_bilinear_doubling_makes_no_checkerboard_of_a_flat_picture():
    """Transposed convolutions paint even and odd pixels differently where the input lies outside what was trained."""
    torch.manual_seed(2)
    network = ContextResnet(2, 4, (5,), 9).eval()
    with torch.no_grad():
        flat = network(torch.full((1, 3, 128, 128), -3.0))[..., 48:80, 48:80]
    assert float((flat - F.avg_pool2d(flat, 3, 1, 1))[..., 1:-1, 1:-1].abs().max()) < 1e-5


@pytest.mark.parametrize(("windows", "far"), [((4,), 5), ((5,), 4)])
def test_even_windows_are_refused(windows, far):
    with pytest.raises(ValueError, match="odd"):
        ContextResnet(2, 4, windows, far)
