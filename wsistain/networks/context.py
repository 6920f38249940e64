"""A small ResNet that also sees a wide neighbourhood: the network of the demonstration weights.

How far a tumour is from its normal tissue shows in the size and the chromatin of many nuclei together, and neighbours
are alike. A narrow ResNet learns such statistics slowly: to it they are products of many layers. Here they are given:
first means and mean squares of the first convolution over windows of several sizes, then, half way through the residual
blocks, means over a wide window of what the network itself has found, each weighted by where it was found.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.networks.facts import NetworkFacts
from wsistain.networks.layers import BlurUp, ResidualBlock
from wsistain.networks.receptive_field import receptive_radius

SIZE_MULTIPLE = 4
_AT_ONCE = 4
HEADS = 8
"""Weights of a `WeightedMean`; each serves an equal part of its values."""


class WeightedMean(nn.Module):
    """Means of learned values over a square window, weighted by learned weights: what nuclei look like, not how many.

    channels : of the map, a multiple of 8.
    window   : odd edge, cells of the map; cut off at the map's edge.

    Maps (b, channels, h, w) to the same.
    """

    def __init__(self, channels: int, window: int):
        super().__init__()
        self.window = window
        self.weight = nn.Conv2d(channels, HEADS, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight, value = torch.sigmoid(self.weight(x)), self.value(x)
        with torch.autocast(x.device.type, enabled=False):
            weight = _at_least_float32(weight)[:, :, None]  # (b, heads, 1, h, w)
            value = torch.unflatten(_at_least_float32(value), 1, (HEADS, -1))
            mean = _window_mean(weight * value, self.window) / (_window_mean(weight, self.window) + 1e-3)
        out: Tensor = self.out(mean.flatten(1, 2))
        return out


class ContextResnet(nn.Module):
    """Narrow residual network with skip connections, shown the texture of its surroundings and what it found there.

    Convolution of 7 px, two halvings, `n_blocks` residual blocks, two doublings; batch norm. What the halvings leave
    behind is added on the way up, so edges stay sharp though the doublings are smooth: those are bilinear, after their
    convolution, since transposed convolutions make a checkerboard of what they were not trained on.

    n_blocks : residual blocks; the means of finds enter half way.
    ngf      : channels after the first convolution, a multiple of 2.
    windows  : odd edges of the windows, in cells of 4 px, over which means and mean squares are taken.
    far      : odd edge, in cells of 4 px, of the window of the weighted means.

    Maps float (b, 3, h, w) in [-1, 1] to the same; h and w must be multiples of 4. Windows are cut off at the picture's
    edge. Statistics of batch norm are frozen once trained, so tiles with a halo of the receptive field equal one pass.
    """

    def __init__(self, n_blocks: int, ngf: int, windows: Sequence[int], far: int):
        super().__init__()
        if any(window < 3 or window % 2 == 0 for window in (*windows, far)):
            raise ValueError(f"windows {tuple(windows)} and {far}: wanted odd numbers of cells from 3 up")
        self.n_blocks, self.windows, self.far = n_blocks, tuple(windows), far
        # Down to a quarter of the size, with the statistics of wide windows beside it.
        self.first = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7, bias=False))
        self.down = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(True), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False))
            for c in (ngf, 2 * ngf)
        )
        seen = 2 * ngf * (1 + len(self.windows))
        self.context = nn.Sequential(
            nn.BatchNorm2d(seen), nn.Conv2d(seen, 4 * ngf, 1), nn.ReLU(True), nn.Conv2d(4 * ngf, 4 * ngf, 1)
        )
        # The trunk; halfway each place is told the mean of its wider surroundings.
        blocks = [ResidualBlock(4 * ngf, "batch", bias=False) for _ in range(n_blocks)]
        self.before, self.after = nn.Sequential(*blocks[: n_blocks // 2]), nn.Sequential(*blocks[n_blocks // 2 :])
        self.neighbours = WeightedMean(4 * ngf, far)
        # Up again.
        self.up = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(True), nn.Conv2d(c, c // 2, 3, padding=1, bias=False), BlurUp())
            for c in (4 * ngf, 2 * ngf)
        )
        self.last = nn.Sequential(
            nn.BatchNorm2d(ngf), nn.ReLU(True), nn.ReflectionPad2d(1), nn.Conv2d(ngf, 3, 3), nn.Tanh()
        )
        reset_parameters(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.4 x as fast on CPUs

    @property
    def facts(self) -> NetworkFacts:
        """Edges in multiples of 4; exact with a halo of the receptive field."""
        halo = _halo(self.n_blocks, self.windows, self.far)
        return NetworkFacts("frozen", size_multiple=SIZE_MULTIPLE, halo_px=halo)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.features(x)[1])
        return out

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layers read: float (b, 4 ngf, h / 4, w / 4) after the blocks, and (b, ngf, h, w) at full size."""
        full = self.first(x)
        half = self.down[0](full)
        out: Tensor = self.down[1](half)
        out = self.before(out + self.context(self._statistics(full)))
        cells = self.after(out + self.neighbours(out))
        out = self.up[0](cells).add_(half)
        out = self.up[1](out).add_(full)
        return cells, out

    def _statistics(self, first: Tensor) -> Tensor:
        """Means and mean squares of (b, c, h, w) over 4 px and over each window: (b, 2c (1 + windows), h/4, w/4)."""
        with torch.autocast(first.device.type, enabled=False):  # a variance is the difference of two like numbers
            # A few channels at a time: in float32 and at full size they are what a tile takes most memory for.
            means, squares = [], []
            for k in range(0, first.shape[1], _AT_ONCE):
                part = _at_least_float32(first[:, k : k + _AT_ONCE])
                means.append(F.avg_pool2d(part, 4))
                squares.append(F.avg_pool2d(part * part, 4))
            cells = torch.cat(means + squares, dim=1)
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
def _halo(n_blocks: int, windows: tuple[int, ...], far: int) -> int | None:
    """Receptive-field radius of every network of this shape, told by two channels."""
    return receptive_radius(ContextResnet(n_blocks, 2, windows, far), SIZE_MULTIPLE)
