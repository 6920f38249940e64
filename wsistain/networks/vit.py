"""ATST-Net's H&E-to-IHC generator: a ViT encoder whose token maps feed a convolutional decoder, used on windows.

Numbers and key names: the published generator (SikangSHU/ATST-Net, `pretrained_pathoduet/vits_ATSTNet.py`), whose
encoder is PathoDuet's ViT-B/16 (openmedlab/PathoDuet) and whose decoder follows CellViT. The raw-image branch
`decoder0` of the published file is built there and never called; it is left out here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.networks.facts import NetworkFacts, norm_by_layers
from wsistain.networks.layers import ResidualBlock
from wsistain.networks.slide_norm import FieldNorm
from wsistain.published.tensors import check_fit, read_published

N_EXTRA_TOKENS = 2  # pretext token, class token
ENCODER_PREFIXES = ("pretext_token", "cls_token", "pos_embed", "patch_embed.", "blocks.")
UNUSED_PREFIXES = ("norm.", "fc_norm.", "head.", "decoder0.")  # in published generators, never called


def sincos_positions(rows: int, cols: int, width: int, temperature: float = 1e4) -> Tensor:
    """Fixed 2-D sine-cosine positions, float (1, 2 + rows * cols, width); the two extra tokens get zeros.

    The first half of the channels codes the row, the second half the column, as in MoCo v3 read row by row.
    """
    if width % 4:
        raise ValueError(f"token width {width} is not a multiple of 4")
    omega = temperature ** (-torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(cols).float(), indexing="ij")
    by_row, by_col = y.flatten()[:, None] * omega, x.flatten()[:, None] * omega
    table = torch.cat([by_row.sin(), by_row.cos(), by_col.sin(), by_col.cos()], dim=1)
    return torch.cat([torch.zeros(N_EXTRA_TOKENS, width), table])[None]


class Attention(nn.Module):
    """Multi-head self-attention on tokens (b, n, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))
        return out


class Mlp(nn.Module):
    """Two-layer perceptron with GELU on tokens."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """Image (b, 3, h, w) to tokens (b, h * w / patch², width)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class ConvBlock(nn.Module):
    """Convolution 3x3, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class UpBlock(nn.Module):
    """Twice the size: transposed convolution 2x2, convolution 3x3, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ConvTranspose2d(n_in, n_out, 2, stride=2),
            nn.Conv2d(n_out, n_out, 3, padding=1),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


def _decoder_stage(n_in: int, n_mid: int, n_convs: int, n_out: int) -> nn.Sequential:
    convs = [ConvBlock(n_in if i == 0 else n_mid, n_mid) for i in range(n_convs)]
    return nn.Sequential(*convs, nn.ConvTranspose2d(n_mid, n_out, 2, stride=2))


class VitGenerator(nn.Module):
    """Generator of one window: float (b, 3, window, window) in [-1, 1] to the same.

    window   : edge of the image, px; a multiple of `patch`.
    patch    : edge of a token, px: 2 ** (number of decoder stages), 16 or 8.
    width, depth, heads : of the transformer.
    taps     : blocks (counted from 1) whose tokens feed the decoder, shallow to deep; as many as log2(patch).
    decoder  : widths of the decoder from deep to shallow, as many as taps.
    n_residual : residual blocks at the bottleneck.
    skips      : the taps but the deepest join the decoder; False leaves them out (the paper's Table 3).
    vit_range  : "pm1" hands [-1, 1] to the encoder (the authors' code), "01" hands [0, 1] (PathoDuet's training).

    `encode` and `decode` are the two halves. The state dict uses the published names.
    """

    def __init__(
        self,
        *,
        window: int = 224,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        taps: Sequence[int] = (3, 6, 9, 12),
        decoder: Sequence[int] = (512, 256, 128, 64),
        n_residual: int = 5,
        skips: bool = True,
        vit_range: Literal["pm1", "01"] = "pm1",
    ) -> None:
        super().__init__()
        # Sizes that do not fit are refused here: below they would show as shapes that do not match.
        if window % patch:
            raise ValueError(f"window {window} is not a multiple of patch {patch}")
        if len(taps) != len(decoder) or 2 ** len(decoder) != patch:
            raise ValueError(
                f"patch {patch} needs {round(math.log2(patch))} taps and decoder widths; found {taps}, {decoder}"
            )
        if list(taps) != sorted(set(taps)) or taps[0] < 1 or taps[-1] > depth:
            raise ValueError(f"taps {tuple(taps)} are not increasing block numbers from 1 to {depth}")
        self.window, self.patch, self.taps, self.vit_range = window, patch, tuple(taps), vit_range
        self.skips = skips
        side = window // patch

        # The encoder.
        self.patch_embed = PatchEmbed(patch, width)
        self.pretext_token = nn.Parameter(torch.empty(1, 1, width))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(side, side, width), requires_grad=False)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))

        # decoderN lifts the tokens of tap N (1 = shallowest) to the stage that joins them; the deepest tap enters below
        n_stages = len(decoder)
        for tap in range(1, n_stages if skips else 1):
            widths = [width, *decoder[: n_stages - tap]]
            self.add_module(f"decoder{tap}", nn.Sequential(*(UpBlock(a, b) for a, b in pairwise(widths))))
        stages: dict[str, nn.Module] = {
            "bottleneck_upsampler": nn.Sequential(
                nn.ConvTranspose2d(width, decoder[0], 2, stride=2),
                *(ResidualBlock(decoder[0], "instance") for _ in range(n_residual)),
            )
        }
        for i in range(n_stages - 1):  # stage joined by tap n_stages - 1 - i; the deepest has one convolution more
            stages[f"decoder{n_stages - 1 - i}_upsampler"] = _decoder_stage(
                (2 if skips else 1) * decoder[i], decoder[i], 3 if i == 0 else 2, decoder[i + 1]
            )
        stages["decoder0_header"] = nn.Sequential(
            ConvBlock(decoder[-1], decoder[-1]), nn.Conv2d(decoder[-1], 3, 1), nn.Tanh()
        )
        self.generated_IHC_decoder = nn.ModuleDict(stages)
        self._init_encoder()

    def _init_encoder(self) -> None:
        """MoCo v3's start: uniform Xavier with q, k, v as three matrices; tokens near zero."""
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                rows, cols = module.weight.shape
                bound = math.sqrt(6 / ((rows // 3 if name.endswith("qkv") else rows) + cols))
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)
        proj = self.patch_embed.proj
        bound = math.sqrt(6 / (3 * self.patch**2 + proj.out_channels))
        nn.init.uniform_(proj.weight, -bound, bound)
        nn.init.zeros_(proj.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.pretext_token, std=1e-6)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Token maps after the tapped blocks, shallow to deep, each (b, width, window / patch, window / patch)."""
        if x.shape[-2:] != (self.window, self.window):
            raise ValueError(f"the encoder takes {self.window} x {self.window} px, found {x.shape[-2]} x {x.shape[-1]}")
        if self.vit_range == "01":
            x = (x + 1) / 2
        tokens = self.patch_embed(x)
        extra = torch.cat([self.pretext_token, self.cls_token], dim=1).expand(len(x), -1, -1)
        tokens = torch.cat([extra, tokens], dim=1) + self.pos_embed
        side, maps = self.window // self.patch, []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in self.taps:
                maps.append(tokens[:, N_EXTRA_TOKENS:].transpose(1, 2).unflatten(2, (side, side)))
            if number == self.taps[-1]:
                break
        return maps

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Image (b, 3, window, window) in [-1, 1] from the token maps of `encode`."""
        stages = self.generated_IHC_decoder
        x = stages["bottleneck_upsampler"](maps[-1])
        for tap in range(len(maps) - 1, 0, -1):
            if self.skips:
                x = torch.cat([self.get_submodule(f"decoder{tap}")(maps[tap - 1]), x], dim=1)
            x = stages[f"decoder{tap}_upsampler"](x)
        out: Tensor = stages["decoder0_header"](x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def encoder_names(network: VitGenerator) -> list[str]:
    """Names of the encoder's tensors: 149 at the published size (5 embeddings, 12 for each of 12 blocks)."""
    return [name for name in network.state_dict() if name.startswith(ENCODER_PREFIXES)]


def load_encoder(network: VitGenerator, path: Path | str) -> int:
    """Number of encoder tensors copied into `network` from a PathoDuet checkpoint (`checkpoint_HE.pth`).

    The file may be flat or come straight from MoCo training (`state_dict` with `module.base_encoder.` names); what it
    holds beside the encoder (final norm, heads, momentum encoder) is left aside.

    Raises WeightsError naming the first encoder tensors that are missing, surplus (as in a deeper encoder) or of another
    shape, and how many match; nothing is copied then.
    """
    given = base_encoder(read_published(path))
    own = network.state_dict()
    wanted = {name: own[name] for name in encoder_names(network)}
    found = {n: t for n, t in given.items() if n in wanted or (n.startswith(ENCODER_PREFIXES) and n not in own)}
    n_good = sum(n in found and found[n].shape == t.shape for n, t in wanted.items())
    check_fit(wanted, found, f"{path} ({n_good} of {len(wanted)} encoder tensors match)")
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(given[name])
    return len(wanted)


def base_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `base_encoder.` without that prefix where a MoCo checkpoint has them, else all as they are."""
    for prefix in ("module.base_encoder.", "base_encoder."):
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if inside:
            return inside
    return dict(tensors)


def window_offsets(size: int, window: int, stride: int) -> list[int]:
    """Start of each window along one axis of `size` px: every `stride` px, the last one flush with the end."""
    if size < window:
        raise ValueError(f"an image of {size} px is smaller than the {window} px window")
    offsets = list(range(0, size - window + 1, stride))
    return offsets if offsets[-1] == size - window else [*offsets, size - window]


def mirrored(n: int, least: int) -> list[int]:
    """Places 0 to n - 1, then back and forth until there are at least `least` of them."""
    there_and_back = [*range(n), *reversed(range(n))]
    return [there_and_back[i % (2 * n)] for i in range(max(n, least))]


class Windowed(nn.Module):
    """Applies a fixed-size network on overlapping windows: float (b, 3, h, w) to the same.

    An image smaller than a window is mirrored at its right and lower border up to one; training wants a whole window.

    network  : maps (n, 3, window, window) to the same.
    stride   : step between windows, px.
    together : train on all windows of an image in one batch (batch norm then sees them together), else on one after
               another as in the authors' code, where batch norm sees each alone. In eval mode it makes no difference.
    merge    : "paste" puts windows down in raster order, later over earlier (the authors' way, with visible seams);
               "blend" averages them under a raised cosine. "auto" pastes in training mode and blends in eval mode.
    """

    weight: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        window: int,
        stride: int,
        together: bool = True,
        merge: Literal["auto", "paste", "blend"] = "auto",
    ) -> None:
        super().__init__()
        if not 0 < stride <= window:
            raise ValueError(f"stride {stride} is not between 1 and the window {window}")
        self.network = network
        self.window, self.stride, self.together, self.merge = window, stride, together, merge
        ramp = torch.sin(math.pi * (torch.arange(window) + 0.5) / window) ** 2
        self.register_buffer("weight", ramp[:, None] * ramp, persistent=False)

    @property
    def facts(self) -> NetworkFacts:
        """Any size from a window up; the norm is that of the network inside."""
        return NetworkFacts(norm_by_layers(self.network), least_px=self.window)

    def forward(self, x: Tensor) -> Tensor:
        # A picture smaller than a window is mirrored until one fits, and cut back.
        height, width = x.shape[-2:]
        if min(height, width) < self.window:
            enough = x[..., mirrored(height, self.window), :][..., mirrored(width, self.window)]
            out: Tensor = self(enough)[..., :height, :width]
            return out
        # Windows over all of it, at once or one by one.
        rows = window_offsets(x.shape[-2], self.window, self.stride)
        cols = window_offsets(x.shape[-1], self.window, self.stride)
        crops = [x[..., r : r + self.window, c : c + self.window] for r in rows for c in cols]
        if len(crops) == 1:
            done_at_once: Tensor = self.network(crops[0])
            return done_at_once
        with self._boxes([(r, c) for r in rows for c in cols]):
            if self.together or not self.training:
                done = list(self.network(torch.cat(crops)).split(len(x)))
            else:
                done = [self.network(crop) for crop in crops]
        paste = self.merge == "paste" or (self.merge == "auto" and self.training)
        return self._paste(done, rows, cols) if paste else self._blend(done, rows, cols, x)

    @contextmanager
    def _boxes(self, places: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Tell layers whose statistics vary over the slide where each window lies, not where its tile does."""
        fields = [m for m in self.network.modules() if isinstance(m, FieldNorm)]
        if not fields:
            yield
            return
        where, tiles = fields[0].where, fields[0].where.boxes
        where.boxes = [(y + r, x + c, self.window, self.window) for r, c in places for y, x, _, _ in tiles]
        try:
            yield
        finally:
            where.boxes = tiles

    def _paste(self, done: Sequence[Tensor], rows: list[int], cols: list[int]) -> Tensor:
        """Each window keeps what no later one covers: up to the start of the next, in both directions."""
        heights = [b - a for a, b in pairwise(rows)] + [self.window]
        widths = [b - a for a, b in pairwise(cols)] + [self.window]
        bands = []
        for i, height in enumerate(heights):
            row = done[i * len(cols) : (i + 1) * len(cols)]
            bands.append(torch.cat([d[..., :height, :width] for d, width in zip(row, widths, strict=True)], dim=-1))
        return torch.cat(bands, dim=-2)

    def _blend(self, done: Sequence[Tensor], rows: list[int], cols: list[int], like: Tensor) -> Tensor:
        total, norm = torch.zeros_like(like), like.new_zeros(like.shape[-2:])
        places = [(r, c) for r in rows for c in cols]
        weight = self.weight.to(like.dtype)
        for (r, c), piece in zip(places, done, strict=True):
            total[..., r : r + self.window, c : c + self.window] += piece * weight
            norm[r : r + self.window, c : c + self.window] += weight
        return total / norm
