"""A small ResNet that also sees the texture of its surroundings: the network of the demonstration weights.

How far a tumour is from its normal tissue shows in the size and the chromatin of many nuclei together. A narrow ResNet
learns such statistics slowly: to it they are products of many layers. Here they are given: means and mean squares of the
first convolution over windows of several sizes.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.networks.receptive_field import receptive_radius
from wsistain.networks.resnet import ResnetGenerator

ENCODER = slice(2, 10)
"""Layers of the ResNet between its first convolution and its first residual block: norms and two halvings."""


class ContextResnet(nn.Module):
    """`ResnetGenerator` with batch norm, and a branch from its first convolution to its residual blocks.

    n_blocks, ngf : as there.
    windows       : odd edges of the windows, in cells of 4 px, over which means and mean squares are taken.

    Maps float (b, 3, h, w) in [-1, 1] to the same; h and w must be multiples of 4. Windows are cut off at the picture's
    edge. Statistics of batch norm are frozen once trained, so tiles with a halo of `halo_px` equal one pass.
    """

    size_multiple = 4
    norm = "frozen"

    def __init__(self, n_blocks: int, ngf: int, windows: Sequence[int]):
        super().__init__()
        if any(window < 3 or window % 2 == 0 for window in windows):
            raise ValueError(f"windows {tuple(windows)}: wanted odd numbers of cells from 3 up")
        self.n_blocks, self.windows = n_blocks, tuple(windows)
        self.base = ResnetGenerator(n_blocks, ngf, norm="batch", blur=False)
        seen = 2 * ngf * (1 + len(self.windows))
        self.context = nn.Sequential(
            nn.BatchNorm2d(seen), nn.Conv2d(seen, 4 * ngf, 1), nn.ReLU(), nn.Conv2d(4 * ngf, 4 * ngf, 1)
        )
        reset_parameters(self.base)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.4 x as fast on CPUs

    @property
    def halo_px(self) -> int | None:
        """Radius of the receptive field, px: the halo that makes tiling exact."""
        return _halo(self.n_blocks, self.windows)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.base.model
        first = layers[:2](x)
        out: Tensor = layers[ENCODER](first)
        out = layers[ENCODER.stop :](out + self.context(self._statistics(first)))
        return out

    def _statistics(self, first: Tensor) -> Tensor:
        """Means and mean squares of (b, c, h, w) over 4 px and over each window: (b, 2c (1 + windows), h/4, w/4)."""
        with torch.autocast(first.device.type, enabled=False):  # a variance is the difference of two like numbers
            first = _at_least_float32(first)
            cells = torch.cat([F.avg_pool2d(first, 4), F.avg_pool2d(first * first, 4)], dim=1)
            return torch.cat([cells, *(_window_mean(cells, window) for window in self.windows)], dim=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reset_parameters(network: nn.Module) -> None:
    """Torch's own first weights: regression starts faster from them than from the published ones (deviation 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            module.reset_parameters()


def _window_mean(cells: Tensor, window: int) -> Tensor:
    """Mean over a square window, cut off at the edge: a product with a band of ones along each direction."""
    across, down = (_band(n, window).to(cells) for n in (cells.shape[-1], cells.shape[-2]))
    return ((cells @ across).transpose(-1, -2) @ down).transpose(-1, -2)


def _band(n: int, window: int) -> Tensor:
    """(n, n) whose column k holds 1 / count at the places within half a window of k."""
    place = torch.arange(n)
    near = ((place[:, None] - place).abs() <= window // 2).double()
    return near / near.sum(dim=0)


@functools.lru_cache(maxsize=16)
def _halo(n_blocks: int, windows: tuple[int, ...]) -> int | None:
    """Receptive-field radius of every network of this shape, told by one channel."""
    return receptive_radius(ContextResnet(n_blocks, 1, windows), ContextResnet.size_multiple)
