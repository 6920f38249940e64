"""L1 differences on Gaussian pyramids: the weighted pyramid of ASP and the octaves of PyramidP2P.

Sources: Burt and Adelson 1983; Li et al. 2023 (ASP, arXiv:2303.06193) and its code; Liu et al. 2022 (BCI,
arXiv:2204.11425) and its code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import in_float32

ASP_LEVEL_WEIGHTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Fine to coarse."""


def _filter(x: Tensor, taps: Sequence[float]) -> Tensor:
    """`x` (b, c, h, w) convolved with `taps` down and across, each channel alone, edges reflected."""
    c, r = x.shape[1], len(taps) // 2
    row = torch.tensor(taps, dtype=x.dtype, device=x.device)
    x = F.pad(x, (r, r, r, r), mode="reflect")
    x = F.conv2d(x, row.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)
    return F.conv2d(x, row.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)


def gaussian_pyramid(x: Tensor, n_levels: int = 6) -> list[Tensor]:
    """Levels of the pyramid of `x` (b, c, h, w), fine to coarse, as ASP builds it.

    Filter: 5 x 5 binomial / 256. Levels 0 to n - 2 are the filtered images before each halving; the last is the last
    halved image. The image must be at least 2 ** n_levels px wide, so that reflection has pixels to reflect.
    """
    levels = []
    for _ in range(n_levels - 1):
        x = _filter(x, (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16))
        levels.append(x)
        x = x[:, :, ::2, ::2]
    return [*levels, x]


@in_float32
def gaussian_pyramid_l1(fake: Tensor, real: Tensor, level_weights: Sequence[float] = ASP_LEVEL_WEIGHTS) -> Tensor:
    """MEAN over levels of weight times mean |difference|; images (b, 3, h, w) in [-1, 1]."""
    difference = gaussian_pyramid(fake - real, len(level_weights))  # the filter is linear: one pyramid serves both
    return torch.stack([w * d.abs().mean() for w, d in zip(level_weights, difference, strict=True)]).mean()


def octaves(x: Tensor, n_octaves: int = 4) -> list[Tensor]:
    """`x` (b, c, h, w) and `n_octaves` - 1 halvings of it: four 3 x 3 Gaussian blurs (sigma 1), every 2nd pixel."""
    side = torch.exp(torch.tensor(-0.5)).item()
    taps = (side / (1 + 2 * side), 1 / (1 + 2 * side), side / (1 + 2 * side))
    found = [x]
    for _ in range(n_octaves - 1):
        for _ in range(4):
            x = _filter(x, taps)
        x = x[:, :, ::2, ::2]
        found.append(x)
    return found


@in_float32
def octave_l1(fake: Tensor, real: Tensor, n_octaves: int = 4) -> Tensor:
    """SUM over octaves of mean |difference| (PyramidP2P: L1 + L2 + L3 + L4); images (b, 3, h, w) in [-1, 1]."""
    return torch.stack([d.abs().mean() for d in octaves(fake - real, n_octaves)]).sum()
