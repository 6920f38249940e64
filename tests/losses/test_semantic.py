"""Matching by transport and the semantic consistency: the reference numbers, then what must always hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsistain.losses.semantic import (
    aligned_features,
    feature_cost,
    feature_l1,
    feature_rows,
    match_plan,
    semantic_consistency,
)


@pytest.fixture
def reference(vectors: Path) -> dict[str, Tensor]:
    with np.load(vectors / "ot_reference.npz") as file:
        return {name: torch.from_numpy(file[name])[None] for name in file if file[name].ndim == 2} | {
            "L_sc": torch.tensor(float(file["L_sc"]))
        }


def rows(n: int = 12, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator), torch.randn(2, n, d, generator=generator)


def test_cost_plan_and_matching_equal_the_reference(reference: dict[str, Tensor]) -> None:
    he, ihc = reference["F_H"], reference["F_I"]
    torch.testing.assert_close(feature_cost(he, ihc, normalize=False), reference["cost_l2"])
    plan_ot = match_plan(he, ihc, "exact", normalize=False)
    torch.testing.assert_close(plan_ot, reference["emd"])
    torch.testing.assert_close(aligned_features(plan_ot, ihc), reference["matched_barycentric"])
    torch.testing.assert_close(aligned_features(plan_ot, ihc, "paper"), reference["matched_paper_PT"])
    for reg in ("0.05", "0.1", "1"):
        entropic = match_plan(he, ihc, "entropic", reg=float(reg), normalize=False)
        # the reference stopped with column sums off by 2e-6
        torch.testing.assert_close(entropic, reference[f"sinkhorn_reg{reg}"], atol=5e-5, rtol=0)


def test_consistency_equals_the_reference(reference: dict[str, Tensor]) -> None:
    found = semantic_consistency(reference["matched_barycentric"], reference["F_virtual"])
    torch.testing.assert_close(found, reference["L_sc"].double())


def test_plans_equal_pots() -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")
    he, ihc = (f.double() for f in rows())
    cost = feature_cost(he, ihc)
    exact, entropic = match_plan(he, ihc, "exact"), match_plan(he, ihc, "entropic", reg=0.1)
    for i in range(2):
        matrix, even = cost[i].numpy(), np.full(12, 1 / 12)
        np.testing.assert_allclose(exact[i].numpy(), ot.emd(even, even, matrix), atol=1e-12)
        wanted = ot.sinkhorn(even, even, matrix, 0.1, method="sinkhorn_log", stopThr=1e-12, numItermax=10000)
        np.testing.assert_allclose(entropic[i].numpy(), wanted, atol=1e-8)


def test_the_exact_plan_finds_a_hidden_permutation() -> None:
    he, _ = rows()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    ihc = he[:, order]
    matched = aligned_features(match_plan(he, ihc, "exact"), ihc)
    torch.testing.assert_close(matched, he)
    assert semantic_consistency(matched, he) < 1e-6
    wrong = aligned_features(match_plan(he, ihc, "exact"), ihc, "paper") * 12
    assert not torch.allclose(wrong, he, atol=0.1)  # the printed transpose does not align


def test_without_a_solver_each_place_keeps_its_own() -> None:
    he, ihc = rows()
    torch.testing.assert_close(aligned_features(match_plan(he, ihc, "none"), ihc), ihc)


def test_scale_of_a_stains_features_does_not_matter_when_normalized() -> None:
    he, ihc = rows()
    assert torch.equal(match_plan(he, ihc, "exact"), match_plan(he, 50 * ihc, "exact"))
    torch.testing.assert_close(feature_cost(he, 50 * ihc), feature_cost(he, ihc))
    assert feature_cost(he, 50 * ihc, normalize=False).max() > 10


def test_gradients_reach_the_virtual_features_alone() -> None:
    he, ihc = (f.requires_grad_() for f in rows())
    virtual = rows(seed=2)[0].requires_grad_()
    matched = aligned_features(match_plan(he, ihc, "exact"), ihc)
    for loss in (semantic_consistency(matched, virtual), feature_l1(matched, virtual)):
        virtual.grad = None
        loss.backward()
        assert virtual.grad is not None and virtual.grad.abs().sum() > 0
    assert he.grad is None and ihc.grad is None


def test_consistency_is_between_zero_and_two_and_free_of_scale() -> None:
    a, b = rows()
    assert semantic_consistency(a, a) == 0
    assert semantic_consistency(a, 3 * a) < 1e-6
    assert 0 < semantic_consistency(a, b) < 2
    opposite = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert semantic_consistency(*opposite) == pytest.approx(1.0)  # half of the entries differ by 2


def test_rows_are_the_maps_places_in_reading_order() -> None:
    maps = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    found = feature_rows(maps)
    assert found.shape == (2, 24, 3)
    assert torch.equal(found[1, 7], maps[1, :, 1, 1])
    pooled = feature_rows(maps, pool=2)
    assert pooled.shape == (2, 6, 3)
    torch.testing.assert_close(pooled[0, 4], maps[0, :, 2:4, 2:4].mean(dim=(1, 2)))
    with pytest.raises(ValueError, match="cannot be pooled by 5"):
        feature_rows(maps, pool=5)
