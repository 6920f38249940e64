"""Transport: properties, POT, the authors' damped update."""

import numpy as np
import pytest
import torch

from wsistain import ot


def cloud(seed, n=24, d=6, batch=()):
    return torch.randn(*batch, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(n=24, batch=()):
    return torch.cdist(cloud(0, n, batch=batch), cloud(1, n, batch=batch))


def test_balanced_plan_has_the_marginals_asked_for():
    a = torch.rand(3, 10, dtype=torch.float64).softmax(-1)
    b = torch.rand(3, 7, dtype=torch.float64).softmax(-1)
    plan_ot = ot.sinkhorn(torch.rand(3, 10, 7, dtype=torch.float64), 0.1, a, b)
    torch.testing.assert_close(plan_ot.sum(-1), a, atol=1e-8, rtol=0)
    torch.testing.assert_close(plan_ot.sum(-2), b, atol=1e-8, rtol=0)


def test_a_batch_is_solved_as_its_members_are():
    cost = distances(batch=(3,))
    for solve in (
        lambda c: ot.sinkhorn(c, 0.2, tol=0, n_iter=40),
        lambda c: ot.unbalanced_plan(c, 0.2, 1.0),
        lambda c: ot.damped_plan(-c, 1e-3),
        ot.exact_plan,
    ):
        torch.testing.assert_close(solve(cost)[1], solve(cost[1]))


def test_small_reg_tends_to_the_exact_plan():
    cost = distances()
    entropic = ot.sinkhorn(cost, 0.005, n_iter=20_000, tol=1e-7)
    exact = ot.exact_plan(cost)
    assert (entropic * cost).sum().item() == pytest.approx((exact * cost).sum().item(), rel=2e-3)


def test_exact_plan_of_equal_clouds_is_a_permutation():
    points = cloud(2)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    plan_ot = ot.exact_plan(torch.cdist(points, points[order]))
    torch.testing.assert_close(ot.barycentric_projection(plan_ot, points[order]), points)
    assert set(plan_ot.flatten().tolist()) == {0.0, 1 / 24}


def test_large_marginal_weight_tends_to_balanced_and_small_to_the_bare_kernel():
    cost = distances()
    balanced = ot.sinkhorn(cost, 0.5)
    torch.testing.assert_close(ot.sinkhorn_unbalanced(cost, 0.5, 1e6), balanced, atol=1e-6, rtol=1e-3)
    free = ot.sinkhorn_unbalanced(cost, 0.5, 1e-7)
    torch.testing.assert_close(free, torch.exp(-cost / 0.5), atol=1e-6, rtol=1e-4)


def test_unbalanced_plan_is_the_minimum_of_its_objective():
    cost = torch.rand(5, 5, dtype=torch.float64)
    a, b = ot.uniform_marginals(cost)
    reg, reg_m = 0.1, 0.3

    def kl(x, y):
        return (x * (x / y).log() - x + y).sum()

    def objective(p):
        return (p * cost).sum() + reg * (p * (p.log() - 1)).sum() + reg_m * (kl(p.sum(1), a) + kl(p.sum(0), b))

    plan_ot = ot.sinkhorn_unbalanced(cost, reg, reg_m, n_iter=5000).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(plan_ot), plan_ot)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("reg_m", [1e-3, 1.0, 10.0, 1e4])
def test_unbalanced_plan_is_the_minimum_after_fifty_rounds_and_pots_too(reg_m):
    cost = -ot.cosine_similarity_matrix(cloud(0), cloud(1)[:17])
    a, b = (
        torch.full((24,), 1 / 24, dtype=torch.float64),
        torch.full((17,), 2 / 17, dtype=torch.float64),
    )  # twice the mass
    plan_ot = ot.unbalanced_plan(cost, 1.0, reg_m, a, b)
    relaxed = (plan_ot.sum(1) / a).log()[:, None] + (plan_ot.sum(0) / b).log()
    slope = cost + (plan_ot / (a[:, None] * b)).log() + reg_m * relaxed  # of the objective; 0 at its minimum
    assert slope.abs().max() < 1e-9 * max(1, reg_m)
    pot = pytest.importorskip("ot", reason="POT is not installed")
    if reg_m < 100:  # POT's own rounds take too long beyond
        theirs = pot.unbalanced.sinkhorn_unbalanced(
            a.numpy(), b.numpy(), cost.numpy(), 1.0, reg_m, reg_type="kl", numItermax=50_000, stopThr=1e-14
        )
        torch.testing.assert_close(plan_ot, torch.from_numpy(theirs), atol=1e-13, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")
def test_unbalanced_plan_at_usigans_defaults_is_that_of_pots_three_solvers():
    pot = pytest.importorskip("ot", reason="POT is not installed")
    cost, even = -ot.cosine_similarity_matrix(cloud(0), cloud(1)), np.full(24, 1 / 24)
    plan_ot = ot.unbalanced_plan(cost, 1.0, 10.0)
    given = {"reg_m": 10.0, "reg": 1.0, "c": np.outer(even, even)}
    scaled = pot.unbalanced.sinkhorn_unbalanced(even, even, cost.numpy(), reg_type="kl", stopThr=1e-14, **given)
    climbed = pot.unbalanced.mm_unbalanced(
        even, even, cost.numpy(), div="kl", numItermax=20_000, stopThr=1e-15, **given
    )
    descended = pot.unbalanced.lbfgsb_unbalanced(
        even, even, cost.numpy(), reg_div="kl", regm_div="kl", numItermax=5000, stopThr=1e-16, **given
    )
    for theirs, rtol in ((scaled, 1e-9), (climbed, 1e-6), (descended, 1e-2)):
        torch.testing.assert_close(plan_ot, torch.from_numpy(theirs), atol=1e-12, rtol=rtol)


@pytest.mark.parametrize(("reg", "reg_m"), [(1.0, 10.0), (1.0, 1e-3), (0.3, 100.0), (0.02, 0.5)])
def test_gradient_of_the_unbalanced_plan_equals_that_of_the_unrolled_rounds(reg, reg_m):
    points = cloud(5, 7, 4)
    a, b = torch.full((9,), 0.2, dtype=torch.float64), torch.full((7,), 0.1, dtype=torch.float64)
    aim = torch.rand(9, 7, dtype=torch.float64) / 63
    found = []
    for solve in (
        lambda c: ot.unbalanced_plan(c, reg, reg_m, a, b, n_iter=600),
        lambda c: ot.sinkhorn_unbalanced(c - reg * (a[:, None] * b).log(), reg, reg_m, a, b, n_iter=9000, tol=1e-14),
    ):
        y = points.clone().requires_grad_()
        plan_ot = solve(torch.cdist(cloud(6, 9, 4), y) / 4)
        found.append((plan_ot, torch.autograd.grad((plan_ot - aim).square().sum(), y)[0]))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-6)


def test_unbalanced_transport_leaves_mass_where_it_fits_and_balanced_does_not():
    centres = torch.nn.functional.normalize(cloud(7, 2, 16), dim=-1)
    he, ihc = (torch.cat([centres[:1].expand(n, -1), centres[1:].expand(40 - n, -1)]) for n in (30, 10))
    cost = -ot.cosine_similarity_matrix(he, ihc)

    def crossing(plan_ot):
        return ((plan_ot[:30, 10:].sum() + plan_ot[30:, :10].sum()) / plan_ot.sum()).item()

    balanced, damped = ot.sinkhorn(cost, 0.1) * 40, ot.damped_plan(-cost / 0.1, 1e-3)
    assert crossing(balanced) == pytest.approx(0.5, abs=0.01)  # 30 against 10: half must cross
    assert crossing(damped) == pytest.approx(crossing(balanced), abs=0.01)
    shares = [crossing(ot.unbalanced_plan(cost, 0.1, reg_m)) for reg_m in (10.0, 1.0, 0.1)]
    assert 0.49 > shares[0] > shares[1] + 0.1 > shares[2] + 0.2


@pytest.mark.parametrize("tau", [1e-4, 1e-3])
def test_damped_plan_has_row_and_column_sums_of_about_one(tau):
    plan_ot = ot.damped_plan(ot.cosine_similarity_matrix(cloud(0), cloud(1)), tau)
    torch.testing.assert_close(plan_ot.sum(-1), torch.ones(24, dtype=torch.float64), atol=1e-3 + 2 * tau, rtol=0)
    torch.testing.assert_close(plan_ot.sum(-2), torch.ones(24, dtype=torch.float64), atol=1e-3 + 2 * tau, rtol=0)


def test_a_forbidden_pair_gets_no_mass():
    cost = distances().fill_diagonal_(float("inf"))
    for plan_ot in (
        ot.sinkhorn(cost, 0.5),
        ot.sinkhorn_unbalanced(cost, 0.5, 1.0),
        ot.unbalanced_plan(cost, 0.5, 1.0),
        ot.damped_plan(-cost, 1e-3),
    ):
        assert plan_ot.diagonal().abs().max() == 0
        assert torch.isfinite(plan_ot).all()


def test_gradients_reach_the_cost_and_are_finite():
    cost = distances().requires_grad_()
    for solve in (
        lambda c: ot.sinkhorn(c, 0.5),
        lambda c: ot.sinkhorn_unbalanced(c, 0.5, 1.0),
        lambda c: ot.unbalanced_plan(c, 0.5, 1.0),
        lambda c: ot.damped_plan(-c, 0.001),
    ):
        (gradient,) = torch.autograd.grad(solve(cost).square().sum(), cost)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


def test_gradient_of_the_damped_plan_equals_that_of_the_unrolled_rounds():
    similarity = (cloud(5, 7, 3, (2,)) @ cloud(6, 4, 3, (2,)).transpose(-1, -2) / 4).requires_grad_()
    aim = torch.rand(2, 7, 4, dtype=torch.float64)
    k = similarity.exp()
    u, v = torch.ones(2, 7, 1, dtype=torch.float64), torch.ones(2, 4, 1, dtype=torch.float64)
    for _ in range(9):
        u = torch.exp(-0.1 * u) / (k @ v + 1e-8)
        v = torch.exp(-0.1 * v) / (k.transpose(1, 2) @ u + 1e-8)
    unrolled = u * k * v.transpose(1, 2)
    ours = ot.damped_plan(similarity, 0.1, n_iter=9)
    torch.testing.assert_close(ours, unrolled)
    expected, found = (torch.autograd.grad((p - aim).square().sum(), similarity)[0] for p in (unrolled, ours))
    torch.testing.assert_close(found, expected)


def test_a_row_without_mass_projects_to_zero():
    plan_ot = torch.tensor([[0.0, 0.0], [0.2, 0.6]])
    torch.testing.assert_close(
        ot.barycentric_projection(plan_ot, torch.tensor([[4.0], [8.0]])), torch.tensor([[0.0], [7.0]])
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ot.sinkhorn(torch.rand(3, 3), 0), "reg is 0"),
        (lambda: ot.sinkhorn(torch.rand(3), 1), "wanted"),
        (lambda: ot.sinkhorn_unbalanced(torch.rand(3, 3), 1, 0), "reg_m is 0"),
        (lambda: ot.unbalanced_plan(torch.rand(3, 3), 1, 0), "reg_m is 0"),
        (lambda: ot.unbalanced_plan(torch.rand(3, 3), 1, float("inf")), "reg_m is inf"),
        (lambda: ot.exact_plan(torch.rand(3, 4)), "equally many"),
    ],
)
def test_arguments_without_meaning_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_half_precision_is_solved_in_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan_ot = ot.damped_plan(torch.rand(8, 8).bfloat16(), 1e-3)
    assert plan_ot.dtype == torch.float32


def test_plans_equal_pots(vectors):
    file = np.load(vectors / "ot_reference.npz")
    cost = torch.from_numpy(file["cost_l2"])
    exact = ot.exact_plan(cost)
    torch.testing.assert_close(exact, torch.from_numpy(file["emd"]))
    for reg in ("0.05", "0.1", "1"):  # POT stopped with column sums off by up to 2e-6
        plan_ot = ot.sinkhorn(cost, float(reg), n_iter=5000)
        torch.testing.assert_close(plan_ot, torch.from_numpy(file[f"sinkhorn_reg{reg}"]), atol=1e-5, rtol=0)
    values = torch.from_numpy(file["F_I"])
    matched = ot.barycentric_projection(exact, values)
    torch.testing.assert_close(matched, torch.from_numpy(file["matched_barycentric"]))
    torch.testing.assert_close(exact.T @ values, torch.from_numpy(file["matched_paper_PT"]))
    ours = ot.cosine_similarity_matrix(matched, matched)
    torch.testing.assert_close(ours, torch.from_numpy(file["corr_matched"]))
    virtual = torch.from_numpy(file["F_virtual"])
    difference = (ours - ot.cosine_similarity_matrix(virtual, virtual)).abs().mean()
    assert difference.item() == pytest.approx(float(file["L_sc"]), rel=1e-9)


@pytest.mark.parametrize("reg", ["0.1", "1"])
@pytest.mark.parametrize("reg_m", ["0.001", "0.1", "10"])
def test_unbalanced_plans_equal_pots(vectors, reg, reg_m):
    file = np.load(vectors / "ot_reference.npz")
    cost = torch.from_numpy(file["cost_cos"])
    a, b = ot.uniform_marginals(cost)
    towards_product = cost - float(reg) * (a[:, None] * b).log()
    plan_ot = ot.sinkhorn_unbalanced(towards_product, float(reg), float(reg_m), n_iter=10_000)
    torch.testing.assert_close(
        plan_ot, torch.from_numpy(file[f"unbalanced_kl_reg{reg}_tau{reg_m}"]), atol=1e-9, rtol=1e-6
    )


@pytest.mark.parametrize("cost", ["easy", "hard"])
@pytest.mark.parametrize("reg", ["1", "0.1"])
def test_damped_and_balanced_plans_equal_usigans(vectors, cost, reg):
    file = np.load(vectors / "usigan_uot.npz")
    source, target = (torch.from_numpy(file[k]).view(2, 24, 16) for k in ("src", "tgt"))
    similarity = ot.cosine_similarity_matrix(source, target)
    affinity = (1 - similarity if cost == "easy" else similarity).masked_fill(torch.eye(24, dtype=torch.bool), -10)
    for tau in ("0.0001", "0.001", "0.1"):
        plan_ot = ot.damped_plan(affinity / float(reg), float(tau))
        expected = torch.from_numpy(file[f"UOT_{cost}_eps{reg}_tau{tau}"])
        torch.testing.assert_close(plan_ot.transpose(1, 2), expected, atol=1e-6, rtol=1e-5)
    ones = torch.ones(2, 24)
    plan_ot = ot.sinkhorn(-affinity, float(reg), ones, ones)
    torch.testing.assert_close(
        plan_ot.transpose(1, 2), torch.from_numpy(file[f"OT_{cost}_eps{reg}"]), atol=1e-6, rtol=1e-5
    )
