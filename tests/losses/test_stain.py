"""Batch consistency of stain and features: the authors' numbers, properties."""

import math

import numpy as np
import pytest
import torch

from wsistain.losses.stain import batch_similarity, feature_correlation, od_correlation, od_total, protein_awareness
from wsistain.optics.stains import focal_density, from_unit


@pytest.mark.parametrize("run", ["r01", "rpm1"])
def test_terms_and_gradient_equal_the_authors_own(vectors, run):
    file = np.load(vectors / "usigan_fod.npz")

    def images(name):
        x = torch.from_numpy(file[name])
        return from_unit(x) if run == "rpm1" else x

    leaf = torch.from_numpy(file["fake01"]).requires_grad_()
    fed = from_unit(leaf) if run == "rpm1" else leaf
    fake, real = focal_density(fed), focal_density(images("real01"))
    torch.testing.assert_close(batch_similarity(real)[None], torch.from_numpy(file[f"{run}_matrix_real"]))
    torch.testing.assert_close(batch_similarity(fake)[None], torch.from_numpy(file[f"{run}_matrix_fake"]))
    correlation, total = od_correlation(fake, real), od_total(fake, real)
    torch.testing.assert_close(correlation, torch.tensor(file[f"{run}_odc_corr_term"]), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(total, torch.tensor(file[f"{run}_odc_sum_term"]), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(correlation + total, torch.tensor(file[f"{run}_odc"]), rtol=1e-4, atol=1e-7)
    (gradient,) = torch.autograd.grad(correlation + total, fed)
    torch.testing.assert_close(gradient, torch.from_numpy(file[f"{run}_odc_grad_fake"]), rtol=1e-3, atol=1e-6)


def test_equal_batches_differ_by_nothing():
    x = torch.rand(3, 8, 8)
    assert od_correlation(x, x) == 0
    assert od_total(x, x) == 0
    assert feature_correlation([x], [x]) == 0


def test_one_image_alone_has_no_correlation_to_teach():
    torch.testing.assert_close(od_correlation(torch.rand(1, 8, 8), torch.rand(1, 8, 8)), torch.tensor(0.0))


def test_glass_is_unlike_everything_even_itself():
    x = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    assert batch_similarity(x).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_density_below_the_floor_does_not_count():
    assert od_total(torch.full((1, 4, 4), 0.14), torch.zeros(1, 4, 4)) == 0
    torch.testing.assert_close(od_total(torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4)), torch.tensor(0.25))


def test_only_the_fake_takes_gradient():
    fake, real = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    (feature_correlation([fake], [real]) + od_total(fake[:, 0], real[:, 0])).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


def test_protein_awareness_equals_a_plain_loop_and_is_zero_for_equal_pictures():
    g = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 8, 12, generator=g) * 2.5, torch.rand(2, 8, 12, generator=g) * 1.2
    expected, blocks = 0.0, []
    for f, r in zip(fake, real, strict=True):
        sums = [[(x[(x * 20 / math.e).long() == j]).sum().item() / 96 for j in range(20)] for x in (f, r)]
        expected += sum((a - b) ** 2 for a, b in zip(*sums, strict=True)) / 2
        f, r = (torch.where(x >= 0.15, x, 0.0) for x in (f, r))
        if abs(f.sum() - r.sum()) > 0.4 * r.sum():
            expected += ((f.sum() - r.sum()) / 96).item() ** 2
        blocks += [
            (f[y : y + 2, x : x + 3].mean() - r[y : y + 2, x : x + 3].mean()).item() ** 2
            for y in range(0, 8, 2)
            for x in range(0, 12, 3)
        ]
    expected += sum(blocks) / len(blocks)
    assert protein_awareness(fake, real).item() == pytest.approx(expected, rel=1e-4)
    assert protein_awareness(real, real) == 0
    assert protein_awareness(real * 0.9, real) < protein_awareness(real * 0.5, real)
    fake.requires_grad_()
    protein_awareness(fake, real).backward()
    assert fake.grad.abs().sum() > 0
