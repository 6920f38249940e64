"""Optimal transport between small batches of points, on any device: entropic, unbalanced, damped and exact.

Letters are POT's: `a`, `b` marginals, `cost` (..., n, m), `reg` the entropic weight, `reg_m` the weight of the
marginals, `plan_ot` (..., n, m). All solvers are batched over leading axes and run outside autocast in float32 (float64
stays). Gradients are those of the unrolled rounds, of the optimum itself in `unbalanced_plan`, none in `exact_plan`.

`sinkhorn` is POT's batched solver. The others stay because POT's do less on the same work (benchmarks/transport.py, one
core): USIGAN's 30 unbalanced plans of 256 patches with gradient take 0.17 s here and 0.50 s in `ot.solve`, which has no
batch and no log domain for them; an exact plan of 1,024 places takes 0.09 s as an assignment and 0.17 s in `ot.emd`. POT
has no damped update.

Sources: Cuturi 2013; Chizat et al. 2018 (KL-unbalanced); USIGAN eq. 8-9 and its code (damped update); Peyre and
Cuturi 2019, ch. 4 and 10.
"""

from typing import Any

import torch
from torch import Tensor

from wsistain.errors import ConfigError
from wsistain.numerics import in_float32


def uniform_marginals(cost: Tensor, mass: float = 1.0) -> tuple[Tensor, Tensor]:
    """Marginals (..., n) and (..., m) with `mass` spread evenly, on the device and in the precision of `cost`."""
    n, m = cost.shape[-2:]
    return cost.new_full((*cost.shape[:-1],), mass / n), cost.new_full((*cost.shape[:-2], m), mass / m)


def _marginals(cost: Tensor, a: Tensor | None, b: Tensor | None) -> tuple[Tensor, Tensor]:
    even = uniform_marginals(cost)
    return (even[0] if a is None else a.to(cost)), (even[1] if b is None else b.to(cost))


def _check(cost: Tensor, reg: float) -> None:
    if cost.dim() < 2:
        raise ValueError(f"cost has shape {tuple(cost.shape)}, wanted (..., n, m)")
    if not reg > 0:
        raise ValueError(f"reg is {reg}, wanted more than 0 (exact_plan needs none)")


@in_float32
def sinkhorn(
    cost: Tensor, reg: float, a: Tensor | None = None, b: Tensor | None = None, *, n_iter: int = 1000, tol: float = 1e-9
) -> Tensor:
    """Entropic plan: argmin <P, cost> + reg * sum P (ln P - 1) with P 1 = a and P^T 1 = b, in the log domain.

    cost   : float (..., n, m); an infinite entry forbids that pair.
    a, b   : marginals (..., n) and (..., m) of equal mass; None: uniform, mass 1.
    n_iter : most rounds; every tenth looks whether the row sums together are off by less than `tol` times the largest
             mass, and stops. With tol=0 all rounds run.

    Returns float (..., n, m) whose column sums are exact up to rounding.
    """
    _check(cost, reg)
    try:
        from ot import solve_batch  # POT
    except ModuleNotFoundError:
        raise ConfigError("balanced transport is POT's: pip install 'wsistain[train]'") from None
    a, b = _marginals(cost, a, b)
    n, m = cost.shape[-2:]
    rows, columns = (x.expand(*cost.shape[:-2], -1).reshape(-1, x.shape[-1]) for x in (a, b))
    stop = tol * float(rows.detach().amax()) if tol > 0 else -1.0
    solved = solve_batch(cost.reshape(-1, n, m), reg, rows, columns, max_iter=n_iter, tol=stop, grad="autodiff")
    plan_ot: Tensor = solved.plan.reshape(cost.shape)
    return plan_ot


@in_float32
def sinkhorn_unbalanced(
    cost: Tensor,
    reg: float,
    reg_m: float,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    n_iter: int = 1000,
    tol: float = 1e-9,
) -> Tensor:
    """Entropic plan whose marginals are only pulled towards `a` and `b`: both KL divergences weigh `reg_m`.

    argmin <P, cost> + reg * sum P (ln P - 1) + reg_m * (KL(P 1 | a) + KL(P^T 1 | b)), in the log domain. Each scaling
    is raised to reg_m / (reg_m + reg): large `reg_m` tends to `sinkhorn`. To regularise towards the product a b^T, as
    POT's `reg_type="kl"` does, pass cost - reg * ln(a b^T). Stops when no log scaling moves by more than `tol`.
    """
    _check(cost, reg)
    if not reg_m > 0:
        raise ValueError(f"reg_m is {reg_m}, wanted more than 0 (infinite for balanced transport: sinkhorn)")
    a, b = _marginals(cost, a, b)
    log_k, log_a, log_b = -cost / reg, a.log(), b.log()
    power = reg_m / (reg_m + reg)
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(n_iter):
        before = f.detach()
        f = power * (log_a - torch.logsumexp(log_k + g[..., None, :], dim=-1))
        g = power * (log_b - torch.logsumexp(log_k + f[..., :, None], dim=-2))
        if tol > 0 and (f.detach() - before).abs().max() <= tol:
            break
    return torch.exp(f[..., :, None] + log_k + g[..., None, :])


_KERNEL_SPREAD = 80.0  # exp(-80) is still a normal float32


def _scalings_by_kernel(
    log_k: Tensor, log_a: Tensor, log_b: Tensor, power: float, n_iter: int
) -> tuple[Tensor, Tensor]:
    """Log scalings of `unbalanced_plan` with matrix products; entries of `log_k` must lie within 80 of each other."""
    top = log_k.amax(dim=(-2, -1))[..., None]
    k = (log_k - top[..., None]).exp()
    k_t = k.transpose(-1, -2)

    def absorbed(log_mass: Tensor, kernel: Tensor) -> Tensor:
        most = log_mass.amax(dim=-1, keepdim=True)  # where the masses differ, f and -g are large
        return ((log_mass - most).exp()[..., None, :] @ kernel)[..., 0, :].log() + (top + most)

    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(n_iter):
        f = -power * absorbed(g + log_b, k_t)
        g = -power * absorbed(f + log_a, k)
        f, g = _centred(f, g, log_a, log_b, power)
    return f, g


def _scalings_by_logs(log_k: Tensor, log_a: Tensor, log_b: Tensor, power: float, n_iter: int) -> tuple[Tensor, Tensor]:
    """The same in the log domain, several times slower, for any `log_k`."""
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(n_iter):
        f = -power * torch.logsumexp(log_k + (g + log_b)[..., None, :], dim=-1)
        g = -power * torch.logsumexp(log_k + (f + log_a)[..., :, None], dim=-2)
        f, g = _centred(f, g, log_a, log_b, power)
    return f, g


def _centred(f: Tensor, g: Tensor, log_a: Tensor, log_b: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """f + s, g - s with the s that is best for both marginals: without it, large `reg_m` needs thousands of rounds.

    The plan depends on f + g alone. Source: Sejourne, Vialard and Peyre 2022 (translation-invariant Sinkhorn).
    """
    ratio = (1 - power) / power  # reg / reg_m
    slack_a = torch.logsumexp(log_a - ratio * f, dim=-1, keepdim=True)
    slack_b = torch.logsumexp(log_b - ratio * g, dim=-1, keepdim=True)
    shift = (slack_a - slack_b) / (2 * ratio)
    return f + shift, g - shift


class _Unbalanced(torch.autograd.Function):
    """The plan at the fixed point of the scalings, and the gradient of that point (implicit function theorem).

    Nothing is kept for the gradient but the plan, and it costs one linear system of n unknowns a matrix.
    """

    @staticmethod
    def forward(log_k: Tensor, log_a: Tensor, log_b: Tensor, power: float, n_iter: int) -> Tensor:
        spread = float(log_k.amax() - log_k.amin())
        solve = _scalings_by_kernel if spread <= _KERNEL_SPREAD else _scalings_by_logs
        f, g = solve(log_k, log_a, log_b, power, n_iter)
        return torch.exp((f + log_a)[..., :, None] + log_k + (g + log_b)[..., None, :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.power = inputs[3]
        ctx.save_for_backward(output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (plan_ot,) = ctx.saved_tensors
        tiny, power = torch.finfo(plan_ot.dtype).tiny, ctx.power
        by_row = plan_ot / plan_ot.sum(dim=-1, keepdim=True).clamp_min(tiny)  # how f answers to g, over -power
        by_column = plan_ot / plan_ot.sum(dim=-2, keepdim=True).clamp_min(tiny)  # how g answers to f, over -power
        through_plan = grad * plan_ot
        to_f, to_g = through_plan.sum(dim=-1), through_plan.sum(dim=-2)
        # adjoint: to_f + to_g = what the plan asks of the scalings; each also answers to the other's
        lhs = -(power**2) * (by_column.double() @ by_row.double().transpose(-1, -2))
        lhs.diagonal(dim1=-2, dim2=-1).add_(1.0)
        rhs = to_f.double() - power * (by_column.double() @ to_g.double()[..., :, None])[..., 0]
        at_f = torch.linalg.solve(lhs, rhs).to(plan_ot.dtype)
        at_g = to_g - power * (at_f[..., None, :] @ by_row)[..., 0, :]
        grad_log_k = through_plan - power * (at_f[..., :, None] * by_row + by_column * at_g[..., None, :])
        return grad_log_k, None, None, None, None


@in_float32
def unbalanced_plan(
    cost: Tensor, reg: float, reg_m: float, a: Tensor | None = None, b: Tensor | None = None, *, n_iter: int = 50
) -> Tensor:
    """The unbalanced plan with entropy relative to the product of its marginals (USIGAN eq. 3-10, POT's "kl").

    argmin <P, cost> + reg * KL(P | a b^T) + reg_m * (KL(P 1 | a) + KL(P^T 1 | b)), reached by
    f = -reg_m / (reg_m + reg) ln sum_j b_j exp(g_j - cost_ij / reg), g alike, P = a b^T exp(f + g - cost / reg).
    Eq. 8-9 print the factor as tau in the place of reg_m / (reg_m + reg), which it nears as tau falls.

    cost   : float (..., n, m); an infinite entry forbids that pair.
    reg_m  : weight of the marginals; large tends to `sinkhorn`, small to a b^T exp(-cost / reg).
    a, b   : marginals (..., n) and (..., m), of whatever mass; None: uniform, mass 1. They take no gradient.
    n_iter : rounds, all of them run. 50 reach 1e-12 (relative) where cost / reg spreads over 2, whatever `reg_m`.

    Returns float (..., n, m). The gradient is that of the optimum, not of the rounds.
    """
    _check(cost, reg)
    if not 0 < reg_m < float("inf"):
        raise ValueError(f"reg_m is {reg_m}, wanted more than 0 and finite (for balanced transport: sinkhorn)")
    a, b = _marginals(cost, a, b)
    plan_ot: Tensor = _Unbalanced.apply(  # type: ignore[no-untyped-call]
        -cost / reg,
        a.log().expand(cost.shape[:-1]),
        b.log().expand(*cost.shape[:-2], -1),
        reg_m / (reg_m + reg),
        n_iter,
    )
    return plan_ot


class _Damped(torch.autograd.Function):
    """The damped iteration with its gradient: rounds are undone one by one and their outer products summed in two GEMMs.

    The same numbers as autograd's unrolling, without a matrix of gradients for every round. Scalings are kept as rows
    (..., 1, n): a row times a matrix is several times faster on a CPU than a matrix times a column.
    """

    @staticmethod
    def forward(k: Tensor, tau: float, n_iter: int, floor: float) -> tuple[Tensor, ...]:
        k_t = k.transpose(-1, -2)
        us = [k.new_ones((*k.shape[:-2], 1, k.shape[-2]))]
        vs = [k.new_ones((*k.shape[:-2], 1, k.shape[-1]))]
        k_vs, k_us = [], []
        for _ in range(n_iter):
            k_vs.append((vs[-1] @ k_t).add_(floor))
            us.append(torch.exp(us[-1] * -tau).div_(k_vs[-1]))
            k_us.append((us[-1] @ k).add_(floor))
            vs.append(torch.exp(vs[-1] * -tau).div_(k_us[-1]))
        plan_ot = us[-1].transpose(-1, -2) * k * vs[-1]
        return plan_ot, *(torch.cat(found, dim=-2) for found in (us, vs, k_vs, k_us))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.tau = inputs[1]
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        # From the plan to the last scalings, then back through the iterations: v before u, since it was made from it.
        k, us, vs, k_vs, k_us = ctx.saved_tensors
        k_t = k.transpose(-1, -2)
        u, v, weighed = us[..., -1:, :], vs[..., -1:, :], grad * k
        grad_u, grad_v = v @ weighed.transpose(-1, -2), u @ weighed
        u_steps, v_steps = us[..., 1:, :], vs[..., 1:, :]
        u_by_sum, v_by_sum = -u_steps / k_vs, -v_steps / k_us
        u_by_damping, v_by_damping = -ctx.tau * u_steps, -ctx.tau * v_steps
        grad_k_vs, grad_k_us = [], []
        for t in range(k_vs.shape[-2] - 1, -1, -1):
            at = slice(t, t + 1)
            grad_k_us.append(grad_v * v_by_sum[..., at, :])
            grad_u = grad_u + grad_k_us[-1] @ k_t
            grad_k_vs.append(grad_u * u_by_sum[..., at, :])
            grad_v = torch.addcmul(grad_k_vs[-1] @ k, grad_v, v_by_damping[..., at, :])
            grad_u = grad_u * u_by_damping[..., at, :]

        # What each step owes to the kernel.
        by_row = torch.cat(grad_k_vs[::-1], dim=-2).transpose(-1, -2)
        by_column = torch.cat(grad_k_us[::-1], dim=-2)
        grad_k = grad * u.transpose(-1, -2) * v + by_row @ vs[..., :-1, :] + u_steps.transpose(-1, -2) @ by_column
        return grad_k, None, None, None


@in_float32
def damped_plan(log_kernel: Tensor, tau: float, *, n_iter: int = 50, floor: float = 1e-8) -> Tensor:
    """USIGAN's unbalanced plan: u <- exp(-tau u) / (K v + floor), v <- exp(-tau v) / (K^T u + floor), `n_iter` times.

    log_kernel : float (..., n, m), ln K: a similarity divided by the entropic weight; -inf or very low forbids a pair.
    tau        : damping; 0 tends to balanced transport with row sums of 1 (this is not POT's `reg_m`).

    Returns float (..., n, m), diag(u) K diag(v), rows and columns summing to about 1, not 1 / n. Works on K itself, as
    the authors do: entries of `log_kernel` beyond 80 overflow float32.
    """
    outputs: tuple[Tensor, ...] = _Damped.apply(log_kernel.exp(), tau, n_iter, floor)  # type: ignore[no-untyped-call]
    return outputs[0]


def exact_plan(cost: Tensor) -> Tensor:
    """The exact plan between equally many points of equal mass: a permutation divided by n (Birkhoff).

    cost : float (..., n, n), any device; solved on the CPU, one matrix after another, without gradient.

    Returns a plan like `cost`, rows and columns summing to 1 / n.
    """
    from scipy.optimize import linear_sum_assignment

    n, m = cost.shape[-2:]
    if n != m:
        raise ValueError(f"cost is {n} x {m}; the exact plan needs equally many points, use sinkhorn")
    plan_ot = torch.zeros(cost.shape, dtype=cost.dtype)
    flat = plan_ot.view(-1, n, n)
    for index, matrix in enumerate(cost.detach().double().cpu().reshape(-1, n, n).numpy()):
        rows, columns = linear_sum_assignment(matrix)
        flat[index, torch.from_numpy(rows), torch.from_numpy(columns)] = 1 / n
    return plan_ot.to(cost.device)


@in_float32
def barycentric_projection(plan_ot: Tensor, values: Tensor) -> Tensor:
    """Where the plan sends each row: diag(1 / P 1) P V, float (..., n, d) from values (..., m, d).

    A row without mass gives 0.
    """
    mass = plan_ot.sum(dim=-1, keepdim=True)
    return plan_ot @ values / mass.clamp_min(torch.finfo(mass.dtype).tiny)


@in_float32
def cosine_similarity_matrix(p: Tensor, q: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Cosines between the rows of p (..., n, d) and q (..., m, d): float (..., n, m); a zero row has cosine 0."""
    p = p / p.norm(dim=-1, keepdim=True).clamp_min(eps)
    q = q / q.norm(dim=-1, keepdim=True).clamp_min(eps)
    return p @ q.transpose(-1, -2)
