"""UNIStainNet's generator: a U-Net on the H&E whose decoder is told what UNI sees and which stain is wanted.

Numbers and key names: facevoid/UNIStainNet (arXiv:2603.12716), the form of its published weights: 32 x 32 tokens of UNI,
the edge encoder "v2", the H&E joined at the output. What the published networks hold and never use is named in
`UNUSED_PREFIXES` and left out. Written from the description of the layers; every modulated norm is
(s + f) * norm(x) + (s' + f'), with s of UNI's map at each place (SPADE) and f of the stain (FiLM).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.networks.vit import TransformerBlock

UNUSED_PREFIXES = ("uni_processor.down_16.",)
"""Of tensors in published generators that no forward pass asks for."""

UNI_WIDTH = 1024
_CROP_PX, _CROP_TOKENS, _CROPS = 224, 14, 4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _down(n_in: int, n_out: int, *, norm: bool) -> nn.Sequential:
    """Half the size: convolution 4 x 4, then instance norm where asked for, then leaky ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1)]
    if norm:
        layers.append(nn.InstanceNorm2d(n_out))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


class SpadeFilm(nn.Module):
    """Instance norm of (b, channels, h, w), scaled and shifted by UNI's map at each place and by the stain."""

    def __init__(self, channels: int, map_channels: int, class_dim: int) -> None:
        super().__init__()
        hidden = min(128, channels)
        self.norm = nn.InstanceNorm2d(channels)
        self.spade_shared = nn.Sequential(nn.Conv2d(map_channels, hidden, 3, padding=1), nn.LeakyReLU(0.2))
        self.spade_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.spade_beta = nn.Conv2d(hidden, channels, 3, padding=1)
        self.film_gamma = nn.Linear(class_dim, channels)
        self.film_beta = nn.Linear(class_dim, channels)

    def forward(self, x: Tensor, uni_map: Tensor, stain: Tensor) -> Tensor:
        shared = self.spade_shared(uni_map)
        scale = self.spade_gamma(shared) + self.film_gamma(stain)[..., None, None]
        shift = self.spade_beta(shared) + self.film_beta(stain)[..., None, None]
        out: Tensor = scale * self.norm(x) + shift
        return out


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.block(x), 0.2)


class _PlaceAttention(nn.Module):
    """One head of attention between all places of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj(seen)
        return out


class EdgeMaps(nn.Module):
    """Features of colour and Sobel edges, each scale from the shrunk picture itself.

    Takes float (b, 3, side, side) in [-1, 1]; gives maps of side / 1, 2, 4, 8, 16, finest first.
    """

    sobel_x: Tensor
    sobel_y: Tensor

    def __init__(self, base: int) -> None:
        super().__init__()
        ramp, smooth = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("sobel_x", torch.outer(smooth, ramp)[None, None])
        self.register_buffer("sobel_y", torch.outer(ramp, smooth)[None, None])
        self.widths = (base, base, 2 * base, 4 * base, 4 * base)
        for name, width in zip(self._names(), self.widths, strict=True):
            layers = [nn.Conv2d(5, width, 3, padding=1), nn.LeakyReLU(0.2)]
            self.add_module(name, nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)))

    @staticmethod
    def _names() -> list[str]:
        return [f"scale_{512 // 2**k}" for k in range(5)]  # named after the maps of a 512 px picture, at any size

    def forward(self, he: Tensor) -> list[Tensor]:
        light, maps = (he + 1) / 2, []
        for k, name in enumerate(self._names()):
            side = he.shape[-1] // 2**k
            small = light if k == 0 else F.interpolate(light, size=side, mode="bilinear", align_corners=False)
            gray = small.mean(1, keepdim=True)
            edges = [F.conv2d(gray, kernel, padding=1) for kernel in (self.sobel_x, self.sobel_y)]
            maps.append(self.get_submodule(name)(torch.cat([small, *edges], dim=1)))
        return maps


class UniMaps(nn.Module):
    """UNI's tokens (b, n, n, 1024) as maps for the decoder's levels: n, 2 n, 4 n, 8 n wide, deepest first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(UNI_WIDTH, width), nn.LeakyReLU(0.2))
        self.proc_32 = nn.Sequential(*self._normed(nn.Conv2d(width, width, 3, padding=1), width), *self._conv(width))
        for name, k in (("up_64", 2), ("up_128", 4), ("up_256", 8)):
            n_out = width // k
            up = nn.ConvTranspose2d(2 * n_out, n_out, 4, stride=2, padding=1)
            self.add_module(name, nn.Sequential(*self._normed(up, n_out), *self._conv(n_out)))

    @staticmethod
    def _normed(layer: nn.Module, channels: int) -> list[nn.Module]:
        return [layer, nn.InstanceNorm2d(channels), nn.LeakyReLU(0.2)]

    def _conv(self, channels: int) -> list[nn.Module]:
        return self._normed(nn.Conv2d(channels, channels, 3, padding=1), channels)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        x = self.proj(tokens).permute(0, 3, 1, 2)
        maps = [self.proc_32(x) + x]
        for name in ("up_64", "up_128", "up_256"):
            maps.append(self.get_submodule(name)(maps[-1]))
        return maps


class SpadeUNet(nn.Module):
    """The generator: H&E float (b, 3, side, side) in [-1, 1], UNI's tokens and the stain to IHC like the H&E.

    width     : channels of the first level; 64 as published. Its deepest levels have eight times as many.
    n_classes : rows of the table of stains.
    large     : the form for 1,024 px: a level more outside, edges and tokens as at half the size.

    The state dict uses the published names.
    """

    def __init__(self, *, width: int = 64, n_classes: int = 5, class_dim: int = 64, large: bool = False) -> None:
        super().__init__()
        self.large = large
        w = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.class_embed = nn.Embedding(n_classes, class_dim)
        self.uni_processor = UniMaps(w[3])
        self.edge_encoder = EdgeMaps(width // 2)
        edge = self.edge_encoder.widths
        if large:
            self.enc0 = _down(3, width // 2, norm=False)
        for k, (n_in, n_out) in enumerate(zip([width // 2 if large else 3, *w[:-1]], w, strict=True), start=1):
            self.add_module(f"enc{k}", _down(n_in, n_out, norm=k > 1))
        self.bottleneck = nn.Sequential(_Residual(w[4]), _PlaceAttention(w[4]), _Residual(w[4]))

        # Level k of the decoder joins what comes from below, the encoder's level k - 1 and the edges of that size.
        below = w[4]
        for k in (5, 4, 3, 2):
            n_out = w[k - 2]
            self.add_module(f"dec{k}_conv", nn.Conv2d(below + n_out + edge[k - 1], n_out, 3, padding=1))
            self.add_module(f"dec{k}_spade", SpadeFilm(n_out, n_out, class_dim))
            below = n_out
        if large:
            joined = nn.Conv2d(below + width // 2 + edge[0], width, 3, padding=1)
            self.dec1_conv = nn.Sequential(joined, nn.InstanceNorm2d(width), nn.LeakyReLU(0.2))
        n_in = below + 3 + (0 if large else edge[0])
        self.output = nn.Sequential(
            nn.Conv2d(n_in, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, he: Tensor, tokens: Tensor, label: int) -> Tensor:
        """IHC of the stain in row `label`; `tokens` are those of `UniTower.grid`, (b, n, n, 1024)."""
        uni_maps = self.uni_processor(tokens)
        stain = self.class_embed(torch.full((len(he),), label, device=he.device))
        side = he.shape[-1] // 2
        small = F.interpolate(he, size=side, mode="bilinear", align_corners=False) if self.large else he
        edges = self.edge_encoder(small)

        # Down, keeping each level.
        kept = [self.enc0(he)] if self.large else []
        x = kept[0] if self.large else he
        levels = []
        for k in range(1, 6):
            x = self.get_submodule(f"enc{k}")(x)
            levels.append(x)
        x = self.bottleneck(x)

        # Up again.
        for k, uni_map in zip((5, 4, 3, 2), uni_maps, strict=True):
            x = self._joined(f"dec{k}_conv", x, [levels[k - 2], edges[k - 1]])
            x = F.leaky_relu(self.get_submodule(f"dec{k}_spade")(x, uni_map, stain), 0.2)
        if self.large:
            x = self._joined("dec1_conv", x, [kept[0], edges[0]])
        return self._joined("output", x, [he] if self.large else [he, edges[0]])

    def _joined(self, name: str, x: Tensor, beside: Sequence[Tensor]) -> Tensor:
        """The layers called `name` on x at twice its size with the maps `beside` it."""
        twice = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.get_submodule(name)(torch.cat([twice, *beside], dim=1))
        return out


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class ScaledBlock(TransformerBlock):
    """A transformer block whose two branches are scaled channel by channel (LayerScale)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1.gamma * self.attn(self.norm1(x))
        out: Tensor = x + self.ls2.gamma * self.mlp(self.norm2(x))
        return out


class UniTower(nn.Module):
    """UNI (Chen et al. 2024, MahmoodLab/uni): a ViT-L/16 with LayerScale, under the names of its published file.

    depth, heads : 24 and 16 as published; the width is UNI's, since the generator asks for it.
    """

    def __init__(self, depth: int = 24, heads: int = 16) -> None:
        super().__init__()
        width, patch = UNI_WIDTH, _CROP_PX // _CROP_TOKENS
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _CROP_TOKENS**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.ModuleList(ScaledBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, crops: Tensor) -> Tensor:
        """Tokens (n, 14, 14, 1024) of normalised crops (n, 3, 224, 224), the class token left out."""
        x = self.patch_embed["proj"](crops).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)[:, 1:].unflatten(1, (_CROP_TOKENS, _CROP_TOKENS))
        return tokens

    def grid(self, he: Tensor, n: int) -> Tensor:
        """Tokens (b, n, n, 1024) of whole pictures (b, 3, side, side) in [-1, 1].

        The picture is cut into 4 x 4 parts, each enlarged to 224 px; their tokens, 56 x 56 together, are averaged to n x n.
        """
        part = he.shape[-1] // _CROPS
        light = ((he + 1) / 2).clamp(0, 1)
        crops = light.unfold(2, part, part).unfold(3, part, part).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        crops = F.interpolate(crops, size=(_CROP_PX, _CROP_PX), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(v, device=he.device, dtype=he.dtype).view(3, 1, 1) for v in (_MEAN, _STD))
        tokens: Tensor = self((crops - mean) / std)
        whole = (
            tokens.reshape(len(he), _CROPS, _CROPS, *tokens.shape[1:])
            .permute(0, 5, 1, 3, 2, 4)
            .flatten(4)
            .flatten(2, 3)
        )
        return F.adaptive_avg_pool2d(whole, n).permute(0, 2, 3, 1)
