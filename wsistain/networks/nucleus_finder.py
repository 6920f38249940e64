"""Where nuclei lie on an H&E: a small network from haematoxylin to centres and nuclei, ours, trained on the phantom.

It sees one channel, the density of haematoxylin, so that what the phantom's eosin looks like cannot matter, and it was
trained over a range of densities, sizes and blurs that is wider than the phantom's. It has no normalisation layers: what
is found at a place depends on `RADIUS_PX` round it and on nothing else of the slide.

Trained by `benchmarks/train_nucleus_finder.py`. Source of the layout: `networks.nucleus_counter.SmallCounter`, which
counts by the integral of its density (Lempitsky and Zisserman, NIPS 2010); here the maxima of it are the nuclei.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsistain.markers import EOSIN, HAEMATOXYLIN
from wsistain.published.tensors import load_into, read_published

SHIPPED = Path(__file__).with_name("nucleus_finder.safetensors")

FINDER_MPP = 1.0
"""um per px of what the network sees."""

RADIUS_PX = 32
"""What is found at a pixel depends on no pixel further away than this; a multiple of 4, as window edges must be."""


def _conv(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.ELU(), nn.Conv2d(n_out, n_out, 3, padding=1), nn.ELU()
    )


class NucleusFinder(nn.Module):
    """Float (b, 1, h, w), haematoxylin at 1 um per px, to logits (b, 2, h, w): centre of a nucleus, and nucleus.

    base : width at full size. h and w are multiples of 4.
    """

    def __init__(self, *, base: int = 12) -> None:
        super().__init__()
        self.inc = _conv(1, base)
        self.down1, self.down2 = _conv(base, 2 * base), _conv(2 * base, 4 * base)
        self.up1, self.up2 = _conv(6 * base, 2 * base), _conv(3 * base, base)
        self.out = nn.Conv2d(base, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = self.down1(F.avg_pool2d(a, 2))
        c = self.down2(F.avg_pool2d(b, 2))
        b = self.up1(torch.cat([F.interpolate(c, scale_factor=2, mode="nearest"), b], dim=1))
        a = self.up2(torch.cat([F.interpolate(b, scale_factor=2, mode="nearest"), a], dim=1))
        logits: Tensor = self.out(a)
        return logits


@lru_cache(maxsize=1)
def haematoxylin_weights() -> NDArray[np.float32]:
    """float32 (3,): weights of the optical densities of red, green, blue in the amount of haematoxylin on an H&E.

    The least-squares separation into haematoxylin and eosin of Ruifrok and Johnston (2001), vectors of unit length.
    """
    dyes = np.array([HAEMATOXYLIN, EOSIN])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    weights: NDArray[np.float32] = np.linalg.pinv(dyes.T)[0].astype(np.float32)
    return weights


@lru_cache(maxsize=1)
def load_finder() -> NucleusFinder:
    """The network that is shipped here, frozen, in eval mode. Raises WeightsError where its file is damaged."""
    finder = NucleusFinder()
    load_into(finder, read_published(SHIPPED), str(SHIPPED))
    return finder.requires_grad_(False).eval()
