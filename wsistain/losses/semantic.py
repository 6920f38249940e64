"""Matching of features by optimal transport and consistency of their self-similarity (OT-StainNet, eq. 1 to 3).

Features are rows (b, n, d): n positions of a map, d channels. The real IHC of the neighbouring section shows the same
tissue in other places; transport finds, for each place of the H&E, the real IHC features that belong to it. What is
then asked of the virtual IHC is not equal features but equal relations among its features.

Source: "OT-StainNet", AAAI 2025; every choice that the paper leaves open is an argument.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import check_choice, in_float32
from wsistain.ot import barycentric_projection, cosine_similarity_matrix, exact_plan, sinkhorn

Solver = Literal["exact", "entropic", "none"]
Alignment = Literal["rows", "paper"]


def feature_rows(features: Tensor, pool: int = 1) -> Tensor:
    """Rows (b, n, d) of a feature map (b, d, h, w), averaged over `pool` x `pool` cells first: n = h w / pool^2.

    Raises ValueError when `pool` does not divide h and w.
    """
    if features.shape[-2] % pool or features.shape[-1] % pool:
        raise ValueError(f"a feature map of {tuple(features.shape[-2:])} cannot be pooled by {pool}")
    if pool > 1:
        features = F.avg_pool2d(features, pool)
    return features.flatten(2).transpose(1, 2)


@in_float32
def feature_cost(he: Tensor, ihc: Tensor, *, normalize: bool = True) -> Tensor:
    """Euclidean distance of every pair of rows, float (b, n, m), below eq. 1.

    normalize : rows are brought to unit length first, so that stains of different feature scale can be compared.
    """
    if normalize:
        he, ihc = F.normalize(he, dim=-1), F.normalize(ihc, dim=-1)
    return torch.cdist(he, ihc)


@torch.no_grad()
def match_plan(he: Tensor, ihc: Tensor, solver: Solver, *, reg: float = 0.05, normalize: bool = True) -> Tensor:
    """Transport plan (b, n, n) from H&E rows to IHC rows with uniform marginals 1 / n (eq. 1), without gradient.

    solver : "exact" (assignment), "entropic" (Sinkhorn with weight `reg`), or "none": each place to itself.
    """
    check_choice("solver", solver, Solver)
    if solver == "none":
        n = he.shape[1]
        return torch.eye(n, device=he.device).expand(len(he), n, n) / n
    cost = feature_cost(he, ihc, normalize=normalize)
    return exact_plan(cost) if solver == "exact" else sinkhorn(cost, reg)


@torch.no_grad()
def aligned_features(plan_ot: Tensor, ihc: Tensor, alignment: Alignment = "rows") -> Tensor:
    """The IHC rows (b, n, d) in the order of the H&E, without gradient.

    alignment : "rows", diag(1 / P 1) P F, puts at place u the features that u is sent to; "paper", P^T F as printed,
                indexes the IHC side by the H&E's places and is kept for comparison.
    """
    check_choice("alignment", alignment, Alignment)
    if alignment == "rows":
        return barycentric_projection(plan_ot, ihc)
    return plan_ot.transpose(-1, -2) @ ihc.to(plan_ot.dtype)


@in_float32
def semantic_consistency(matched: Tensor, virtual: Tensor) -> Tensor:
    """Mean |M_ij - M~_ij| over the cosine self-similarities of matched real and virtual rows (b, n, d), eq. 2 and 3.

    A scalar, 0 to 2; the gradient flows through `virtual` only.
    """
    matched = matched.detach()
    return (cosine_similarity_matrix(matched, matched) - cosine_similarity_matrix(virtual, virtual)).abs().mean()


@in_float32
def feature_l1(matched: Tensor, virtual: Tensor) -> Tensor:
    """Mean |difference| of matched real and virtual rows: what the paper's ablation puts in the place of eq. 3."""
    return (matched.detach() - virtual).abs().mean()
