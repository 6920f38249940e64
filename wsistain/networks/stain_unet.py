"""PC-StainGAN's U-Net, ATST-Net's IHC-to-H&E generator: an encoder, a side block at a quarter size, a gated decoder.

Numbers and key names: Liu et al., IEEE TMI 2021, as in SikangSHU/ATST-Net `mymodels.py`. The published file also
holds a sigmoid head on the side block and a second decoder that this generator never calls; both are left out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.networks.facts import NetworkFacts
from wsistain.networks.layers import ResidualBlock, initialise

UNUSED_PREFIXES = ("out_pathology_path.", "res_blocks_a.", "upa1.", "upa2.", "upa3.", "out_style_path_a.")


def _normed(conv: nn.Module, width: int) -> list[nn.Module]:
    return [conv, nn.InstanceNorm2d(width), nn.ReLU()]


class Down(nn.Module):
    """Half the size: strided convolution 3x3, instance norm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.down_conv = nn.Sequential(*_normed(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), n_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_conv(x)
        return out


class Up(nn.Module):
    """Twice the size, joined with a skip that a 1x1 convolution has halved in width."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.up_conv = nn.Sequential(
            *_normed(nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1), n_out)
        )
        self.gate = nn.Sequential(*_normed(nn.Conv2d(n_out, n_out // 2, 1), n_out // 2))
        self.merge = nn.Sequential(*_normed(nn.Conv2d(n_out + n_out // 2, n_out, 1), n_out))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.merge(torch.cat([self.up_conv(x), self.gate(skip)], dim=1))
        return out


class SideBlock(nn.Module):
    """Features of three scales gathered at a quarter of the image's size, brought to an eighth."""

    def __init__(self, n_in: int, n_out: int, n_residual: int) -> None:
        super().__init__()
        self.extractor = nn.Sequential(
            *_normed(nn.Conv2d(n_in, n_out, 1), n_out),
            nn.ReflectionPad2d(1),
            *_normed(nn.Conv2d(n_out, n_out, 4, stride=2), n_out),
            *(ResidualBlock(n_out, "instance") for _ in range(n_residual)),
        )

    def forward(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Tensor:
        half = F.interpolate(half, scale_factor=0.5)
        eighth = F.interpolate(eighth, scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.extractor(torch.cat([half, quarter, eighth], dim=1))
        return out


class StainUNet(nn.Module):
    """Generator: float (b, 3, h, w) in [-1, 1] to the same; h and w multiples of 8.

    base       : width after the first convolution (32 published); deeper levels have 2, 4 and 8 times as many.
    n_residual : residual blocks in each of the three chains (5 published).
    """

    def __init__(self, *, base: int = 32, n_residual: int = 5) -> None:
        super().__init__()
        w = [base, 2 * base, 4 * base, 8 * base]
        self.inc = nn.Sequential(nn.ReflectionPad2d(3), *_normed(nn.Conv2d(3, w[0], 7), w[0]))
        self.down1, self.down2, self.down3 = Down(w[0], w[1]), Down(w[1], w[2]), Down(w[2], w[3])
        self.res_blocks_1 = nn.Sequential(*(ResidualBlock(w[3], "instance") for _ in range(n_residual)))
        self.pathology_feature = SideBlock(w[1] + w[2] + w[3], w[3], n_residual)
        self.merge = nn.Sequential(*_normed(nn.Conv2d(2 * w[3], w[3], 1), w[3]))
        self.res_blocks_2 = nn.Sequential(*(ResidualBlock(w[3], "instance") for _ in range(n_residual)))
        self.up1, self.up2, self.up3 = Up(w[3], w[2]), Up(w[2], w[1]), Up(w[1], w[0])
        self.out_style_path = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(w[0], 3, 7), nn.Tanh())
        initialise(self, "normal")  # CycleGAN's start

    @property
    def facts(self) -> NetworkFacts:
        """Three halvings; instance norm."""
        return NetworkFacts("instance", size_multiple=8)

    def forward(self, x: Tensor) -> Tensor:
        full = self.inc(x)
        half = self.down1(full)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        side = self.pathology_feature(half, quarter, eighth)
        y = self.res_blocks_2(self.merge(torch.cat([self.res_blocks_1(eighth), side], dim=1)))
        out: Tensor = self.out_style_path(self.up3(self.up2(self.up1(y, quarter), half), full))
        return out
