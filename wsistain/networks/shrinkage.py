"""What sets a place off from its neighbours is shrunk: shares of windows never said how their places differ.

A label of a window holds for all of its places, and the places of the section beside it are others. How a nucleus
differs from those round it is then learned from how whole neighbourhoods differ, as if one nucleus were as telling as the
mean of many. It is not: its size is that of one cut through it, its chromatin a few pixels. So the logit of a place is
drawn towards the mean of its neighbourhood, as noisy estimates of many like things are drawn towards their common mean
(empirical Bayes: Efron and Morris, JASA 1975; small areas: Fay and Herriot, JASA 1979). How far is measured in
docs/systems/lpstain.md.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.networks.context import SIZE_MULTIPLE
from wsistain.numerics import in_float32

_MOST_LOGIT = 5.0
"""Neighbours count with logits up to this: what is surer is no better evidence."""

_LEAST_CHANCE, _LEAST_WEIGHT = 0.1, 1e-3
"""Neighbours count by how likely they are positive too, so that stroma beside a tumour does not thin it out."""


def neighbour_edge(sigma_um: float, mpp: float) -> int:
    """Odd edge, in cells of 4 px, of two box means that together have this standard deviation: two boxes of n cells have
    (n^2 - 1) / 6."""
    return round(math.sqrt(6 * (sigma_um / (SIZE_MULTIPLE * mpp)) ** 2 + 1)) | 1


def reach_cells(edge: int) -> int:
    """How far `drawn_together` looks, cells of 4 px: its boxes, and one for the way back to px."""
    return 2 * (edge // 2) + 1


@in_float32
def drawn_together(logit: Tensor, place: Tensor, edge: int, own: float) -> Tensor:
    """Logits of which only `own` is left of what sets a place off from the mean of its neighbourhood.

    logit : float (b, 1, h, w), h and w multiples of 4.
    place : the same, 0..1, where the marker may lie: what counts as a neighbour. It takes no gradient.
    edge  : odd edge of the boxes, cells of 4 px; cut off at the picture's edge.
    own   : 0..1.
    """
    with torch.no_grad():
        weight = place * (logit.sigmoid() + _LEAST_CHANCE) + _LEAST_WEIGHT
    total = F.avg_pool2d(torch.cat([logit.clamp(-_MOST_LOGIT, _MOST_LOGIT) * weight, weight], dim=1), SIZE_MULTIPLE)
    for _ in range(2):  # beyond the edge both hold zeros, so that their quotient knows of no edge
        total = F.avg_pool2d(F.avg_pool2d(total, (edge, 1), 1, (edge // 2, 0)), (1, edge), 1, (0, edge // 2))
    mean = total[:, :1] / total[:, 1:]
    mean = F.interpolate(mean, scale_factor=SIZE_MULTIPLE, mode="bilinear", align_corners=False)
    return mean + own * (logit - mean)
