"""Spatially-correlative loss: what a patch resembles around it must be the same before and after staining.

Source: Zheng, Cham and Cai, "The Spatially-Correlative Loss for Various Image Translation Tasks", CVPR 2021
(arXiv:2104.00854), eq. 1-3 with fixed features (FSeSim), and the code for the window and its stronger half.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import in_float32


def window_keys(feature: Tensor, positions: Tensor, window: int) -> Tensor:
    """The feature vectors around each position: float (b, n, w * w, c) of a map (b, c, h, w'); the whole map where it is
    no larger than the window.

    positions : long (n,), into the flattened map. Windows at the edge are moved inside.
    """
    b, c, height, width = feature.shape
    flat = feature.flatten(2).transpose(1, 2)
    if window >= height or window >= width:
        return flat[:, None].expand(b, len(positions), height * width, c)
    y, x = positions // width, positions % width
    top = (y - window // 2).clamp(0, height - window)
    left = (x - window // 2).clamp(0, width - window)
    step = torch.arange(window, device=feature.device)
    rows, columns = top[:, None] + step, left[:, None] + step
    at = rows[:, :, None] * width + columns[:, None, :]
    return flat[:, at.flatten()].view(b, len(positions), window * window, c)


def self_similarity(feature: Tensor, positions: Tensor, window: int) -> Tensor:
    """Cosines of the vectors at `positions` with those around them, float (b, n, m) (eq. 1; centred, unit length)."""
    centred = feature - feature.mean(dim=(2, 3), keepdim=True)
    unit = F.normalize(centred, dim=1)
    query = unit.flatten(2).transpose(1, 2)[:, positions]
    return torch.einsum("bnc,bnmc->bnm", query, window_keys(unit, positions, window))


@in_float32
def spatially_correlative(
    source: Sequence[Tensor], fake: Sequence[Tensor], *, n_patches: int = 256, window: int = 32
) -> Tensor:
    """Mean over layers and positions of 1 - cosine between the self-similarities of source and fake (eq. 2-3), a scalar.

    source, fake : feature maps (b, c, h, w) of a fixed network; source takes no gradient.
    n_patches    : positions a layer, drawn without replacement; window: edge of what they are compared with.

    As in the code, only the half of a window that resembles the source's patch more counts.
    """
    losses = []
    for of_source, of_fake in zip(source, fake, strict=True):
        places = of_source.shape[2] * of_source.shape[3]
        at = torch.randperm(places, device=of_source.device)[:n_patches]
        wanted = self_similarity(of_source.detach(), at, window)
        found = self_similarity(of_fake, at, window)
        half = wanted.shape[-1] // 2
        least = wanted.topk(half + 1, dim=-1).values[..., -1:]
        kept = (wanted >= least).to(wanted.dtype)
        losses.append((1 - F.cosine_similarity(wanted * kept, found * kept, dim=-1)).mean())
    return torch.stack(losses).mean()
