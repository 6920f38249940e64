"""A small ResNet that also sees a wide neighbourhood: the network of the demonstration weights.

How far a tumour is from its normal tissue shows in the size and the chromatin of many nuclei together, and neighbours
are alike. A narrow ResNet learns such statistics slowly: to it they are products of many layers. Here they are given:
first means and mean squares of the first convolution over windows of several sizes, then, half way through the residual
blocks, means over a wide window of what the network itself has found, each weighted by where it was found.
"""

import functools
from collections.abc import Callable, Sequence

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

    def forward(self, x: Tensor, cut: int = 0) -> Tensor:
        """cut : cells at each edge that are looked at and left out."""
        rows, columns = (range(cut, n - cut) for n in x.shape[2:])
        weight, value = torch.sigmoid(pointwise(self.weight, x)), pointwise(self.value, x)
        with torch.autocast(x.device.type, enabled=False):
            weight = _at_least_float32(weight)
            value = torch.unflatten(_at_least_float32(value), 1, (HEADS, -1)) * weight[:, :, None]
            found = _window_mean(value.flatten(1, 2), self.window, rows, columns)
            del value
            weight = _window_mean(weight, self.window, rows, columns)
            mean = torch.unflatten(found, 1, (HEADS, -1)) / (weight + 1e-3)[:, :, None]
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
    channels : of what it is given.

    Maps float (b, channels, h, w) in [-1, 1] to (b, 3, h, w) of the same range; h and w must be multiples of 4. Windows are cut off at the picture's
    edge. Statistics of batch norm are frozen once trained, so tiles with a halo of the receptive field equal one pass.
    """

    def __init__(self, n_blocks: int, ngf: int, windows: Sequence[int], far: int, channels: int = 3):
        super().__init__()
        if any(window < 3 or window % 2 == 0 for window in (*windows, far)):
            raise ValueError(f"windows {tuple(windows)} and {far}: wanted odd numbers of cells from 3 up")
        self.n_blocks, self.windows, self.far = n_blocks, tuple(windows), far
        self.short: torch.dtype | None = None
        # Down to a quarter of the size, with the statistics of wide windows beside it.
        self.first = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(channels, ngf, 7, bias=False))
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
        _, half, full = self.features(x, cut)
        if self.goes_in_strips(x, cut):
            out = self.read_in_strips(x, half, self.last[:2], self.last[3:], cut)
        else:
            out = inside(self.last(self.at_full(half, full)), SIZE_MULTIPLE * self.rest(cut))
        return inside(out, margin - SIZE_MULTIPLE * cut)

    def features(self, x: Tensor, cut: int = 0, told: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What the last layers read: (b, 4 ngf, h / 4, w / 4) after the blocks, and what `at_full` makes the full size of.

        cut  : cells of 4 px at each edge that are left out in the end; what they would have been is not computed where
               nothing else needs it. The rest is what it is with 0.
        told : (b, 4 ngf, h / 4, w / 4) of another network, which the blocks read too.
        """
        # Down, and what is seen from afar: all of the picture, for its edges tell the middle of their surroundings.
        early = cut - self.rest(cut)
        first = max(0, early - self.far // 2 - 2 * len(self.before))
        if self._may_go_in_strips(x):
            full, half, out = self._begun_in_strips(x, first, early, keeps=not self.goes_in_strips(x, cut))
        else:
            full, half, out = self._begun(x, first, early)
        out = self._through(self.before, out if told is None else out + inside(told, first))
        round_it = self.neighbours(out, early - first)
        out = _kept(out, early - first) + round_it
        del round_it

        # From here on each place is told by its near ones.
        cells = self._through(self.after, out)
        del out
        return inside(cells, cut - early), self.up[0](cells).add_(half), full

    def shorten(self, dtype: torch.dtype | None) -> None:
        """Let the residual blocks, most of the work, compute in `dtype`. In bfloat16 a picture moves by a grey level at most;
        with all layers in bfloat16 it is three (docs/systems/lpstain.md)."""
        self.short = dtype

    def _through(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        if self.short is None or self.training:
            out: Tensor = blocks(x)
            return out
        with torch.autocast(x.device.type, self.short):
            return _at_least_float32(blocks(x))

    def rest(self, cut: int) -> int:
        """Of `cut` cells those that the layers after the far look reach to: two a block, and three on the way up."""
        return min(cut, 2 * len(self.after) + 3)

    def _may_go_in_strips(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and not self.training and not torch.is_grad_enabled()

    def goes_in_strips(self, x: Tensor, cut: int) -> bool:
        """Whether the full size is read in strips: of tiles of a run. Where nothing is left out, a layer may be asked for."""
        return cut > 0 and self._may_go_in_strips(x)

    def at_full(self, half: Tensor, full: Tensor) -> Tensor:
        """The sum of `full` (b, ngf, h, w) and of `half` (b, 2 ngf, h / 2, w / 2) at twice its size; `features` has both.

        Not of what `goes_in_strips`, whose `full` is empty.
        """
        out: Tensor = self.up[1](half).add_(full)
        return out

    def read_in_strips(
        self, x: Tensor, half: Tensor, look: nn.Module, read: Callable[[Tensor], Tensor], cut: int
    ) -> Tensor:
        """What is read of `at_full`, a few rows at a time, so that it never is whole; without `cut` cells at each edge.

        The first convolution of the picture `x` is made once more: to keep it would be a third of a tile's memory.

        look : of each place: norm and activation.
        read : (b, ngf, h + 2, w + 2) of that, reflected at the edge, to (b, n, h, w).
        """
        px = SIZE_MULTIPLE * (cut - self.rest(cut))
        height, columns, found = 2 * half.shape[2], range(px, x.shape[3] - px), []
        for top in range(0, height, _ROWS):
            rows = range(top, min(top + _ROWS, height))
            low, high = max(top - 1, 0), min(rows.stop + 1, height)
            strip = _doubled(self.up[1], half, range(low, high))
            strip = look(strip.add_(self._first(x, range(low + px, high + px), columns)))
            found.append(read(F.pad(strip, (1, 1, int(top == 0), int(rows.stop == height)), mode="reflect")))
        return inside(torch.cat(found, dim=2), SIZE_MULTIPLE * self.rest(cut))

    def _context(self, seen: Tensor) -> Tensor:
        norm, first, relu, last = self.context
        return pointwise(last, relu(pointwise(first, norm(seen))))

    def _seen_round(self, cells: Tensor, rows: range, columns: range) -> Tensor:
        """Statistics beside their means over each window: (b, 2c (1 + windows), rows, columns)."""
        here = cells[:, :, rows.start : rows.stop, columns.start : columns.stop]
        return torch.cat([here, *(_window_mean(cells, window, rows, columns) for window in self.windows)], dim=1)

    def _begun(self, x: Tensor, first: int, early: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first convolution and halving without `early` cells at each edge, and the cells without `first`."""
        full = self.first(x)
        half = self.down[0](full)
        cells = _statistics(full)
        rows, columns = (range(first, n - first) for n in cells.shape[2:])
        out = inside(self.down[1](half), first) + self._context(self._seen_round(cells, rows, columns))
        return _kept(full, 4 * early), _kept(half, 2 * early), out

    def _convolution(self) -> nn.Conv2d:
        conv = self.first[1]
        if not isinstance(conv, nn.Conv2d):
            raise TypeError("the first layer is no convolution")
        return conv

    def _first(self, x: Tensor, rows: range, columns: range) -> Tensor:
        """The first convolution of a part, in float32: in bfloat16 it would make most of what differs."""
        conv = self._convolution()
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = conv(_with_reach(x, rows, columns, conv.kernel_size[0] // 2))
        return out

    def _begun_in_strips(
        self, x: Tensor, first: int, early: int, *, keeps: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `_begun`, a few rows at a time: at full size these layers are what a tile takes most memory for.

        keeps : the first convolution too; else that is empty.
        """
        kept_as = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        b, _, height, width = x.shape
        c = self._convolution().out_channels
        full = _empty(x, (b, c, height - 8 * early, width - 8 * early) if keeps else (b, c, 0, 0), kept_as)
        half = _empty(x, (b, 2 * c, height // 2 - 4 * early, width // 2 - 4 * early), kept_as)
        out = _empty(x, (b, 4 * c, height // 4 - 2 * first, width // 4 - 2 * first), kept_as)
        found = []
        for top in range(0, height, _ROWS):
            # From one cell above on, which the halvings look at.
            more = min(top, SIZE_MULTIPLE)
            strip = self._first(x, range(top - more, min(top + _ROWS, height)), range(width))
            found.append(_statistics(strip[:, :, more:]))
            if keeps:
                _put(full, strip[:, :, more:], top, 4 * early)
            strip = self.down[0](strip.to(kept_as))
            _put(half, strip[:, :, more // 2 :], top // 2, 2 * early)
            _put(out, self.down[1](strip)[:, :, more // 4 :], top // 4, first)
        cells = torch.cat(found, dim=2)
        del found, strip

        # What is seen from afar, of what is kept.
        n_rows, columns = cells.shape[2] - first, range(first, cells.shape[3] - first)
        for top in range(first, n_rows, _BAND):
            rows = range(top, min(top + _BAND, n_rows))
            out[:, :, top - first : rows.stop - first] += self._context(self._seen_round(cells, rows, columns))
        return full, half, out


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _with_reach(x: Tensor, rows: range, columns: range, reach: int) -> Tensor:
    """A part of (b, c, h, w) with `reach` px more at each side, reflected at the picture's edge."""
    top, bottom = max(rows.start - reach, 0), min(rows.stop + reach, x.shape[2])
    left, right = max(columns.start - reach, 0), min(columns.stop + reach, x.shape[3])
    across = (left - columns.start + reach, columns.stop + reach - right)
    lacking = (*across, top - rows.start + reach, rows.stop + reach - bottom)
    part = x[:, :, top:bottom, left:right]
    return F.pad(part, lacking, mode="reflect") if any(lacking) else part


def _put(whole: Tensor, strip: Tensor, top: int, cut: int) -> None:
    """Lay rows from `top` on of a picture into `whole`, which has `cut` px less at each edge."""
    height = whole.shape[2] + 2 * cut
    low, high = max(top, cut), min(top + strip.shape[2], height - cut)
    if low < high:
        part = strip[:, :, low - top : high - top]
        whole[:, :, low - cut : high - cut] = part[..., cut : part.shape[3] - cut]


def _doubled(up: nn.Module, x: Tensor, rows: range) -> Tensor:
    """The `rows` of what `up` (norm, activation, convolution of 3 px, doubling) makes of `x` (b, c, h, w)."""
    norm, relu, conv, double = up.children()
    # The doubling looks one row up and down, and so does the convolution, which sees zeros beyond the edge.
    low, high = max(rows.start // 2 - 1, 0), min((rows.stop + 3) // 2, x.shape[2])
    above, below = min(low, 1), min(x.shape[2] - high, 1)
    strip = conv(relu(norm(x[:, :, low - above : high + below])))[:, :, above : high - low + above]
    out: Tensor = double(strip)[:, :, rows.start - 2 * low : rows.stop - 2 * low]
    return out


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


def _window_mean(cells: Tensor, window: int, rows: range | None = None, columns: range | None = None) -> Tensor:
    """Mean over a square window, cut off at the edge: products with bands of ones, along each direction.

    rows, columns : of the means that are wanted; all by default.

    A few rows or columns at a time, since beyond the window a band holds zeros.
    """
    x = cells.permute(0, 2, 3, 1)
    for dim, wanted in ((1, rows), (2, columns)):
        wanted = range(x.shape[dim]) if wanted is None else wanted
        starts = range(wanted.start, wanted.stop, _BAND)
        parts = [_band_product(x, dim, start, min(start + _BAND, wanted.stop), window) for start in starts]
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
    return x.permute(0, 3, 1, 2)


def _band_product(x: Tensor, dim: int, start: int, stop: int, window: int) -> Tensor:
    """Means along `dim` (1 or 2) of (b, h, w, c), of the places from `start` to `stop`."""
    n, reach = x.shape[dim], window // 2
    low, high = max(start - reach, 0), min(stop + reach, n)
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
