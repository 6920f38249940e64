"""ResNet generators of the CUT and CycleGAN families, with named feature taps.

Source: Johnson et al. 2016 (arXiv:1603.08155) as laid out in taesungp/contrastive-unpaired-translation (with blur)
and junyanz/pytorch-CycleGAN-and-pix2pix (without). Layer numbers are those of the published checkpoints, so tensors
are called `model.<i>...` here too.
"""

import functools
from collections.abc import Sequence

from torch import Tensor, nn

from wsistain.networks.facts import NetworkFacts, norm_by_layers
from wsistain.networks.layers import BlurDown, BlurUp, Norm, ResidualBlock, conv2d, initialise, norm2d
from wsistain.networks.receptive_field import receptive_radius

CUT_TAPS = (0, 4, 8, 12, 16)
"""Layers whose outputs the contrastive losses compare: padded RGB, two convolutions, 1st and 5th residual block."""

SIZE_MULTIPLE = 4


class ResnetGenerator(nn.Module):
    """Image to image: conv7, two halvings, `n_blocks` residual blocks, two doublings, conv7, tanh.

    n_blocks : 6 (7.84 M parameters at ngf 64) or 9 (11.38 M).
    ngf      : channels after the first convolution.
    norm     : "instance" (biases kept) or "batch" (no biases under a norm layer).
    spectral : old-style spectral norm on every convolution.
    blur     : anti-aliased resampling (CUT family) or strided and transposed convolutions (CycleGAN).
    dropout  : inside the residual blocks; 0 for none.

    Maps float (b, 3, h, w) in [-1, 1] to the same; h and w must be multiples of 4.
    """

    def __init__(
        self,
        n_blocks: int = 6,
        ngf: int = 64,
        *,
        norm: Norm = "instance",
        spectral: bool = False,
        blur: bool = True,
        dropout: float = 0.0,
        in_channels: int = 3,
        out_channels: int = 3,
    ):
        super().__init__()
        if spectral and not blur:
            raise ValueError("spectral=True needs blur=True: transposed convolutions have no spectral norm here")
        # A batch norm has its own shift. `widths` follows the layers one by one, for those that are tapped.
        bias = norm == "instance"
        conv = functools.partial(conv2d, spectral=spectral)
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            conv(in_channels, ngf, 7, bias=bias),
            norm2d(norm, ngf),
            nn.ReLU(True),
        ]
        widths = [in_channels, ngf, ngf, ngf]
        # Down to a quarter of the size.
        for width in (2 * ngf, 4 * ngf):
            added = [
                conv(width // 2, width, 3, stride=1 if blur else 2, padding=1, bias=bias),
                norm2d(norm, width),
                nn.ReLU(True),
            ]
            layers += [*added, BlurDown(width)] if blur else added
            widths += [width] * (len(added) + int(blur))
        # The trunk.
        for _ in range(n_blocks):
            layers.append(ResidualBlock(4 * ngf, norm, bias=bias, spectral=spectral, dropout=dropout))
            widths.append(4 * ngf)
        # Up again.
        for width in (2 * ngf, ngf):
            if blur:
                layers += [
                    BlurUp(),
                    conv(2 * width, width, 3, padding=1, bias=bias),
                    norm2d(norm, width),
                    nn.ReLU(True),
                ]
                widths += [2 * width, width, width, width]
            else:
                transposed = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1, bias=bias)
                layers += [transposed, norm2d(norm, width), nn.ReLU(True)]
                widths += [width] * 3
        layers += [nn.ReflectionPad2d(3), conv(ngf, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self._widths = (*widths, ngf, out_channels, out_channels)
        self._shape = (n_blocks, norm, blur)
        initialise(self)

    def tap_channels(self, taps: Sequence[int]) -> tuple[int, ...]:
        """Channels of the feature map at each tap, in the order given."""
        return tuple(self._widths[tap] for tap in taps)

    @property
    def facts(self) -> NetworkFacts:
        """Edges in multiples of 4; exact with a halo of the receptive field once its statistics are fixed."""
        return NetworkFacts(norm_by_layers(self), size_multiple=SIZE_MULTIPLE, halo_px=_halo(*self._shape))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out

    def features(self, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Feature maps (b, c, h', w') at the rising layer numbers `taps`; layers after the last tap do not run."""
        return self._walk(x, taps, max(taps) + 1)[1]

    def forward_with_features(self, x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Output and feature maps of one pass; equal to `forward(x)` and `features(x, taps)`."""
        return self._walk(x, taps, len(self.model))

    def _walk(self, x: Tensor, taps: Sequence[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        if list(taps) != sorted(set(taps)) or (taps and not 0 <= taps[0] <= taps[-1] < len(self.model)):
            raise ValueError(f"taps {tuple(taps)} are not rising layer numbers in 0..{len(self.model) - 1}")
        found = []
        for number, layer in enumerate(list(self.model)[:stop]):
            if isinstance(layer, nn.ReLU) and number - 1 in taps:
                x = x.clone()  # the in-place ReLU would change the feature map just taken
            x = layer(x)
            if number in taps:
                found.append(x)
        return x, found


@functools.lru_cache(maxsize=16)
def _halo(n_blocks: int, norm: Norm, blur: bool) -> int | None:
    """Receptive-field radius of every ResNet of this shape: it does not depend on the width, so one channel tells."""
    narrow = ResnetGenerator(n_blocks, 1, norm=norm, blur=blur)
    return receptive_radius(narrow, SIZE_MULTIPLE)
