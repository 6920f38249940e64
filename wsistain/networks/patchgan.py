"""PatchGAN discriminators: a grid of logits, one for each overlapping patch of the image.

Source: Isola et al. 2017 (arXiv:1611.07004); the anti-aliased 5-layer form of
lifangda01/AdaptiveSupervisedPatchNCE. Tensors are called as there (`enc.<i>`, `final_conv`).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from wsistain.networks.layers import BlurDown, Norm, conv2d, initialise, norm2d

TimeConditioning = Literal["none", "bias", "channel"]


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of time steps `t` (b,) at `width` / 2 frequencies from 1 to 1/10000: float (b, width).

    Source: Vaswani et al. 2017, as used by Ho et al. 2020.
    """
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / max(half - 1, 1))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PatchDiscriminator(nn.Module):
    """Image to a grid of real/fake logits (b, 1, h', w').

    n_layers      : halvings; 5 (ndf 32, 2.79 M parameters, 512 px to 14 x 14) or 3 (ndf 64, the 70 x 70 "basic" one).
    blur          : convolve at stride 1 and halve by a blur (CUT family), or convolve at stride 2 (Pix2Pix, CycleGAN).
    time          : how a noise level reaches the network. "bias": sine embedding, two linear layers, one number a
                    channel added after each norm (before it, instance norm would remove it); "channel": one more input
                    plane holding t / time_max; "none": `t` is not taken.
    in_channels   : 3, or 6 for discriminators that see the pair.

    Its norms need more than one pixel: `least_px` is the shortest side that it takes (96 px with 5 layers).
    """

    def __init__(
        self,
        n_layers: int = 3,
        ndf: int = 64,
        *,
        in_channels: int = 3,
        norm: Norm = "instance",
        spectral: bool = False,
        blur: bool = True,
        time: TimeConditioning = "none",
        time_width: int = 128,
        time_max: int = 1000,
    ):
        super().__init__()
        self.time, self.time_width, self.time_max = time, time_width, time_max
        # With blurring the layer after a convolution halves, not its stride. A batch norm has its own shift.
        stride = 1 if blur else 2
        bias = norm == "instance"
        width = ndf
        layers: list[nn.Module] = [
            conv2d(in_channels + int(time == "channel"), ndf, 4, stride=stride, padding=1, spectral=spectral),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        if blur:
            layers.append(BlurDown(ndf))
        # Each level is twice as wide, up to eight times; the last one no longer halves.
        widths = [ndf]
        for level in range(1, n_layers + 1):
            before, width = width, ndf * min(2**level, 8)
            is_last = level == n_layers
            layers += [
                conv2d(before, width, 4, stride=1 if is_last else stride, padding=1, bias=bias, spectral=spectral),
                norm2d(norm, width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            if blur and not is_last:
                layers.append(BlurDown(width))
            widths.append(width)

        # Either way a level halves, and the last convolution takes a pixel off: its norm, and the convolution of 4 px
        # after it, need two of the three that are left.
        self.least_px = 3 << n_layers
        # One number a patch, and what of the noise level goes to each level.
        self.enc = nn.Sequential(*layers)
        self.final_conv = conv2d(width, 1, 4, padding=1, spectral=spectral)
        if time == "bias":
            self.time_mlp = nn.Sequential(nn.Linear(time_width, time_width), nn.SiLU())
            self.time_bias = nn.ModuleList(nn.Linear(time_width, w) for w in widths)
        initialise(self)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits of images `x` (b, c, h, w); `t` (b,) whole noise levels, needed unless time conditioning is "none"."""
        if self.time == "none":
            return self._logits(self.enc(x))
        if t is None:
            raise ValueError(f"this discriminator is told the noise level (time={self.time!r}); t is missing")
        if self.time == "channel":
            plane = (t.to(x.dtype) / self.time_max)[:, None, None, None].expand(-1, 1, *x.shape[2:])
            return self._logits(self.enc(torch.cat([x, plane], dim=1)))
        code = self.time_mlp(time_embedding(t, self.time_width))
        biases = iter(self.time_bias)
        for layer in self.enc:
            if isinstance(layer, nn.LeakyReLU):
                x = x + next(biases)(code)[:, :, None, None].to(x.dtype)
            x = layer(x)
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.final_conv(x)
        return out
