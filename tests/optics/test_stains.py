"""Stain maths: properties, scikit-image, the authors' focal density."""

import math

import numpy as np
import pytest
import torch

from wsistain.optics import stains as S


def picture(seed=0, n=2, side=12):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_density_of_glass_is_zero_and_of_a_tenth_of_the_light_is_one():
    assert S.optical_density(torch.ones(1, 3, 2, 2)).abs().max() == 0
    torch.testing.assert_close(S.optical_density(torch.full((1, 3, 2, 2), 0.1)), torch.ones(1, 3, 2, 2))


def test_density_and_light_undo_each_other_above_the_floor():
    light = picture() * 0.9 + 0.05
    torch.testing.assert_close(10 ** -S.optical_density(light), light)


def test_network_range_and_light_undo_each_other():
    assert S.to_unit(torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]
    torch.testing.assert_close(S.to_unit(S.from_unit(picture())), picture())


def test_stains_come_back_after_combining_and_separating():
    amounts = picture(1) * 0.05 + 0.001
    torch.testing.assert_close(S.separate_stains(S.combine_stains(amounts)), amounts, atol=1e-6, rtol=1e-4)


def test_separation_and_recombination_equal_scikit_image():
    from skimage.color import hed2rgb, rgb2hed

    rgb = picture(2).double()
    theirs = rgb2hed(rgb.permute(0, 2, 3, 1).numpy())
    ours = S.separate_stains(rgb)
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=1e-9)
    np.testing.assert_allclose(S.combine_stains(ours).permute(0, 2, 3, 1).numpy(), hed2rgb(theirs), atol=1e-9)


def test_pure_haematoxylin_has_hardly_any_dab_and_dab_density_grows_with_dab():
    amounts = torch.zeros(4, 3, 1, 1)
    amounts[0, 0] = 0.08
    amounts[1:, 2] = torch.tensor([0.02, 0.05, 0.1]).view(3, 1, 1)
    density = -torch.log10(S.gray(S.dab_light(S.combine_stains(amounts)))).flatten()
    assert density[0] < 1e-4
    assert (density[1:].diff() > 0).all()


def test_focal_density_of_white_is_zero_and_never_exceeds_e():
    assert S.focal_density(torch.ones(1, 3, 2, 2)).max() == 0
    assert S.focal_density(torch.zeros(1, 3, 2, 2)).max().item() == pytest.approx(2.2618, abs=1e-4)
    assert S.focal_density(picture(3, 4, 64)).max() <= math.e


@pytest.mark.parametrize("run", ["r01", "rpm1"])
def test_focal_density_equals_the_authors_own(vectors, run):
    file = np.load(vectors / "usigan_fod.npz")
    x = torch.from_numpy(file["real01"])
    x = S.from_unit(x) if run == "rpm1" else x
    hed = S.separate_stains(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(hed, torch.from_numpy(file[f"{run}_hed"]), atol=1e-6, rtol=1e-5)
    rgb = S.dab_light(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(rgb, torch.from_numpy(file[f"{run}_dab_rgb"]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(S.gray(S.dab_light(x)), torch.from_numpy(file[f"{run}_dab_gray"]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(S.focal_density(x), torch.from_numpy(file[f"{run}_fod"]), atol=2e-6, rtol=1e-5)


def test_gradients_are_finite_on_white_black_and_colour():
    x = torch.cat([torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), picture(4, 1, 4)]).requires_grad_()
    S.focal_density(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[2].abs().sum() > 0


def test_stain_maths_stays_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = S.focal_density(picture(5).bfloat16())
    torch.testing.assert_close(low, S.focal_density(picture(5).bfloat16().float()))
    assert low.dtype == torch.float32
