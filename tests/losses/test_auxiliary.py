"""ATST-Net's auxiliary losses against their equations."""

import pytest
import torch

from wsistain.losses.auxiliary import (
    count_loss,
    cycle_loss,
    intensity_loss,
    local_location_losses,
    location_loss,
    ms_ssim,
    n_scales,
)


def test_location_losses_vanish_for_equal_masks_and_are_one_for_opposite_ones():
    mask = (torch.rand(2, 1, 32, 32) > 0.5).float()
    assert location_loss(mask, mask) == 0
    assert location_loss(1 - mask, mask) == 1
    assert local_location_losses(mask, mask) == (0, 0)
    assert local_location_losses(1 - mask, mask) == (1, 1)


def test_local_losses_look_at_the_most_and_the_least_stained_quarter():
    """Eq. 3 in loops."""
    torch.manual_seed(0)
    real = (torch.rand(3, 1, 16, 24) > torch.rand(3, 1, 1, 24)).float()
    fake = torch.rand(3, 1, 16, 24)
    top, bottom = [], []
    for f, r in zip(fake[:, 0], real[:, 0], strict=True):
        cells = []
        for i in range(4):
            for j in range(4):
                place = (slice(4 * i, 4 * i + 4), slice(6 * j, 6 * j + 6))
                cells.append((r[place].sum().item(), len(cells), (f[place] - r[place]).square().mean().item()))
        cells.sort()
        bottom.append(sum(e for _, _, e in cells[:4]) / 4)
        top.append(sum(e for _, _, e in cells[-4:]) / 4)
    high, low = local_location_losses(fake, real)
    assert high.item() == pytest.approx(sum(top) / 3, rel=1e-5)
    assert low.item() == pytest.approx(sum(bottom) / 3, rel=1e-5)
    with pytest.raises(ValueError, match=r"4 x 4 equal"):
        local_location_losses(fake[..., :22], real[..., :22])


def test_intensity_compares_mean_strength_each_under_its_own_mask():
    dab_fake, dab_real = torch.full((1, 1, 4, 4), 0.9), torch.full((1, 1, 4, 4), 1.0)
    dab_real[..., :2, :] = 0.4
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :] = 1
    assert intensity_loss(dab_fake, torch.ones_like(mask), dab_real, mask).item() == pytest.approx(0.25)
    assert intensity_loss(dab_real, mask, dab_real, mask) == 0
    assert intensity_loss(dab_fake, torch.zeros_like(mask), dab_real, mask).item() == pytest.approx(0.36)


def test_intensity_moves_the_stain_and_not_the_mask():
    dab = torch.rand(1, 1, 8, 8, requires_grad=True)
    mask = torch.rand(1, 1, 8, 8, requires_grad=True)
    intensity_loss(dab, mask, torch.rand(1, 1, 8, 8), torch.ones(1, 1, 8, 8)).backward()
    assert dab.grad.abs().sum() > 0
    assert mask.grad is None


def test_count_loss_is_the_absolute_difference_in_its_unit():
    assert count_loss(torch.tensor([30.0, 10.0]), torch.tensor([10.0, 20.0]), scale=10).item() == pytest.approx(1.5)


@pytest.mark.parametrize(("side", "n"), [(11, 1), (21, 1), (22, 2), (44, 3), (175, 4), (176, 5), (512, 5)])
def test_as_many_scales_as_fit(side, n):
    assert n_scales(side) == n


def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise():
    torch.manual_seed(0)
    a = torch.rand(1, 3, 64, 64)
    values = [ms_ssim(a, a + s * torch.randn_like(a)).item() for s in (0, 0.05, 0.2, 0.8)]
    assert values[0] == pytest.approx(1, abs=1e-5)
    assert values == sorted(values, reverse=True)
    with pytest.raises(ValueError, match="11 px"):
        ms_ssim(a[..., :9], a[..., :9])


def test_ms_ssim_equals_torchmetrics_on_gray():
    reference = pytest.importorskip("torchmetrics.functional.image").multiscale_structural_similarity_index_measure
    torch.manual_seed(0)
    a = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 400, 400), 2)
    b = (a + 0.1 * torch.randn_like(a)).clamp(0, 1)
    assert ms_ssim(a, b).item() == pytest.approx(reference(a, b, data_range=1.0).item(), abs=2e-3)


def test_ms_ssim_of_opposite_images_has_a_finite_gradient():
    a = torch.rand(1, 3, 32, 32, requires_grad=True)
    ms_ssim(a, 1 - a.detach()).backward()
    assert torch.isfinite(a.grad).all()


def test_cycle_loss_adds_the_similarity_to_the_difference():
    torch.manual_seed(0)
    a, b = torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 3, 32, 32) * 2 - 1
    plain = cycle_loss(a, b, ssim_gain=0)
    assert plain.item() == pytest.approx((a - b).abs().mean().item())
    both = cycle_loss(a, b, ssim_gain=5) - plain
    assert both.item() == pytest.approx(5 * (1 - ms_ssim((a + 1) / 2, (b + 1) / 2).item()), rel=1e-4)
    assert cycle_loss(a, a).item() == pytest.approx(0, abs=1e-4)
