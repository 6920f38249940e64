"""Learning from label proportions: a window's share of positive places is known, which of them are positive is not.

A section that lies tens of um off says nothing of a nucleus, but much of its neighbourhood: over a window wider than the
misfit the share of the marker's places (nuclei, membranes) that is brown is a label of the window. Shares are compared,
not amounts, since the two sections hold other nuclei: a window of few has a share all the same.

Sources: Quadrianto et al., Estimating labels from label proportions, JMLR 2009; Yu et al., On learning from label
proportions, arXiv:1402.5902 (the mean of predicted chances should be the known proportion).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import in_float32

Distance = Literal["entropy", "squared"]

LEAST_MASS = 0.02
"""Share of a window that must be place of the marker, in both sections, for its share to be a label."""


def window_means(x: Tensor, edge: int) -> Tensor:
    """Means over squares of `edge` px, at most the picture's, that overlap by half: (b, c, h, w) to (b, c, h', w')."""
    half = max(1, min(edge, *x.shape[-2:]) // 2)
    cells = F.avg_pool2d(x, half)  # cheap: windows are made of four of these
    return F.avg_pool2d(cells, 2, stride=1)


@in_float32
def share_loss(
    chance: Tensor,
    place: Tensor,
    positive: Tensor,
    place_there: Tensor,
    valid: Tensor,
    edges: Sequence[int],
    *,
    distance: Distance = "entropy",
    growth: float = 1.0,
) -> Tensor:
    """How far predicted shares of windows are from the measured ones, 0 where equal.

    chance      : float (b, 1, h, w) in [0, 1], the predicted chance that a place is positive; takes the gradient.
    place       : (b, 1, h, w) in [0, 1], where the marker may lie in the H&E.
    positive    : (b, 1, h, w) in [0, 1], where it is in the other section; place_there: where it may lie there.
    valid       : (b, 1, h, w), 1 where the other section is known.
    edges       : edges of the windows, px; a window is read at half-overlapping steps.
    distance    : "entropy" (the likelihood of a proportion: Kullback-Leibler divergence of Bernoulli shares) or
                  "squared", divided by the variance of a share so that noise is even.
    growth      : a scale counts as its edge to this power: wide windows are less noisy and less moved by misfit.

    A window counts by the places that it holds in both sections. Mean over windows and scales; 0 without any.
    """
    total = weights = chance.new_zeros(())
    for edge in edges:
        # Means over windows: of the prediction, and of the picture beside it where that is known.
        here, product, there, brown, known = (
            window_means(x, edge) for x in (place, chance * place, place_there * valid, positive * valid, valid)
        )
        there = there / known.clamp_min(1e-3)
        brown = brown / known.clamp_min(1e-3)
        said = (product / here.clamp_min(1e-4)).clamp(1e-3, 1 - 1e-3)
        label = (brown / there.clamp_min(1e-4)).clamp(0, 1).detach()
        # A window counts by how much of the compartment both have there.
        mass = torch.minimum(here, there).detach()
        mass = torch.where((mass > LEAST_MASS) & (known > 0.5), mass * known, 0.0)
        if distance == "entropy":
            gap = _bernoulli_divergence(label, said)
        else:
            gap = (said - label).square() / (label.mean() * (1 - label.mean()) + 0.05) / 2
        scale = float(edge) ** growth / float(max(edges)) ** growth
        total = total + scale * (gap * mass).sum() / mass.sum().clamp_min(1e-3)
        weights = weights + scale
    return total / weights


def _bernoulli_divergence(label: Tensor, said: Tensor) -> Tensor:
    """label ln(label / said) + (1 - label) ln((1 - label) / (1 - said)), >= 0."""
    inside = label.clamp(1e-3, 1 - 1e-3)
    return inside * (inside / said).log() + (1 - inside) * ((1 - inside) / (1 - said)).log()


@in_float32
def best_shift(fixed: Tensor, moving: Tensor, reach: int) -> Tensor:
    """The whole-pixel shift (b, 2) as (y, x), within `reach`, that lays `moving` best over `fixed` (b, 1, h, w).

    Greatest correlation of the two maps over their overlap, which must be at least a quarter of the picture (Padfield
    2012, masked normalised correlation, by FFT). `moving` rolled by the shift fits `fixed`.
    """
    # Padded by the reach, so that no shift within it wraps round.
    h, w = fixed.shape[-2:]
    size = (h + reach, w + reach)
    ones = torch.fft.rfft2(torch.ones_like(fixed), s=size)

    def slide(a: Tensor, m: Tensor) -> Tensor:
        """Sum over the overlap of a(y) m(y - shift), for every shift: a circular correlation of padded maps."""
        out: Tensor = torch.fft.irfft2(a * m.conj(), s=size)
        return out

    # Pearson's correlation over the overlap, for all shifts at once.
    f, m = torch.fft.rfft2(fixed, s=size), torch.fft.rfft2(moving, s=size)
    n = slide(ones, ones).round().clamp_min(1)
    sum_f, sum_m = slide(f, ones), slide(ones, m)
    square_f, square_m = (torch.fft.rfft2(x.square(), s=size) for x in (fixed, moving))
    var_f = slide(square_f, ones) - sum_f.square() / n
    var_m = slide(ones, square_m) - sum_m.square() / n
    score = (slide(f, m) - sum_f * sum_m / n) / (var_f.clamp_min(0) * var_m.clamp_min(0)).sqrt().clamp_min(1e-6)
    # Where little overlaps anything correlates.
    score = torch.where(n >= h * w / 4, score, -2.0)
    steps = torch.arange(-reach, reach + 1, device=fixed.device)
    near = score[:, 0][:, steps[:, None] % size[0], steps[None] % size[1]]
    at = near.flatten(1).argmax(dim=1)
    return torch.stack([at // len(steps), at % len(steps)], dim=1) - reach


def shifted(x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """`x` (b, c, h, w) moved by `shift` (b, 2) px, and where it is known (b, 1, h, w)."""
    h, w = x.shape[-2:]
    moved, known = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for k, (dy, dx) in enumerate(shift.tolist()):
        to = (slice(max(dy, 0), h + min(dy, 0)), slice(max(dx, 0), w + min(dx, 0)))
        of = (slice(max(-dy, 0), h + min(-dy, 0)), slice(max(-dx, 0), w + min(-dx, 0)))
        moved[k, :, to[0], to[1]] = x[k, :, of[0], of[1]]
        known[k, :, to[0], to[1]] = 1
    return moved, known
