"""The time-conditioned U-Net that predicts the noise in an image, in DDPM's layout.

Numbers and key names: Ho et al. 2020 (arXiv:2006.11239) as in EGSDE's 256 px models (ML-GSAI/EGSDE, `models/ddpm.py`):
113.7 M parameters.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def time_code(t: Tensor, width: int) -> Tensor:
    """Sines, then cosines of `t` (b,) at width / 2 frequencies from 1 to 1/10000: float (b, width)."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions with group norm and swish; the time is added between them."""

    def __init__(self, n_in: int, n_out: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, n_in, eps=1e-6)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.temb_proj = nn.Linear(time_width, n_out)
        self.norm2 = nn.GroupNorm(groups, n_out, eps=1e-6)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        if n_in != n_out:
            self.nin_shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h
        return out


class AttnBlock(nn.Module):
    """Self-attention over all pixels, one head, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (m(h).flatten(2).transpose(1, 2)[:, None] for m in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj_out(seen)
        return out


class Downsample(nn.Module):
    """Half the size by a strided convolution, padded at the far sides only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the size by repetition and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks of one size, each followed by attention where the level has it, and a change of size.

    The change of size is called `downsample` or `upsample` in the state dict; the last level of a way has none.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], attention: Sequence[nn.Module], change: Downsample | Upsample | None
    ) -> None:
        super().__init__()
        self.block, self.attn = nn.ModuleList(blocks), nn.ModuleList(attention)
        self._name = "downsample" if isinstance(change, Downsample) else "upsample"
        self.resamples = change is not None
        if change is not None:
            self.add_module(self._name, change)

    def run(self, number: int, x: Tensor, time: Tensor) -> Tensor:
        """The number-th residual block and its attention."""
        x = self.block[number](x, time)
        return self.attn[number](x) if len(self.attn) else x

    def resample(self, x: Tensor) -> Tensor:
        """Half or twice the size, where the level changes it."""
        return self.get_submodule(self._name)(x) if self.resamples else x


class Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, width: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, time_width, groups)
        self.attn_1 = AttnBlock(width, groups)
        self.block_2 = ResBlock(width, width, time_width, groups)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x, time)), time)
        return out


class Time(nn.Module):
    """The code of a time, through two linear layers."""

    def __init__(self, base: int, width: int) -> None:
        super().__init__()
        self.base = base
        self.dense = nn.ModuleList([nn.Linear(base, width), nn.Linear(width, width)])

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        out: Tensor = second(F.silu(first(time_code(t, self.base))))
        return out


class ScoreUNet(nn.Module):
    """Noise in an image: float (b, 3, h, w) at time (b,) to the same shape; h and w multiples of `size_multiple`.

    base        : width at full size; `multipliers` scale it level by level, each half the size of the one above.
    n_blocks    : residual blocks on the way down in each level (one more on the way up).
    attention   : levels (0 is full size) with attention; the middle always has it. (4,) is 16 px of 256.
    groups      : of the group norms.

    Times count as in DDPM: 0 has noised once, that is step 1 of `wsistain.diffusion.sde`.
    """

    def __init__(
        self,
        *,
        base: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        n_blocks: int = 2,
        attention: Sequence[int] = (4,),
        groups: int = 32,
    ) -> None:
        super().__init__()
        # The embedding of time, and the first layer.
        self.n_blocks = n_blocks
        self.size_multiple = 2 ** (len(multipliers) - 1)
        time_width = 4 * base
        widths = [base * m for m in multipliers]
        self.temb = Time(base, time_width)
        self.conv_in = nn.Conv2d(3, base, 3, padding=1)

        # Down: the width of every output is kept, for the block on the way up that takes it.
        down, skips, width = [], [base], base
        for level, wide in enumerate(widths):
            blocks = []
            for _ in range(n_blocks):
                blocks.append(ResBlock(width, wide, time_width, groups))
                width = wide
                skips.append(width)
            attn = [AttnBlock(width, groups) for _ in range(n_blocks)] if level in attention else []
            is_last = level == len(widths) - 1
            down.append(Level(blocks, attn, None if is_last else Downsample(width)))
            if not is_last:
                skips.append(width)
        self.down = nn.ModuleList(down)

        self.mid = Middle(width, time_width, groups)

        # Up: one block more a level, since what halved on the way down left an output too.
        up: list[nn.Module] = []
        for level, wide in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(n_blocks + 1):
                blocks.append(ResBlock(width + skips.pop(), wide, time_width, groups))
                width = wide
            attn = [AttnBlock(width, groups) for _ in range(n_blocks + 1)] if level in attention else []
            up.insert(0, Level(blocks, attn, Upsample(width) if level else None))
        self.up = nn.ModuleList(up)
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def _descend(self, x: Tensor, time: Tensor) -> list[Tensor]:
        """Every feature map that the way up joins: after the first convolution, each block and each halving."""
        maps = [self.conv_in(x)]
        for level in self.down:
            assert isinstance(level, Level)
            for number in range(self.n_blocks):
                maps.append(level.run(number, maps[-1], time))
            if level.resamples:
                maps.append(level.resample(maps[-1]))
        return maps

    def features(self, x: Tensor, t: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Feature maps (b, c, h / 2**level, w / 2**level) at the end of the given levels of the way down."""
        maps = self._descend(x, self.temb(t))
        per_level = self.n_blocks + 1  # blocks and a halving, after the first convolution
        return [maps[level * per_level + self.n_blocks] for level in levels]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.temb(t)
        maps = self._descend(x, time)
        h = self.mid(maps[-1], time)
        for level in reversed(list(self.up)):
            assert isinstance(level, Level)
            for number in range(self.n_blocks + 1):
                h = level.run(number, torch.cat([h, maps.pop()], dim=1), time)
            h = level.resample(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out
