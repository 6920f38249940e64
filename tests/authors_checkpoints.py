"""Checkpoints in the key formats of the authors' repositories, written by networks that are built here from their
published descriptions, not by ours."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm


class Blur(nn.Module):
    """Halves or doubles with the stored kernel, as the CUT family does."""

    def __init__(self, channels: int, taps: list[float], up: bool):
        super().__init__()
        row = torch.tensor(taps)
        kernel = torch.outer(row, row) / row.sum() ** 2 * (4 if up else 1)
        self.up = up
        self.register_buffer("filt", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(x, self.filt, stride=2, padding=2, groups=x.shape[1])[:, :, 1:-1, 1:-1]


class Residual(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Holder(nn.Module):
    """A network whose layers lie in `model`, as in both repositories."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def resnet(
    n_blocks: int, ngf: int, *, spectral: bool, blur: bool, batch: bool = False, dropout: bool = False
) -> Holder:
    def wrap(conv: nn.Module) -> nn.Module:
        return spectral_norm(conv) if spectral else conv

    def norm(c: int) -> nn.Module:
        return nn.BatchNorm2d(c) if batch else nn.InstanceNorm2d(c)

    bias = not batch
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), wrap(nn.Conv2d(3, ngf, 7, bias=bias)), norm(ngf), nn.ReLU()]
    for c in (ngf, 2 * ngf):
        conv = nn.Conv2d(c, 2 * c, 3, stride=1 if blur else 2, padding=1, bias=bias)
        layers += [wrap(conv), norm(2 * c), nn.ReLU()] + ([Blur(2 * c, [1.0, 2.0, 1.0], False)] if blur else [])
    c = 4 * ngf
    for _ in range(n_blocks):
        block = [nn.ReflectionPad2d(1), wrap(nn.Conv2d(c, c, 3, bias=bias)), norm(c), nn.ReLU()]
        block += [nn.Dropout(0.5)] if dropout else []
        layers.append(Residual([*block, nn.ReflectionPad2d(1), wrap(nn.Conv2d(c, c, 3, bias=bias)), norm(c)]))
    for c in (4 * ngf, 2 * ngf):
        if blur:
            up = [Blur(c, [1.0, 3.0, 3.0, 1.0], True), wrap(nn.Conv2d(c, c // 2, 3, padding=1, bias=bias))]
        else:
            up = [nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)]
        layers += [*up, norm(c // 2), nn.ReLU()]
    layers += [nn.ReflectionPad2d(3), wrap(nn.Conv2d(ngf, 3, 7)), nn.Tanh()]
    return randomised(Holder(nn.Sequential(*layers)))


class Nested(nn.Module):
    """One level of the nested U-Net; the input of inner levels is passed on beside the output."""

    def __init__(self, layers: list[nn.Module], is_outer: bool):
        super().__init__()
        self.is_outer = is_outer
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.is_outer else torch.cat([x, self.model(x)], 1)


def unet(n_levels: int, ngf: int) -> Holder:
    widths = [ngf * min(2**k, 8) for k in range(n_levels)]

    def down(a: int, b: int) -> nn.Module:
        return nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False)

    def up(a: int, b: int, bias: bool = False) -> nn.Module:
        return nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=bias)

    w = widths[-1]
    inner = [nn.LeakyReLU(0.2), down(widths[-2], w), nn.ReLU(), up(w, widths[-2]), nn.BatchNorm2d(widths[-2])]
    block = Nested(inner, False)
    for level in range(n_levels - 2, 0, -1):
        outer, w = widths[level - 1], widths[level]
        layers = [nn.LeakyReLU(0.2), down(outer, w), nn.BatchNorm2d(w), block, nn.ReLU(), up(2 * w, outer)]
        layers += [nn.BatchNorm2d(outer)] + ([nn.Dropout(0.5)] if level >= 4 else [])
        block = Nested(layers, False)
    top = [down(3, widths[0]), block, nn.ReLU(), up(2 * widths[0], 3, bias=True), nn.Tanh()]
    return randomised(Holder(Nested(top, True)))


def randomised(network: Holder, seed: int = 0) -> Holder:
    """The network with weights large enough to see, after a few training passes (running means, power iterations)."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, 0.15) if p.dim() > 1 else p.add_(0.1 * torch.randn_like(p))
        network.train()
        for _ in range(3):
            network(torch.rand(2, 3, 64, 64) * 2 - 1)
    return network.eval()


def save(network: nn.Module, path: Path, *, prefix: str = "", wrapper: str | None = None) -> Path:
    """Write a state dict as the authors do; `prefix` as left by DataParallel, `wrapper` a key around it."""
    state = {f"{prefix}{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({wrapper: state} if wrapper else state, path)
    return path
