"""Mutual information between images and their edges."""

import math

import pytest
import torch

from wsistain.networks.mi_estimator import (
    MiEstimator,
    colour_entropy,
    cut_patches,
    gradient_map,
    histogram_entropy,
    luma,
    without_colour,
)


def test_gradient_map_follows_its_formula_and_ignores_colour():
    x = torch.rand(2, 3, 6, 7)
    y = luma(x)[:, 0]
    edges = gradient_map(x)
    inner = (y[:, 2:, 1:-1] - y[:, :-2, 1:-1]).square() + (y[:, 1:-1, 2:] - y[:, 1:-1, :-2]).square() + 1e-6
    torch.testing.assert_close(edges[:, 0, 1:-1, 1:-1], inner.sqrt())
    torch.testing.assert_close(gradient_map(without_colour(x)), edges)
    assert gradient_map(torch.full((1, 3, 5, 5), 0.3)).max() == pytest.approx(1e-3)
    colour = gradient_map(x, "colour")
    for channel in range(3):
        torch.testing.assert_close(colour[:, channel], gradient_map(x[:, [channel] * 3])[:, 0])


def test_patches_are_cut_in_reading_order_without_overlap():
    x = torch.arange(4 * 9).view(1, 1, 4, 9).float()
    patches = cut_patches(x, 2)
    assert patches.shape == (1, 8, 1, 2, 2)
    assert patches[0, 5, 0].tolist() == [[20, 21], [29, 30]]
    with pytest.raises(ValueError, match="fewer than two patches"):
        cut_patches(x[..., :7], 4)
    shared = cut_patches(torch.rand(2, 3, 7, 10), 4, 1)
    assert shared.shape == (2, 6, 3, 4, 4)
    torch.testing.assert_close(shared[:, 0, :, :, 3], shared[:, 1, :, :, 0])
    torch.testing.assert_close(shared[:, 0, :, 3], shared[:, 3, :, 0])
    with pytest.raises(ValueError, match="cannot share 8 px"):
        MiEstimator(patch=8, overlap=8)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_bound_approaches_the_information_of_correlated_normals(correlation):
    """Pairs of normals: I = -log(1 - rho^2) / 2 nats. The patches are single numbers on both sides."""
    torch.manual_seed(0)
    estimator = MiEstimator(patch=4, widths=(32, 32, 32, 32), time_width=0)
    optimiser = torch.optim.Adam(estimator.parameters(), 2e-3)
    t = torch.zeros(8, dtype=torch.long)

    def pair():
        a = torch.randn(8, 1, 8, 8)
        b = correlation * a + math.sqrt(1 - correlation**2) * torch.randn(8, 1, 8, 8)
        spread = [v.repeat_interleave(4, 2).repeat_interleave(4, 3) for v in (a, b)]
        return spread[0], spread[1].expand(-1, 3, -1, -1)

    for _ in range(250):
        loss, _ = estimator.loss(*pair(), t)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = torch.stack([estimator(*pair(), t).mean() for _ in range(10)]).mean().item()
    assert found == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.12)


def test_the_bound_of_an_image_does_not_depend_on_its_batch_and_has_a_gradient():
    torch.manual_seed(0)
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=16)
    image, edges = torch.rand(3, 3, 32, 32, requires_grad=True), torch.rand(3, 1, 32, 32)
    t = torch.tensor([1, 5, 9])
    whole = estimator(edges, image, t)
    torch.testing.assert_close(whole[1:2], estimator(edges[1:2], image[1:2], t[1:2]))
    whole[1].backward()
    assert image.grad[1].abs().sum() > 0
    assert image.grad[[0, 2]].abs().sum() == 0
    assert not torch.equal(whole[1:2], estimator(edges[1:2], image[1:2], t[2:3]))


def test_the_running_mean_corrects_the_gradient_and_is_kept_in_the_state():
    torch.manual_seed(0)
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=0)
    shuffled, joint = torch.randn(2, 16), torch.randn(2, 16)
    first, bound = estimator._corrected(joint, shuffled, 0.25)
    mean = shuffled.exp().mean()
    torch.testing.assert_close(bound, joint.mean() - mean.log())
    torch.testing.assert_close(first, 1 - joint.mean())  # the first batch is its own mean
    other = torch.randn(2, 16)
    second, _ = estimator._corrected(joint, other, 0.25)
    running = 0.75 * mean + 0.25 * other.exp().mean()
    torch.testing.assert_close(second, other.exp().mean() / running - joint.mean())
    assert {"log_mean", "n_seen"} <= set(estimator.state_dict())
    torch.testing.assert_close(estimator.state_dict()["log_mean"], running.log())


def test_colour_entropy_is_that_of_a_gaussian_and_grows_with_colour():
    torch.manual_seed(0)
    spread = torch.tensor([0.3, 0.2, 0.1]).view(1, 3, 1, 1)
    x = torch.randn(1, 3, 128, 128) * spread
    expected = 0.5 * math.log(0.09 * 0.04 * 0.01)
    assert colour_entropy(x, 64).item() == pytest.approx(expected, abs=0.05)
    assert colour_entropy(without_colour(x), 64) < colour_entropy(x, 64)
    assert colour_entropy(torch.zeros(1, 3, 16, 16), 8).item() == pytest.approx(1.5 * math.log(1e-4), rel=1e-4)


def test_histogram_entropy_is_that_of_the_values_and_has_a_slope():
    """Of uniform values over 8 bins it is log 8 and a little for the bins' soft edges; flat images have the least."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64) * 2 - 1  # 8 of 16 bins over -2 to 2
    found = histogram_entropy(x, 32)
    assert (math.log(8) < found).all() and (found < math.log(12)).all()
    flat = histogram_entropy(torch.full_like(x, 0.1), 32)
    assert (flat < found - 0.5).all()
    assert histogram_entropy(0.3 * x, 32)[0] < found[0]
    y = (0.3 * x).requires_grad_(True)
    histogram_entropy(y, 32).sum().backward()
    assert (y.grad * y).sum() > 0  # spreading the values raises it
    torch.testing.assert_close(histogram_entropy(x[1:], 32), found[1:])
