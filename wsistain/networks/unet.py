"""U-Net generator of Pix2Pix: stride-2 convolutions down, transposed ones up, a skip at every level.

Source: Isola et al. 2017 (arXiv:1611.07004); sizes of junyanz/pytorch-CycleGAN-and-pix2pix (`unet_256`).
"""

import torch
from torch import Tensor, nn

from wsistain.networks.facts import NetworkFacts, norm_by_layers
from wsistain.networks.layers import Norm, initialise, norm2d


class UnetGenerator(nn.Module):
    """Image to image through `n_levels` halvings (8 and ngf 64: 54.4 M parameters).

    Widths are ngf times 1, 2, 4, then 8; the levels between the innermost and the third have dropout on the way up.
    Maps float (b, 3, h, w) in [-1, 1] to the same; h and w must be multiples of 2 ** n_levels.
    """

    def __init__(
        self,
        n_levels: int = 8,
        ngf: int = 64,
        *,
        norm: Norm = "batch",
        dropout: float = 0.5,
        in_channels: int = 3,
        out_channels: int = 3,
    ):
        super().__init__()
        if n_levels < 2:
            raise ValueError(f"n_levels is {n_levels}, wanted at least 2")
        self._n_levels = n_levels
        bias = norm == "instance"
        widths = [ngf * min(2**level, 8) for level in range(n_levels)]
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        # Outermost first: what goes down at a level, and what comes up at it from the level below and the skip.
        for level, width in enumerate(widths):
            is_outer, is_inner = level == 0, level == n_levels - 1
            before = in_channels if is_outer else widths[level - 1]
            layers: list[nn.Module] = [] if is_outer else [nn.LeakyReLU(0.2)]
            layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=bias))
            if not (is_outer or is_inner):
                layers.append(norm2d(norm, width))
            self.down.append(nn.Sequential(*layers))
            out = out_channels if is_outer else before
            above: list[nn.Module] = [
                nn.ReLU(),
                nn.ConvTranspose2d(width * (1 if is_inner else 2), out, 4, stride=2, padding=1, bias=bias or is_outer),
            ]
            if is_outer:
                above.append(nn.Tanh())
            else:
                above.append(norm2d(norm, out))
                if dropout > 0 and 4 <= level < n_levels - 1:
                    above.append(nn.Dropout(dropout))
            self.up.append(nn.Sequential(*above))
        initialise(self, "normal")

    @property
    def facts(self) -> NetworkFacts:
        """Every level halves the edges. The innermost sees the whole tile, so no halo makes tiling exact."""
        return NetworkFacts(norm_by_layers(self), size_multiple=2**self._n_levels)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.up[-1](skips.pop())
        for layer in reversed(self.up[:-1]):
            x = layer(torch.cat([skips.pop(), x], dim=1))
        return x
