"""PatchNCE and its weights: a plain loop, the authors' numbers, properties."""

import math

import numpy as np
import pytest
import torch

from wsistain.losses.contrastive import (
    adaptive_weights,
    hdce,
    monce,
    patch_nce,
    patch_nce_layers,
    relation_consistency,
)


def unit(seed, shape=(2, 6, 5)):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return z / z.norm(dim=-1, keepdim=True)


def test_loss_equals_a_plain_loop():
    q, k, tau = unit(0), unit(1), 0.07
    loss = patch_nce(q, k, tau)
    for b in range(2):
        for s in range(6):
            logits = [(q[b, s] @ k[b, j]).item() / tau for j in range(6) if j != s]
            positive = (q[b, s] @ k[b, s]).item() / tau
            total = sum(math.exp(x - positive) for x in [*logits, -10 / tau])
            assert loss[b, s].item() == pytest.approx(math.log(1 + total), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("negatives", "name"), [("image", "perimage"), ("batch", "all")])
def test_loss_and_gradient_equal_the_authors_own(vectors, negatives, name):
    file = np.load(vectors / "cut_patchnce.npz")
    b, n = int(file["B"]), int(file["N"])
    q = torch.from_numpy(file["q"]).view(b, n, -1).requires_grad_()
    loss = patch_nce(q, torch.from_numpy(file["k"]).view(b, n, -1), float(file["T"]), negatives=negatives)
    torch.testing.assert_close(loss.flatten(), torch.from_numpy(file[f"loss_{name}"]), rtol=1e-5, atol=1e-6)
    loss.mean().backward()
    gradient = torch.from_numpy(file[f"grad_q_{name}"])
    torch.testing.assert_close(q.grad.view(b * n, -1), gradient, rtol=1e-4, atol=1e-7)


def test_keys_take_no_gradient_and_alike_pairs_cost_little():
    q, k = unit(0).requires_grad_(), unit(0).requires_grad_()
    loss = patch_nce(q, k)
    loss.mean().backward()
    assert k.grad is None
    assert loss.mean() < patch_nce(q, unit(3)).mean()


def test_loss_in_half_precision_inputs_is_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert patch_nce(unit(0).bfloat16(), unit(1).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("schedule", ["zero", "linear", "sigmoid", "lambda"])
@pytest.mark.parametrize("lookup", ["top", "linear", "bell", "uniform"])
@pytest.mark.parametrize(("n", "d"), [(30, 10), (40, 5)])
def test_weights_equal_the_authors_own(vectors, schedule, lookup, n, d):
    file = np.load(vectors / "asp_weights.npz")
    q, k = (torch.from_numpy(file[name])[None] for name in "qk")
    for row, epoch in enumerate(file[f"epochs_{n}_{d}"]):
        w = adaptive_weights(q, k, (int(epoch) - 1) / (n + d), d / (n + d), schedule=schedule, lookup=lookup)
        expected = torch.from_numpy(file[f"w_{n}_{d}_{schedule}_{lookup}"][row])
        torch.testing.assert_close(w[0], expected, atol=1e-4, rtol=1e-4)
        if lookup == "linear":
            loss = (w * patch_nce(q, k, float(file["T"])))[0]
            expected = torch.from_numpy(file[f"loss_{n}_{d}_{schedule}_linear"][row])
            torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


def test_weights_sum_to_the_number_of_patches_in_every_image():
    w = adaptive_weights(unit(0), unit(1), 0.95, 0.25)
    torch.testing.assert_close(w.sum(1), torch.full((2,), 6.0))
    assert w.std() > 0


def test_weights_stay_uniform_until_the_decay_begins():
    for t in (0.0, 0.5, 0.74):
        assert torch.equal(adaptive_weights(unit(0), unit(1), t, 0.25), torch.ones(2, 6))
    assert torch.equal(adaptive_weights(unit(0), unit(1), 0.99, 0.0), torch.ones(2, 6))


def test_patches_that_all_disagree_get_weight_zero_not_nan():
    w = adaptive_weights(unit(0), -unit(0), 1.0, 0.25)
    assert torch.equal(w, torch.zeros(2, 6))


def test_layers_count_alike_whatever_their_number_of_patches():
    qs, ks = [unit(0), unit(1, (2, 3, 5))], [unit(2), unit(3, (2, 3, 5))]
    expected = (patch_nce(qs[0], ks[0]).mean() + patch_nce(qs[1], ks[1]).mean()) / 2
    torch.testing.assert_close(patch_nce_layers(qs, ks), expected)
    ones = [torch.ones(2, 6), torch.ones(2, 3)]
    torch.testing.assert_close(patch_nce_layers(qs, ks, weights=ones), expected)


def test_monce_weighs_negatives_by_a_balanced_plan_and_equals_a_plain_loop():
    pytest.importorskip("ot", reason="POT is not installed")
    q, k, tau = unit(0), unit(1), 0.07
    loss = monce(q, k, tau)
    for b in range(2):
        kernel = torch.exp((q[b] @ k[b].T).fill_diagonal_(-10.0))
        for _ in range(50):
            kernel = kernel / kernel.sum(1, keepdim=True)
            kernel = kernel / kernel.sum(0, keepdim=True)
        for s in range(6):
            similarity = (q[b, s] @ k[b].T).tolist()
            negatives = sum(
                (5 * kernel[s, j].item() + 1e-8) * math.exp((similarity[j] - similarity[s]) / tau)
                for j in range(6)
                if j != s
            )
            assert loss[b, s].item() == pytest.approx(math.log(1 + negatives), rel=1e-3, abs=1e-6)
    alike = unit(2, (1, 1, 5)).expand(2, 6, 5)
    torch.testing.assert_close(monce(alike, alike), torch.full((2, 6), math.log(6)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_decoupled_contrast_with_hard_negatives_equals_a_plain_loop(gamma):
    q, k, tau = unit(0), unit(1), 0.07
    loss = hdce(q, k, tau, gamma=gamma)
    for b in range(2):
        for s in range(6):
            others = [j for j in range(6) if j != s]
            weights = [math.exp(gamma * (k[b, s] @ k[b, j]).item()) for j in others]
            pull = [math.exp((q[b, s] @ (k[b, j] - k[b, s])).item() / tau) for j in others]
            expected = sum(w * x for w, x in zip(weights, pull, strict=True)) / sum(weights) * 5
            assert loss[b, s].item() == pytest.approx(math.log(expected), rel=1e-3, abs=1e-5)


def test_relations_are_compared_by_the_jensen_shannon_divergence():
    q, k = unit(0), unit(1).requires_grad_()
    p, r = (torch.softmax(z.detach() @ z.detach().transpose(1, 2), -1) for z in (k, q))
    m = (p + r) / 2
    expected = 0.5 * ((p * (p / m).log()).sum((1, 2)) + (r * (r / m).log()).sum((1, 2))).mean()
    torch.testing.assert_close(relation_consistency(q, k), expected)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3))).Q
    assert relation_consistency(k @ rotation, k).abs() < 1e-6  # relations, not places
    q.requires_grad_()
    relation_consistency(q, k).backward()
    assert q.grad.abs().sum() > 0
    assert k.grad is None
