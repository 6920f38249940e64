import numpy as np
import pytest
import torch

from wsistain.networks.context import ContextResnet, _window_mean


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
    network = ContextResnet(2, 4, (5, 9)).eval().double()
    halo = network.halo_px
    margin = -(-halo // 4) * 4
    x = torch.rand(1, 3, 2 * margin + 96, 2 * margin + 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        whole = network(x)[..., margin + 32 : margin + 64, margin + 16 : margin + 48]
        tile = network(x[..., 32 : 2 * margin + 64, 16 : 2 * margin + 48])[
            ..., margin : margin + 32, margin : margin + 32
        ]
        less = network(x[..., 64:-64, 48:-48])[..., margin - 32 : margin, margin - 32 : margin]
    assert torch.allclose(tile, whole, atol=1e-12)
    assert not torch.allclose(less, whole, atol=1e-6)


def test_texture_beyond_the_reach_of_the_convolutions_changes_the_centre():
    torch.manual_seed(1)
    network = ContextResnet(1, 4, (41,)).eval()
    smooth = torch.zeros(1, 3, 256, 256)
    rough = smooth.clone()
    rough[..., 40:56, 120:136] = torch.rand(3, 16, 16) - 0.5  # 72 px above the centre
    with torch.no_grad():
        changed, alone = ((net(smooth) - net(rough))[..., 128, 128].abs().sum() for net in (network, network.base))
    assert changed > 0 and alone == 0


def test_even_windows_are_refused():
    with pytest.raises(ValueError, match="odd"):
        ContextResnet(2, 4, (4,))
