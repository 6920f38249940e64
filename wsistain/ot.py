"""Optimal transport between small batches of points, on any device: entropic, unbalanced, damped and exact.

Letters are POT's: `a`, `b` marginals, `cost` (..., n, m), `reg` the entropic weight, `reg_m` the weight of the
marginals, `plan_ot` (..., n, m). All solvers are batched over leading axes, run outside autocast in float32 (float64
stays), and are differentiable by unrolling, except `exact_plan`.

Sources: Cuturi 2013; Chizat et al. 2018 (KL-unbalanced); USIGAN eq. 8-9 and its code (damped update); Peyre and
Cuturi 2019, ch. 4 and 10.
"""

from typing import Any

import torch
from torch import Tensor

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
    n_iter : most rounds; stops when no row sum is off by more than `tol` times the largest mass. With tol=0 all rounds
             run and a GPU is never waited for.

    Returns float (..., n, m) whose column sums are exact up to rounding.
    """
    _check(cost, reg)
    a, b = _marginals(cost, a, b)
    log_k, log_a, log_b = -cost / reg, a.log(), b.log()
    g = torch.zeros_like(log_b)
    f = torch.zeros_like(log_a)
    for _ in range(n_iter):
        f = log_a - torch.logsumexp(log_k + g[..., None, :], dim=-1)
        g = log_b - torch.logsumexp(log_k + f[..., :, None], dim=-2)
        if tol > 0:
            with torch.no_grad():
                rows = torch.exp(f + torch.logsumexp(log_k + g[..., None, :], dim=-1))
                if (rows - a).abs().max() <= tol * a.max():
                    break
    return torch.exp(f[..., :, None] + log_k + g[..., None, :])


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
