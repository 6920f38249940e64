"""Shared layers of the convolutional networks: anti-aliased resampling, spectral norm, residual block, first weights.

Sources: Zhang 2019 (blur pooling, arXiv:1904.11486), Miyato et al. 2018 (spectral norm, arXiv:1802.05957), and the
sizes of taesungp/contrastive-unpaired-translation.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["instance", "batch"]


class SpectralConv2d(nn.Module):
    """Convolution whose kernel is divided by an estimate of its largest singular value.

    The kernel is seen as a matrix (out, in * kh * kw). Each call in training mode does one power iteration on the
    stored vectors `weight_u`, `weight_v`; evaluation uses them as they are. Names are those of published checkpoints
    (`weight_orig`, `weight_u`, `weight_v`). Computed in float32 also under autocast.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight_orig = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.xavier_normal_(self.weight_orig, 0.02)
        matrix = self.weight_orig.detach().flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(matrix.shape[0]), dim=0, eps=1e-12))
        self.register_buffer("weight_v", F.normalize(torch.randn(matrix.shape[1]), dim=0, eps=1e-12))

    def normalised_weight(self) -> Tensor:
        """The kernel divided by u^T W v; u and v take no gradient."""
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            matrix = self.weight_orig.flatten(1)
            if self.training:
                with torch.no_grad():
                    v = F.normalize(matrix.t() @ self.weight_u, dim=0, eps=1e-12)
                    u = F.normalize(matrix @ v, dim=0, eps=1e-12)
                    self.weight_v.copy_(v)
                    self.weight_u.copy_(u)
            else:  # copies: a later training call may change the buffers before backward reads them
                u, v = self.weight_u.clone(), self.weight_v.clone()
            return self.weight_orig / torch.dot(u, matrix @ v)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised_weight(), self.bias, self.stride, self.padding)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    spectral: bool = False,
) -> nn.Module:
    """A plain or a spectrally normalised convolution."""
    kind = SpectralConv2d if spectral else nn.Conv2d
    return kind(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)


def norm2d(kind: Norm, channels: int) -> nn.Module:
    """Instance norm (no scale, no running statistics) or batch norm (both), as plain torch modules."""
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=False, track_running_stats=False)
    return nn.BatchNorm2d(channels)


class BlurDown(nn.Module):
    """Halves height and width: binomial filter [1, 2, 1] each way, reflected edges, every second pixel."""

    filt: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(row, row).expand(channels, 1, 3, 3).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt.to(x.dtype), stride=2, groups=self.channels)


class BlurUp(nn.Module):
    """Doubles height and width: zero insertion and filter [1, 3, 3, 1] / 4 each way, replicated edges.

    That is bilinear interpolation with aligned pixel areas, which is how it is computed (test: equal to the filter).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), reflected edges, no activation after the sum; (b, c, h, w) to the same."""

    def __init__(
        self,
        channels: int,
        norm: Norm,
        *,
        bias: bool = True,
        spectral: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(1),
            conv2d(channels, channels, 3, bias=bias, spectral=spectral),
            norm2d(norm, channels),
            nn.ReLU(inplace=True),
        ]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        layers += [
            nn.ReflectionPad2d(1),
            conv2d(channels, channels, 3, bias=bias, spectral=spectral),
            norm2d(norm, channels),
        ]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


def initialise(network: nn.Module, kind: Literal["xavier", "normal"] = "xavier", gain: float = 0.02) -> None:
    """Draw first weights in place: kernels xavier normal or normal with `gain`, biases 0, batch-norm scales N(1, gain).

    The contrastive family uses xavier, Pix2Pix and CycleGAN normal; both with gain 0.02.
    """

    def draw(weight: Tensor) -> None:
        if kind == "xavier":
            nn.init.xavier_normal_(weight, gain)
        else:
            nn.init.normal_(weight, 0.0, gain)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, gain)
            nn.init.zeros_(module.bias)
            continue
        if isinstance(module, SpectralConv2d):
            draw(module.weight_orig)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            draw(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def folded_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors with every spectral norm divided into a plain `weight` (evaluation values).

    Fits the same network built with `spectral=False`.
    """
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for prefix, module in network.named_modules():
        if isinstance(module, SpectralConv2d):
            dot = f"{prefix}." if prefix else ""
            orig, u, v = (state.pop(f"{dot}{name}") for name in ("weight_orig", "weight_u", "weight_v"))
            state[f"{dot}weight"] = orig / torch.dot(u, orig.flatten(1) @ v)
    return state


def unfolded_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `folded_state` made, for a network with spectral norms to go on from: the reverse, but for the norms' size.

    A folded kernel's largest singular value is 1 as far as its power iteration had come; here its vectors are exact.
    """
    state = dict(tensors)
    for prefix, module in network.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, SpectralConv2d) and f"{dot}weight" in state:
            kernel = state.pop(f"{dot}weight")
            u, _, v = torch.linalg.svd(kernel.flatten(1).double(), full_matrices=False)
            state |= {f"{dot}weight_orig": kernel, f"{dot}weight_u": u[:, 0].float(), f"{dot}weight_v": v[0].float()}
    return state
