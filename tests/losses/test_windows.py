import pytest
import torch
import torch.nn.functional as F

from wsistain.losses.windows import best_shift, share_loss, shifted, window_means


def _map(seed: int, edge: int = 64):
    x = torch.rand(1, 1, edge, edge, generator=torch.Generator().manual_seed(seed))
    return (F.avg_pool2d(x, 5, 1, 2) > 0.53).float()


def _loss(chance, place, positive, **options):
    return share_loss(chance, place, positive, place, torch.ones_like(place), (16, 32), **options)


@pytest.mark.parametrize("distance", ["entropy", "squared"])
def test_the_loss_is_zero_at_the_right_shares_and_its_gradient_points_to_them(distance):
    place = _map(0)
    positive = place * (torch.arange(64)[:, None] < 32)
    right = positive.clamp(1e-3, 1 - 1e-3)
    assert _loss(right, place, positive, distance=distance) < 1e-3
    even = torch.full_like(place, 0.5, requires_grad=True)
    loss = _loss(even, place, positive, distance=distance)
    loss.backward()
    assert loss > 0.05
    inside = place[0, 0] > 0
    assert (even.grad[0, 0, :16][inside[:16]] < 0).all() and (even.grad[0, 0, 48:][inside[48:]] > 0).all()
    assert (even.grad[0, 0][~inside] == 0).all()  # what is no place of the marker teaches nothing


def test_shares_do_not_depend_on_how_many_nuclei_the_other_section_holds():
    place, chance = _map(1), torch.full((1, 1, 64, 64), 0.3)
    other = torch.maximum(place, _map(2))
    loss = share_loss(chance, place, 0.3 * other, other, torch.ones_like(place), (32,))
    assert loss < 1e-6


def test_unknown_places_and_empty_windows_teach_nothing():
    place = _map(3)
    known = torch.zeros_like(place)
    chance = torch.full_like(place, 0.9, requires_grad=True)
    loss = share_loss(chance, place, 0 * place, place, known, (16,))
    loss.backward()
    assert float(loss.detach()) == 0 and (chance.grad == 0).all()


def test_windows_overlap_by_half():
    x = torch.arange(64.0).reshape(1, 1, 1, 64).expand(1, 1, 64, 64)
    means = window_means(x, 16)
    assert means.shape == (1, 1, 7, 7)
    assert means[0, 0, 0].tolist() == [7.5 + 8 * k for k in range(7)]
    assert window_means(x, 100).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("move", [(5, -9), (-12, 3), (0, 0)])
def test_the_shift_of_a_moved_map_is_found(move):
    big = _map(4, 128)
    fixed = big[..., 32:96, 32:96]
    moving = big[..., 32 + move[0] : 96 + move[0], 32 + move[1] : 96 + move[1]]
    shift = best_shift(torch.cat([fixed, fixed]), torch.cat([moving, fixed]), 16)
    assert shift.tolist() == [list(move), [0, 0]]
    moved, known = shifted(moving, shift[:1])
    assert torch.equal(moved[known > 0], fixed[known > 0])
    assert float(known.mean()) == pytest.approx((64 - abs(move[0])) * (64 - abs(move[1])) / 64**2)
