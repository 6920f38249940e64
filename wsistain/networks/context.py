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
_ROWS, _BAND = 128, 64
"""Rows of the picture, and rows or columns of cells, that are worked on at once."""

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
        weight, value = torch.sigmoid(pointwise(self.weight, x)), pointwise(self.value, x)
        with torch.autocast(x.device.type, enabled=False):
            weight = _at_least_float32(weight)
            value = torch.unflatten(_at_least_float32(value), 1, (HEADS, -1))
            found = _window_mean((value * weight[:, :, None]).flatten(1, 2), self.window)
            mean = torch.unflatten(found, 1, (HEADS, -1)) / (_window_mean(weight, self.window) + 1e-3)[:, :, None]
        return pointwise(self.out, mean.flatten(1, 2))


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
        return NetworkFacts("frozen", size_multiple=SIZE_MULTIPLE, halo_px=halo, takes_margin=True)

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """The stain of `x` without `margin` px at each edge, which are looked at and not painted."""
        cut = max(0, margin // SIZE_MULTIPLE - 1)  # the last convolution looks one px further
        out: Tensor = self.last(self.features(x, cut)[1])
        return inside(out, margin - SIZE_MULTIPLE * cut)

    def features(self, x: Tensor, cut: int = 0, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the last layers read: float (b, 4 ngf, h / 4, w / 4) after the blocks, and (b, ngf, h, w) at full size.

        cut : cells of 4 px at each edge that are left out of both; what they would have been is not computed where nothing
              else needs it. The rest is what it is with 0.
        told : (b, 4 ngf, h / 4, w / 4) of another network, which the blocks read too.
        """
        # Down, and what is seen from afar: all of the picture, for its edges tell the middle of their surroundings.
        early = max(0, cut - self._near)
        in_strips = x.device.type == "cpu" and not self.training
        full, half, seen = (self._begun_in_strips if in_strips else self._begun)(x, 4 * early)
        out: Tensor = self.down[1](half) + self._context(seen)
        half = _kept(half, 2 * early)
        out = self.before(out if told is None else out + told)
        out = _kept(out + self.neighbours(out), early)

        # From here on each place is told by its near ones.
        cells = self.after(out)
        out = self.up[0](cells).add_(half)
        del half
        out = self.up[1](out).add_(full)
        return inside(cells, cut - early), inside(out, 4 * (cut - early))

    @property
    def _near(self) -> int:
        """Cells that the layers after the far look reach to each side: two a block, and three on the way up."""
        return 2 * len(self.after) + 3

    def _context(self, seen: Tensor) -> Tensor:
        norm, first, relu, last = self.context
        return pointwise(last, relu(pointwise(first, norm(seen))))

    def _begun(self, x: Tensor, cut: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first convolution without `cut` px at each edge, the first halving of all of it, and its statistics."""
        full = self.first(x)
        return _kept(full, cut), self.down[0](full), self._seen_round([_statistics(full)])

    def _begun_in_strips(self, x: Tensor, cut: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `_begun`, a few rows at a time: at full size these layers are what a tile takes most memory for.

        The first convolution in float32, since bfloat16 would take most of what makes it differ from here.
        """
        pad, conv = self.first
        norm, relu, down = self.down[0].children()
        if not isinstance(conv, nn.Conv2d) or not isinstance(down, nn.Conv2d):
            raise TypeError("the first layers are no convolutions")
        is_half = torch.is_autocast_enabled(x.device.type)
        kept_as = torch.get_autocast_dtype(x.device.type) if is_half else x.dtype
        padded, (b, _, height, width) = pad(x), x.shape
        full = _empty(x, (b, conv.out_channels, height - 2 * cut, width - 2 * cut), kept_as)
        half = _empty(x, (b, down.out_channels, height // 2, width // 2), kept_as)
        found = []
        for top in range(0, height, _ROWS):
            above = min(top, 1)  # the halving looks one row up; over the first it sees zeros
            with torch.autocast(x.device.type, enabled=False):
                strip = conv(padded[:, :, top - above : top + _ROWS + 2 * (conv.kernel_size[0] // 2)])
            looked_at = relu(norm(strip.to(kept_as)))
            looked_at = F.pad(looked_at, (0, 0, 1 - above, 0))
            half[:, :, top // 2 : (top + _ROWS) // 2] = F.conv2d(looked_at, down.weight, stride=2, padding=(0, 1))
            strip = strip[:, :, above:]
            found.append(_statistics(strip))
            first, last = max(cut, top), min(height - cut, top + _ROWS)
            if first < last:
                full[:, :, first - cut : last - cut] = strip[:, :, first - top : last - top, cut : width - cut]
        del padded
        return full, half, self._seen_round(found)

    def _seen_round(self, found: list[Tensor]) -> Tensor:
        """Statistics, given in strips, beside their means over each window: (b, 2c (1 + windows), h / 4, w / 4)."""
        cells = torch.cat(found, dim=2)
        return torch.cat([cells, *(_window_mean(cells, window) for window in self.windows)], dim=1)


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _statistics(first: Tensor) -> Tensor:
    """Means and mean squares of (b, c, h, w) over 4 px: (b, 2c, h / 4, w / 4), in float32 at least."""
    with torch.autocast(first.device.type, enabled=False):  # a variance is the difference of two like numbers
        wide = _at_least_float32(first)
        return torch.cat([F.avg_pool2d(wide, 4), F.avg_pool2d(wide * wide, 4)], dim=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reset_parameters(network: nn.Module) -> None:
    """Torch's own first weights: regression starts faster from them than from the published ones (deviation 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            module.reset_parameters()


def inside(x: Tensor, px: int) -> Tensor:
    """A map (..., h, w) without `px` at each edge."""
    return x if px <= 0 else x[..., px:-px, px:-px]


def _kept(x: Tensor, px: int) -> Tensor:
    """As `inside`; what is cut off is no longer held."""
    return x if px <= 0 else inside(x, px).contiguous(memory_format=torch.channels_last)


def pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of 1 px, (b, c, h, w), as the product that it is: on a CPU torch copies a single picture for it."""
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{type(conv).__name__} is no convolution")
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def _window_mean(cells: Tensor, window: int) -> Tensor:
    """Mean over a square window, cut off at the edge: products with bands of ones, along each direction.

    A few rows or columns at a time, since beyond the window a band holds zeros.
    """
    x = cells.permute(0, 2, 3, 1)
    for dim in (1, 2):
        x = torch.cat([_band_product(x, dim, start, window) for start in range(0, x.shape[dim], _BAND)], dim=dim)
    return x.permute(0, 3, 1, 2)


def _band_product(x: Tensor, dim: int, start: int, window: int) -> Tensor:
    """Means along `dim` (1 or 2) of (b, h, w, c), of the `_BAND` places from `start` on."""
    n, reach = x.shape[dim], window // 2
    stop, low = min(start + _BAND, n), max(start - reach, 0)
    high = min(stop + reach, n)
    place = torch.arange(start, stop)
    near = ((place[:, None] - torch.arange(low, high)).abs() <= reach).double()
    band = (near / near.sum(dim=1, keepdim=True)).to(x)
    part = x.narrow(dim, low, high - low)
    if dim == 1:
        return torch.unflatten(torch.matmul(band, part.flatten(2)), 2, part.shape[2:])
    return torch.matmul(band, part)


@functools.lru_cache(maxsize=16)
def _halo(n_blocks: int, windows: tuple[int, ...], far: int) -> int | None:
    """Receptive-field radius of every network of this shape, told by two channels."""
    return receptive_radius(ContextResnet(n_blocks, 2, windows, far), SIZE_MULTIPLE)
