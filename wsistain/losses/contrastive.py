"""PatchNCE and the weights that ASP puts on it.

Embeddings are (b, n, d) of unit length: b images, n patches, never flattened, so no batch size can be guessed wrongly.

Sources: Park et al. 2020 (CUT, arXiv:2007.15651), eq. 3-4; Li et al. 2023 (ASP, arXiv:2303.06193), sec. 3.2, and its
code for the schedules; Zhan et al. 2022 (MoNCE, arXiv:2203.09333); Jung et al. 2022 (SRC, arXiv:2203.01532).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from wsistain import ot
from wsistain.numerics import check_choice, in_float32

Schedule = Literal["zero", "linear", "sigmoid", "lambda"]
Lookup = Literal["top", "linear", "bell", "uniform"]
Negatives = Literal["image", "batch"]


@in_float32
def patch_nce(q: Tensor, k: Tensor, tau: float = 0.07, *, negatives: Negatives = "image") -> Tensor:
    """Cross-entropy of finding each query's own key among all keys: float (b, n).

    q, k      : (b, n, d), unit length; k takes no gradient.
    negatives : keys of the same image, or of the whole batch.

    The similarity of a query with its own key among the negatives counts as -10, as in the authors' code.
    """
    check_choice("negatives", negatives, Negatives)
    k = k.detach()
    b, n, d = q.shape
    positive = (q * k).sum(-1, keepdim=True)
    if negatives == "batch":
        q, k = q.reshape(1, b * n, d), k.reshape(1, b * n, d)
    others = q @ k.transpose(1, 2)
    others = others.masked_fill(torch.eye(others.shape[1], dtype=torch.bool, device=others.device), -10.0)
    logits = torch.cat([positive, others.reshape(b, n, -1)], dim=2) / tau
    return torch.logsumexp(logits, dim=2) - logits[:, :, 0]


def _off_diagonal(similarity: Tensor, value: float) -> Tensor:
    """`similarity` (b, n, n) with `value` where a patch meets itself."""
    itself = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    return similarity.masked_fill(itself, value)


@in_float32
def monce(q: Tensor, k: Tensor, tau: float = 0.07, *, eps: float = 1.0, n_iter: int = 50) -> Tensor:
    """MoNCE: PatchNCE whose negatives are weighted by a transport plan between queries and keys: float (b, n).

    Weights are (n - 1) P with P the balanced entropic plan of rows and columns of 1 that favours similar patches ("hard",
    for unpaired translation) and pairs none with itself; a key that many queries resemble is shared among them. The
    gradient passes through the plan, as in the authors' code; k takes none.
    """
    k = k.detach()
    n = q.shape[1]
    similarity = q @ k.transpose(1, 2)
    ones = q.new_ones(q.shape[:2])
    plan_ot = ot.sinkhorn(-_off_diagonal(similarity, -10.0), eps, ones, ones, n_iter=n_iter, tol=0)
    others = similarity + tau * torch.log((n - 1) * plan_ot + 1e-8)
    logits = torch.cat([(q * k).sum(-1, keepdim=True), _off_diagonal(others, -10.0)], dim=2) / tau
    return torch.logsumexp(logits, dim=2) - logits[:, :, 0]


@in_float32
def hdce(q: Tensor, k: Tensor, tau: float = 0.07, *, gamma: float = 1.0) -> Tensor:
    """SRC's decoupled contrast with hard negatives: -ln(exp(q k / tau) / ((n - 1) E exp(q k' / tau))), float (b, n).

    The expectation is over the other keys k' of the image with weights that rise as exp(gamma k k'): patches of the source
    that resemble each other are the hard ones. The positive is not in the denominator. k takes no gradient.
    """
    k = k.detach()
    relation = _off_diagonal(gamma * (k @ k.transpose(1, 2)), -torch.inf)
    log_weight = torch.log_softmax(relation, dim=-1) + math.log(max(q.shape[1] - 1, 1))
    negatives = torch.logsumexp(q @ k.transpose(1, 2) / tau + log_weight, dim=-1)
    return negatives - (q * k).sum(-1) / tau


@in_float32
def relation_consistency(q: Tensor, k: Tensor) -> Tensor:
    """SRC: Jensen-Shannon divergence of each patch's softmax similarity to all patches, virtual and source; a scalar.

    Summed over patches, mean over images; k takes no gradient.
    """
    log_p, log_q = (torch.log_softmax(z @ z.transpose(1, 2), dim=-1) for z in (k.detach(), q))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m))
    return divergence.sum(dim=(1, 2)).mean()


def layer_mean(losses: Sequence[Tensor]) -> Tensor:
    """Mean over layers of each layer's mean."""
    return torch.stack([loss.mean() for loss in losses]).mean()


def _uniform_share(t: float, decay_share: float, schedule: Schedule) -> float:
    if schedule == "zero":
        return 1.0
    if schedule == "linear":
        return 1.0 - t
    if schedule == "sigmoid":
        return 1.0 / (1.0 + math.exp(10.0 * (t - 0.5)))
    start = 1.0 - decay_share
    return (1.0 - t) / decay_share if decay_share > 0 and t >= start else 1.0


def _trust(similarity: Tensor, lookup: Lookup) -> Tensor:
    if lookup == "top":
        return torch.where(similarity > 0, (1 - (similarity - 1).square()).clamp_min(0).sqrt(), 0.0)
    if lookup == "linear":
        return similarity.clamp_min(0)
    if lookup == "bell":
        return torch.exp(-((similarity - 0.5) * 4).square() / 2) / math.sqrt(2 * math.pi)
    return torch.ones_like(similarity)


@in_float32
@torch.no_grad()
def adaptive_weights(
    q: Tensor, k: Tensor, t: float, decay_share: float, *, schedule: Schedule = "lambda", lookup: Lookup = "linear"
) -> Tensor:
    """ASP's weight of each patch: (b, n), summing to n in every image; no gradient.

    q, k        : (b, n, d), unit length; their cosine tells how far a weak pair agrees there.
    t           : share of training that is over, (epoch - 1) / (n + d) with epochs counted from 1.
    decay_share : d / (n + d), the share of epochs with decaying learning rate.
    schedule    : how much of the weight is uniform: "zero" all of it, "linear" 1 - t, "sigmoid", or "lambda" (1 up to
                  the decay, then down to 0).
    lookup      : cosine to trust.
    """
    check_choice("schedule", schedule, Schedule)
    check_choice("lookup", lookup, Lookup)
    uniform = _uniform_share(t, decay_share, schedule)
    weight = uniform + (1 - uniform) * _trust((q * k).sum(-1), lookup)
    return weight * (weight.shape[1] / weight.sum(dim=1, keepdim=True).clamp_min(1e-12))


def patch_nce_layers(
    queries: Sequence[Tensor], keys: Sequence[Tensor], tau: float = 0.07, weights: Sequence[Tensor] | None = None
) -> Tensor:
    """PatchNCE averaged over patches and layers, each patch times its weight (b, n) where `weights` are given."""
    losses = [patch_nce(q, k, tau) for q, k in zip(queries, keys, strict=True)]
    if weights is not None:
        losses = [loss * w for loss, w in zip(losses, weights, strict=True)]
    return layer_mean(losses)
