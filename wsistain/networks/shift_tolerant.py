"""AlexNet and VGG16 without the aliasing of strides, tapped after their ReLUs: the backbones of shift-tolerant LPIPS.

Where the plain networks step over pixels, these compute every one, blur with the binomial filter 1 2 1 and then leave
out every second (Ghildyal and Liu, ECCV 2022, after Zhang 2019), so that a picture moved by a pixel or two stays about
the same. Key names are those of the package stlpips-pytorch (`slice<k>.<n>`).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Net = Literal["alex", "vgg"]


class BlurDown(nn.Module):
    """Blurs each channel with 1 2 1 both ways over a border of two reflected pixels, and keeps every second pixel."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", (row[:, None] * row).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def _alex(d: int) -> tuple[list[nn.Module], tuple[int, ...], tuple[int, ...]]:
    a, b, c, e = (n // d for n in (64, 192, 384, 256))
    layers: list[nn.Module] = [nn.Conv2d(3, a, 11, padding=2), BlurDown(a), nn.ReLU()]
    layers += [nn.MaxPool2d(3, stride=1), BlurDown(a), nn.Conv2d(a, b, 5, padding=2), nn.ReLU()]
    layers += [nn.MaxPool2d(3, stride=1), BlurDown(b), nn.Conv2d(b, c, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(c, e, 3, padding=1), nn.ReLU(), nn.Conv2d(e, e, 3, padding=1), nn.ReLU()]
    return layers, (3, 7, 11, 13, 15), (a, b, c, e, e)


def _vgg(d: int) -> tuple[list[nn.Module], tuple[int, ...], tuple[int, ...]]:
    layers: list[nn.Module] = []
    ends, widths = [], tuple(n // d for n in (64, 128, 256, 512, 512))
    previous = 3
    for block, (width, n_convolutions) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True)):
        if block:
            layers += [nn.MaxPool2d(2, stride=1), BlurDown(previous)]
        for _ in range(n_convolutions):
            layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
            previous = width
        ends.append(len(layers))
    return layers, tuple(ends), widths


class ShiftTolerantFeatures(nn.Module):
    """Five feature maps of an image, after the same ReLUs as those of AlexNet or VGG16.

    width_divisor : channels are the published ones divided by this.
    """

    def __init__(self, net: Net, width_divisor: int = 1) -> None:
        super().__init__()
        layers, ends, self.channels = _alex(width_divisor) if net == "alex" else _vgg(width_divisor)
        start = 0
        for number, end in enumerate(ends, start=1):
            part = nn.Sequential()
            for n in range(start, end):
                part.add_module(str(n), layers[n])
            self.add_module(f"slice{number}", part)
            start = end

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x`, float (b, 3, h, w) normalised as the weights want it; h and w at least 64."""
        taps = []
        for part in self.children():
            x = part(x)
            taps.append(x)
        return taps
