"""Patch sampling and projection head of the contrastive family: feature maps to unit-length patch embeddings.

Source: Park et al. 2020 (CUT, arXiv:2007.15651), sec. 3.2. Layer widths are known when it is built, so its optimiser
is too. Tensors are called as in published checkpoints (`mlp_<k>.0`, `mlp_<k>.2`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsistain.networks.layers import initialise
from wsistain.numerics import in_float32


def uniform_positions(features: Sequence[Tensor], n_patches: int) -> list[Tensor]:
    """Positions drawn without replacement, one draw a layer, shared by all images: long (n,) into the flattened map.

    n is `n_patches`, or every position of a smaller map.
    """
    return [torch.randperm(f.shape[2] * f.shape[3], device=f.device)[:n_patches] for f in features]


@torch.no_grad()
def attended_positions(features: Sequence[Tensor], n_patches: int, *, replacement: bool = False) -> list[Tensor]:
    """Positions drawn in proportion to the length of the feature vector there: long (b, n) for each layer and image.

    Source: ASP-DGRank, sec. on attention-guided sampling: multinomial draws from A = ||f||_2 over channels.
    """
    drawn = []
    for f in features:
        length = f.detach().float().norm(dim=1).flatten(1)
        count = n_patches if replacement else min(n_patches, length.shape[1])
        drawn.append(torch.multinomial(length + torch.finfo(torch.float32).tiny, count, replacement))
    return drawn


def gather_positions(feature: Tensor, positions: Tensor) -> Tensor:
    """Feature vectors (b, n, c) of a map (b, c, h, w) at `positions` (n,), or (b, n) for each image its own."""
    flat = feature.flatten(2).transpose(1, 2)
    if positions.dim() == 1:
        shared: Tensor = flat[:, positions]
        return shared
    return torch.take_along_dim(flat, positions[:, :, None], dim=1)


@in_float32
def unit_length(z: Tensor, *, eps_inside: bool = False) -> Tensor:
    """Rows of z (..., d) at length 1: z / (||z|| + 1e-7) as CUT, or z / ||z + 1e-7|| as ASP, USIGAN and PSPStain."""
    length: Tensor = torch.linalg.vector_norm(z + 1e-7 if eps_inside else z, dim=-1, keepdim=True)
    return z / (length if eps_inside else length + 1e-7)


class PatchHead(nn.Module):
    """One two-layer perceptron for each tapped layer, then unit length.

    channels   : widths of the tapped feature maps.
    width      : length of an embedding (256: 560,384 parameters for the five taps of ResNet-6).
    eps_inside : which of the two ways of `unit_length`.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, *, eps_inside: bool = False):
        super().__init__()
        self.eps_inside = eps_inside
        for k, c in enumerate(channels):
            self.add_module(f"mlp_{k}", nn.Sequential(nn.Linear(c, width), nn.ReLU(), nn.Linear(width, width)))
        self._n = len(channels)
        initialise(self)

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings (b, n, width) of each layer at the given positions; float32 rows of length 1."""
        if not len(features) == len(positions) == self._n:
            raise ValueError(f"{len(features)} feature maps and {len(positions)} draws, wanted {self._n} of each")
        found = []
        for k, (feature, at) in enumerate(zip(features, positions, strict=True)):
            z = self.get_submodule(f"mlp_{k}")(gather_positions(feature, at))
            found.append(unit_length(z, eps_inside=self.eps_inside))
        return found
