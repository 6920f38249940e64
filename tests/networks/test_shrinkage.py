import numpy as np
import pytest
import torch

from wsistain.networks.shrinkage import drawn_together, neighbour_edge, reach_cells


def _by_hand(logit, place, edge, own):
    """The definition in float64: cells of 4 px, two means over squares cut off at the edge, each weighted, none beyond it."""
    weight = place * (1 / (1 + np.exp(-logit)) + 0.1) + 1e-3
    h, w = logit.shape
    cells = [m.reshape(h // 4, 4, w // 4, 4).mean((1, 3)) for m in (np.clip(logit, -5, 5) * weight, weight)]
    r = edge // 2
    for _ in range(2):
        cells = [
            np.array(
                [
                    [c[max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1].sum() for j in range(w // 4)]
                    for i in range(h // 4)
                ]
            )
            for c in cells
        ]
    return cells[0] / cells[1]


def test_a_logit_is_drawn_to_the_weighted_mean_of_its_neighbourhood():
    rng = np.random.default_rng(0)
    logit, place = rng.normal(0, 3, (48, 40)), rng.random((48, 40))
    mean = _by_hand(logit, place, 3, 0.0)
    t = [torch.from_numpy(v)[None, None] for v in (logit, place)]
    found = drawn_together(*t, 3, 0.0)[0, 0].numpy()
    # px of a cell lie 1/8 or 3/8 of its edge off its middle: the mean of the inner four has 1/8 of each neighbour's half.
    inner = found.reshape(12, 4, 10, 4)[:, 1:3, :, 1:3].mean((1, 3))
    for axis in (0, 1):
        a = np.moveaxis(mean, axis, 0)
        mean = np.moveaxis(0.875 * a[1:-1] + 0.0625 * (a[:-2] + a[2:]), 0, axis)
    np.testing.assert_allclose(inner[1:-1, 1:-1], mean, atol=1e-9)


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0])
def test_of_what_sets_a_place_off_only_a_part_is_left(own):
    logit = torch.zeros(1, 1, 64, 64)
    logit[..., ::2] = 2.0  # stripes of 1 px, which every cell averages to the same
    out = drawn_together(logit, torch.ones_like(logit), 5, own)
    apart = out[..., 24:40, 24:40:2] - out[..., 24:40, 25:41:2]
    torch.testing.assert_close(apart, torch.full_like(apart, 2 * own), atol=1e-5, rtol=0)


def test_stroma_beside_a_tumour_and_the_pictures_edge_do_not_thin_it_out():
    logit, place = torch.full((1, 1, 64, 64), -4.0), torch.full((1, 1, 64, 64), 0.02)
    logit[..., :32], place[..., :32] = 2.0, 0.9  # the tumour reaches three edges of the picture
    out = drawn_together(logit, place, 7, 0.0)
    assert out[..., :16].min() > 1.9 and out[..., 56:].max() < 0


def test_the_gradient_reaches_the_neighbours_and_not_the_place():
    logit = torch.zeros(1, 1, 32, 32, requires_grad=True)
    place = torch.ones(1, 1, 32, 32, requires_grad=True)
    drawn_together(logit, place, 3, 0.2)[..., 16, 16].sum().backward()
    assert place.grad is None and (logit.grad != 0).sum() > 50


def test_the_two_boxes_have_the_deviation_that_is_asked_for():
    for sigma, mpp in ((16.0, 1.0), (12.0, 0.5), (30.0, 1.0)):
        edge = neighbour_edge(sigma, mpp)
        assert edge % 2 == 1
        assert np.sqrt((edge**2 - 1) / 6) * 4 * mpp == pytest.approx(sigma, abs=2.5 * mpp)
    assert neighbour_edge(0.0, 1.0) == 1 and reach_cells(1) == 1
