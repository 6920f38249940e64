"""Automatic annotation, offline and differentiable."""

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from skimage.morphology import closing, dilation, disk

from wsistain.losses.auxiliary import location_loss
from wsistain.optics.masks import (
    Annotation,
    annotate,
    annotate_batch,
    close_disk,
    close_mask,
    dab_gray,
    dilate_disk,
    haematoxylin_saturation,
    official_mask,
    open_mask,
    otsu_classes,
    otsu_threshold,
    soft_mask,
)
from wsistain.optics.stains import combine_stains


def _picture(seed=0, size=96, blobs=6, dab=0.12):
    """Light (1, 3, size, size): haematoxylin everywhere, brown discs on it."""
    rng = np.random.default_rng(seed)
    stains = np.zeros((1, 3, size, size), dtype=np.float32)
    stains[:, 0] = 0.03 + 0.01 * rng.random((size, size))
    yy, xx = np.mgrid[:size, :size]
    for cy, cx in rng.integers(12, size - 12, (blobs, 2)):
        stains[0, 2][np.hypot(yy - cy, xx - cx) < 7] = dab
    return combine_stains(torch.from_numpy(stains))


def _uint8(light):
    return (light[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def test_annotation_meets_the_authors_preprocessing(vectors):
    v = np.load(vectors / "atst_mask_gt.npz")
    assert np.array_equal(annotate(v["ihc_u8"]), v["mask_closed_disk30"].astype(bool))
    assert np.array_equal(annotate(v["ihc_u8"], Annotation(closing_radius=8)), v["mask_closed_disk8"].astype(bool))
    assert np.array_equal(annotate(v["ihc_u8"], Annotation(closing_radius=0)), v["mask_opened"].astype(bool))
    assert np.array_equal(annotate(v["ihc_u8"], Annotation(closing_radius=0, opening=0)), v["mask_otsu"].astype(bool))
    assert otsu_threshold(torch.from_numpy(v["filtered"])[None])[0].item() == pytest.approx(float(v["otsu"]), abs=1e-6)


def test_soft_mask_of_the_authors_picture_is_close_to_their_annotation(vectors):
    v = np.load(vectors / "atst_mask_gt.npz")
    light = torch.from_numpy(v["ihc_u8"]).permute(2, 0, 1)[None] / 255
    assert np.abs(dab_gray(light)[0, 0].numpy() - v["dab_gray"]).max() < 2e-3  # other luma weights
    mask = soft_mask(dab_gray(light), Annotation(closing_radius=8), softness=1e-3)
    assert ((mask[0, 0].numpy() > 0.5) == v["mask_closed_disk8"].astype(bool)).mean() > 0.995


def test_the_exact_closing_equals_a_disk_closing():
    rng = np.random.default_rng(0)
    for radius in (1, 2, 5, 13):
        mask = rng.random((61, 47)) > 0.9
        assert np.array_equal(close_mask(mask, radius), closing(mask.astype(np.uint8), disk(radius)).astype(bool))
    assert not close_mask(np.zeros((9, 9), bool), 3).any()


def test_opening_removes_specks_and_keeps_blocks():
    mask = np.zeros((30, 30), bool)
    mask[3:6, 3:6] = True
    mask[12:22, 12:22] = True
    opened = open_mask(mask, 2)
    assert not opened[:8, :8].any()
    assert opened[12:22, 12:22].all()


def test_annotation_finds_the_brown_discs_and_the_cap_keeps_it_from_splitting_noise():
    light = _picture()
    brown = dab_gray(light)[0, 0].numpy() < 0.8
    found = annotate(_uint8(light), Annotation(closing_radius=1))
    assert (found == brown).mean() > 0.97
    blank = _uint8(_picture(blobs=0))
    assert not annotate(blank, Annotation(threshold_cap=0.9)).any()
    with pytest.raises(ValueError, match="wanted uint8"):
        annotate(light[0].numpy())


def test_otsu_equals_scikit_image_and_a_constant_image_gets_its_value():
    rng = np.random.default_rng(1)
    images = np.stack(
        [rng.beta(2, 5, (40, 30)), np.where(rng.random((40, 30)) > 0.3, 0.9, 0.2) + 0.02 * rng.random((40, 30))]
    )
    found = otsu_threshold(torch.from_numpy(images.astype(np.float32)))
    for image, t in zip(images.astype(np.float32), found, strict=True):
        assert t.item() == pytest.approx(threshold_otsu(image), abs=2e-3 * float(np.ptp(image)))
    assert otsu_threshold(torch.full((1, 5, 5), 0.25)).item() == 0.25


def test_disk_dilation_and_closing_equal_scikit_image_and_pass_the_gradient_to_the_largest_pixel():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 23, 31)
    for radius in (1, 4, 7):
        for image, wide, shut in zip(x, dilate_disk(x, radius), close_disk(x, radius), strict=True):
            assert np.array_equal(wide[0].numpy(), dilation(image[0].numpy(), disk(radius)))
            assert np.array_equal(shut[0].numpy(), closing(image[0].numpy(), disk(radius)))
    x = torch.rand(1, 1, 9, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: dilate_disk(v, 3), (x,))
    assert dilate_disk(torch.rand(1, 1, 3, 3), 8).unique().numel() == 1  # a disk larger than the picture


@pytest.mark.parametrize("seed", range(3))
def test_soft_mask_becomes_the_annotation_as_it_hardens(seed):
    light = _picture(seed)
    settings = Annotation(closing_radius=4)
    target = annotate(_uint8(light), settings)
    hard = soft_mask(dab_gray(light), settings, softness=1e-4)[0, 0].numpy() > 0.5
    soft = soft_mask(dab_gray(light), settings)[0, 0].numpy() > 0.5
    assert (hard == target).mean() > 0.995
    assert (soft == target).mean() > 0.98


def test_our_mask_moves_the_picture_and_the_official_one_does_not():
    """The location loss on the authors' own mask has no gradient to speak of, so it cannot have trained anything."""
    fake, real = _picture(1), annotate(_uint8(_picture(2)), Annotation(closing_radius=4))
    target = torch.from_numpy(real).float()[None, None]

    def slope(make):
        light = fake.clone().requires_grad_(True)
        location_loss(make(dab_gray(light)), target).backward()
        return light.grad.abs().max().item()

    assert slope(lambda d: soft_mask(d, Annotation(closing_radius=4))) > 1e-6
    assert slope(official_mask) < 1e-12


def test_a_step_down_the_gradient_brings_the_stain_to_the_target():
    settings = Annotation(closing_radius=2)
    target = torch.from_numpy(annotate(_uint8(_picture(2)), settings)).float()[None, None]
    light = (_picture(1) * 0.98 + 0.01).logit().requires_grad_(True)
    optimiser, losses = torch.optim.Adam([light], 0.05), []
    for _ in range(40):
        loss = location_loss(soft_mask(dab_gray(light.sigmoid()), settings), target)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]


def test_official_mask_is_nearly_binary_and_wider_than_the_annotation():
    light = _picture()
    mask = official_mask(dab_gray(light))[0, 0].numpy()
    assert ((mask < 0.01) | (mask > 0.99)).mean() > 0.999
    assert mask.mean() > annotate(_uint8(light), Annotation(closing_radius=14)).mean()


def test_saturation_is_high_on_haematoxylin_and_zero_outside_the_mask():
    stains = torch.full((1, 3, 20, 20), 0.001)
    stains[:, 0, 5:10, 5:10] = 0.1
    stains[:, 0, 5:10, 14:18] = 0.1
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :12] = 1
    s = haematoxylin_saturation(combine_stains(stains), mask)[0, 0]
    assert s[5:10, 5:10].min() > 0.99
    assert s[:, 12:].max() == 0
    assert s.shape == (20, 20)


def test_a_picture_painted_darker_is_no_better_than_the_real_one() -> None:
    """The soft mask's error against the picture's own annotation is least where its DAB is as it is."""
    generator = torch.Generator().manual_seed(3)
    stains = torch.zeros(1, 3, 128, 128)
    stains[:, 0] = 0.05
    stains[:, 2] = 0.02 + 0.005 * torch.randn(128, 128, generator=generator)  # pale background
    for y, x in ((20, 30), (70, 40), (60, 100), (100, 80)):
        stains[:, 2, y : y + 16, x : x + 16] += 0.06  # pale HER2
    settings = Annotation(closing_radius=4)
    light = combine_stains(stains).clamp(0, 1)
    target = annotate_batch(light, settings)
    assert 0.05 < target.mean() < 0.5

    def error(k: float) -> float:
        darker = combine_stains(stains * torch.tensor([1.0, 1.0, k]).view(1, 3, 1, 1)).clamp(0, 1)
        return (soft_mask(dab_gray(darker), settings) - target).square().mean().item()

    errors = [error(k) for k in (0.5, 1.0, 2.0, 4.0)]
    assert errors[1] <= min(errors) + 1e-4
    wanted = torch.tensor(errors)
    assert (wanted.max() - wanted.min()) < 5e-3  # scaling alone wins nothing and costs little


def test_otsus_classes_are_as_far_apart_as_their_means() -> None:
    values = torch.cat([torch.full((1, 50), 0.2), torch.full((1, 70), 0.9)], dim=1)
    threshold, apart = otsu_classes(values)
    assert 0.2 <= threshold.item() <= 0.9
    assert apart.item() == pytest.approx(0.7, abs=0.01)
    assert otsu_classes(torch.full((1, 8), 0.3))[1].item() == 0
