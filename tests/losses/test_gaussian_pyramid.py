"""Gaussian pyramids: authors' numbers, properties."""

import numpy as np
import pytest
import torch

from wsistain.losses.gaussian_pyramid import gaussian_pyramid, gaussian_pyramid_l1, octave_l1, octaves


def test_loss_levels_and_gradient_equal_the_authors_own(vectors):
    file = np.load(vectors / "asp_gauss_pyramid.npz")
    fake, real = torch.from_numpy(file["fake"]).requires_grad_(), torch.from_numpy(file["real"])
    loss = 10 * gaussian_pyramid_l1(fake, real)
    torch.testing.assert_close(loss, torch.tensor(file["loss"]), rtol=1e-5, atol=0)
    loss.backward()
    torch.testing.assert_close(fake.grad, torch.from_numpy(file["grad_fake"]), rtol=1e-4, atol=1e-9)
    levels = gaussian_pyramid(fake.detach())
    for i in range(2, 6):
        torch.testing.assert_close(levels[i], torch.from_numpy(file[f"pyr{i}_fake"]), rtol=1e-5, atol=1e-6)
    l1 = [(a - b).abs().mean() for a, b in zip(levels, gaussian_pyramid(real), strict=True)]
    torch.testing.assert_close(torch.stack(l1), torch.from_numpy(file["level_l1"]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [gaussian_pyramid_l1, octave_l1])
def test_identical_images_differ_by_nothing(loss):
    x = torch.rand(2, 3, 64, 64)
    assert loss(x, x) == 0


def test_pyramid_of_a_constant_is_constant():
    for level in [*gaussian_pyramid(torch.full((1, 3, 64, 96), 0.3)), *octaves(torch.full((1, 3, 64, 96), 0.3))]:
        torch.testing.assert_close(level, torch.full_like(level, 0.3))


def test_four_octaves_halve_three_times_and_their_constant_offset_counts_four_times():
    x = torch.rand(1, 3, 64, 32)
    assert [tuple(o.shape[2:]) for o in octaves(x)] == [(64, 32), (32, 16), (16, 8), (8, 4)]
    torch.testing.assert_close(octave_l1(x + 0.25, x), torch.tensor(1.0))


def test_coarse_levels_weigh_more_than_fine_ones():
    checker = torch.ones(64, 64)
    checker[::2, 1::2] = checker[1::2, ::2] = -1
    blob = torch.ones(1, 3, 64, 64)
    zero = torch.zeros_like(blob)
    assert gaussian_pyramid_l1(blob, zero) > 5 * gaussian_pyramid_l1(blob * checker, zero)
