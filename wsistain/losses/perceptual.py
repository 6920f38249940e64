"""LPIPS: the learned perceptual distance of Zhang et al. (CVPR 2018), version 0.1, on plain torch.

A shift-tolerant net ("alex_st", "vgg_st": Ghildyal and Liu, ECCV 2022) has the same heads over a backbone that does not
alias, so that sections that lie a pixel apart are not called different for it.

Both images are shifted and scaled, pass through a frozen backbone, each feature map is normalised to unit length
over its channels, squared differences are weighted by one non-negative number a channel, averaged over space and
summed over five layers.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from wsistain.networks.alexnet import AlexNetFeatures
from wsistain.networks.shift_tolerant import ShiftTolerantFeatures
from wsistain.networks.vgg import Vgg16Features
from wsistain.numerics import check_choice
from wsistain.published.tensors import load_into, read_published

Backbone = Literal["vgg", "alex", "vgg_st", "alex_st"]

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def _unit_length(features: Tensor, eps: float = 1e-10) -> Tensor:
    """`features` divided by their length over channels; an all-zero pixel stays 0 and gets a zero gradient."""
    length = features.square().sum(dim=1, keepdim=True).clamp(min=eps**2).sqrt()
    return features / (length + eps)


class _Linear(nn.Module):
    """One weight a channel, stored as the published files name it: `model.1.weight` (1, c, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        weights = nn.Conv2d(channels, 1, 1, bias=False)
        nn.init.uniform_(weights.weight, 0.0, 2.0 / channels)
        self.model = nn.Sequential(nn.Identity(), weights)

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = self.model(x)
        return weighted


class Lpips(nn.Module):
    """Perceptual distance of two images; frozen, in evaluation mode, differentiable in its inputs.

    net           : backbone, "vgg" (as a training loss) or "alex" (as a metric); with "_st" the shift-tolerant one.
    width_divisor : backbone channels divided by this; 1 is the published size.

    The weights are random until `load_published` is called: such a net is for tests only.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Backbone = "vgg", width_divisor: int = 1) -> None:
        super().__init__()
        check_choice("net", net, Backbone)
        self.name = net
        self.net: Vgg16Features | AlexNetFeatures | ShiftTolerantFeatures
        if net == "vgg_st" or net == "alex_st":
            self.net = ShiftTolerantFeatures("vgg" if net == "vgg_st" else "alex", width_divisor)
        else:
            self.net = Vgg16Features(width_divisor) if net == "vgg" else AlexNetFeatures(width_divisor)
        for index, channels in enumerate(self.net.channels):
            self.add_module(f"lin{index}", _Linear(channels))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Lpips":
        """Stays in evaluation mode: the distance is never trained."""
        return super().train(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair, float (n,), >= 0 with published weights, 0 for equal images.

        a, b : float (n, 3, h, w) in [-1, 1], h and w at least 32. Computed in float32 whatever the autocast state.
        """
        if a.shape != b.shape:
            raise ValueError(f"images of one shape are compared; found {tuple(a.shape)} and {tuple(b.shape)}")
        with torch.autocast(a.device.type, enabled=False):
            features_a = self.net((a.float() - self.shift) / self.scale)
            features_b = self.net((b.float() - self.shift) / self.scale)
            total = a.new_zeros(len(a), dtype=torch.float32)
            for index, (fa, fb) in enumerate(zip(features_a, features_b, strict=True)):
                difference = (_unit_length(fa) - _unit_length(fb)).square()
                total = total + self.get_submodule(f"lin{index}")(difference).mean(dim=(1, 2, 3))
        return total

    def load_published(self, backbone_path: Path | str, lin_path: Path | str) -> None:
        """Load torchvision's backbone file and the `lpips` package's v0.1 file of the same net, tensor by tensor.

        Raises WeightsError when a file is missing or does not match; nothing is changed in that case. ValueError for a
        shift-tolerant net, whose one file `load_whole` loads.
        """
        if isinstance(self.net, ShiftTolerantFeatures):
            raise ValueError(f"{self.name} is published in one file: load_whole")
        linear = nn.ModuleDict({f"lin{i}": _Linear(c) for i, c in enumerate(self.net.channels)})
        load_into(linear, read_published(lin_path), str(lin_path))
        self.net.load_published(backbone_path)
        for name, module in linear.items():
            self.get_submodule(name).load_state_dict(module.state_dict())

    def load_whole(self, path: Path | str) -> None:
        """Load a shift-tolerant net from the one file of the package stlpips-pytorch. Raises WeightsError."""
        load_into(self, read_published(path), str(path), ignore=("scaling_layer.",))

    @classmethod
    def tiny(cls, net: Backbone = "vgg") -> "Lpips":
        """A random net of a sixteenth of the width, for smoke runs and tests; the same numbers on every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(net, width_divisor=16)
