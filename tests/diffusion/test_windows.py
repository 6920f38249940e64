"""Windows that share one state."""

from itertools import pairwise

import pytest
import torch

from wsistain.diffusion.windows import Windows, window_starts


def test_windows_lie_on_the_slides_grid_and_reach_the_border():
    assert window_starts(100, 32, 24, 0) == [0, 24, 48, 68]
    assert window_starts(100, 32, 24, 10) == [0, 14, 38, 62, 68]
    assert window_starts(32, 32, 24, 7) == [0]
    for origin in (0, 5, 1000, -13):
        starts = window_starts(100, 32, 24, origin)
        inner = starts[1:-1]
        assert all((s + origin) % 24 == 0 for s in inner)
        assert all(b - a <= 24 for a, b in pairwise(starts))


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_a_pointwise_field_comes_back_whole_for_any_batch(batch):
    x = torch.randn(2, 3, 70, 90)
    windows = Windows([(5, 0), (100, -3)], 70, 90, 32, 20, batch)
    assert torch.allclose(windows.fuse(torch.tanh, x), x.tanh(), atol=1e-6)


def test_neighbouring_windows_are_averaged_and_their_own_middle_wins():
    """Each window gives its number; where two overlap the value runs from one to the other without a jump."""
    seen = []

    def number(part):
        seen.append(len(part))
        return torch.full_like(part, float(len(seen) - 1))

    fused = Windows([(0, 0)], 32, 56, 32, 24, 1).fuse(number, torch.zeros(1, 1, 32, 56))[0, 0, 16]
    assert seen == [1, 1]
    assert fused[0] == 0
    assert fused[-1] == 1
    assert (fused.diff() >= 0).all()
    assert fused.diff().max() < 0.25


def test_several_images_are_cut_at_the_same_places_and_one_field_may_have_other_channels():
    a, b = torch.randn(1, 3, 40, 40), torch.randn(1, 1, 40, 40)
    windows = Windows([(0, 0)], 40, 40, 16, 12, 4)
    out = windows.fuse(lambda x, y: x.mean(1, keepdim=True) * y, a, b)
    assert torch.allclose(out, a.mean(1, keepdim=True) * b, atol=1e-6)


def test_a_tile_of_one_window_is_not_cut():
    x = torch.randn(3, 2, 24, 32)
    calls = []
    out = Windows([(0, 0)] * 3, 24, 32, 32, 24, 2).fuse(lambda p: calls.append(p.shape) or p * 2, x)
    assert torch.equal(out, x * 2)
    assert calls == [(2, 2, 24, 32), (1, 2, 24, 32)]
