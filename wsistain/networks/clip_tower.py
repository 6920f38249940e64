"""CLIP ViT-B/32 (Radford et al. 2021) on plain torch: image tower with taps, text tower, and their published files.

Keys are those of OpenAI's archive. Three layouts are read: that archive (TorchScript), the same tensors converted to
safetensors, and the hub's `openai/clip-vit-base-patch32`, whose names differ and whose queries, keys and values are
stored apart. Both towers are frozen.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.errors import WeightsError
from wsistain.published.places import find_hub_folder
from wsistain.published.tensors import is_torchscript, load_into, read_published, read_torchscript

CLIP_HUB = "openai/clip-vit-base-patch32"
END_OF_TEXT = 49407
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class QuickGelu(nn.Module):
    """x times sigmoid(1.702 x), the activation that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Attention(nn.Module):
    """Self-attention with one matrix for query, key and value."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out_proj(h.transpose(1, 2).reshape(b, n, width))
        return out


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads, causal)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGelu(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads, causal) for _ in range(layers))


class ClipImageTower(nn.Module):
    """CLIP's image tower, frozen; defaults are those of ViT-B/32.

    taps : after how many blocks the token maps are taken.

    `forward` takes float (b, 3, h, w) in [-1, 1] of any size (brought to `image_px` by area means) and returns the
    token maps (b, width, g, g) without the class token, g = image_px / patch, and last the embedding (b, out).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        patch: int = 32,
        image_px: int = 224,
        out: int = 512,
        taps: tuple[int, ...] = (4, 8),
    ) -> None:
        super().__init__()
        self.width, self.out, self.image_px, self.grid, self.taps = width, out, image_px, image_px // patch, taps
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(self.grid**2 + 1, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(width, layers, heads, causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, out) * width**-0.5)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        image = F.interpolate(image * 0.5 + 0.5, size=(self.image_px, self.image_px), mode="area")
        x = self.conv1((image - self.mean) / self.std).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        taps = []
        for index, block in enumerate(self.transformer.resblocks, start=1):
            x = block(x)
            if index in self.taps:
                taps.append(x[:, 1:].transpose(1, 2).reshape(len(x), self.width, self.grid, self.grid))
        return [*taps, self.ln_post(x[:, 0]) @ self.proj]

    @classmethod
    def tiny(cls) -> "ClipImageTower":
        """A random tower of two narrow blocks with the same 7 x 7 maps; the same numbers on every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(width=16, layers=2, heads=2, patch=8, image_px=56, out=8, taps=(1, 2))


class ClipTextTower(nn.Module):
    """CLIP's text tower, frozen; defaults are those of ViT-B/32. Tokens (b, n) to embeddings (b, out)."""

    def __init__(
        self,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        vocabulary: int = 49408,
        n_tokens: int = 77,
        out: int = 512,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(n_tokens, width) * 0.01)
        self.transformer = _Transformer(width, layers, heads, causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out) * width**-0.5)
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embedding at the first end-of-text token of each row, which has the highest id of the vocabulary."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.transformer.resblocks:
            x = block(x)
        end = tokens.argmax(dim=-1)
        out: Tensor = self.ln_final(x)[torch.arange(len(x), device=x.device), end] @ self.text_projection
        return out


_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the hub's folder of CLIP may hold; on `main` of openai/clip-vit-base-patch32 there is only the second."""


def find_clip(source: str) -> Path:
    """CLIP's file for `source` (see `read_clip`); WeightsError with the command that fetches it."""
    if Path(source).is_file():
        return Path(source)
    folder = find_hub_folder(source, *_HUB_FILES)
    return next(folder / name for name in _HUB_FILES if (folder / name).is_file())


def read_clip(source: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of CLIP under OpenAI's names, float32 on the CPU, and where they came from.

    source : OpenAI's archive (.pt), a safetensors file of either naming, a folder of the hub's layout, or a hub id.

    Raises WeightsError when nothing is there or the file is none of these.
    """
    path = find_clip(source)
    tensors = read_torchscript(path) if is_torchscript(path) else read_published(path)
    if any(name.startswith("vision_model.") for name in tensors):
        tensors = from_hub_names(tensors)
    if "visual.conv1.weight" not in tensors:
        raise WeightsError(f"{path} is not CLIP: it holds no visual.conv1.weight")
    return tensors, str(path)


_HUB_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_HUB_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "logit_scale": "logit_scale",
}


def from_hub_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The hub's CLIP tensors under OpenAI's names: queries, keys and values joined, projections turned.

    Position counters are dropped; a name of no known form raises WeightsError.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        if name in _HUB_NAMES:
            found[_HUB_NAMES[name]] = tensor
        elif name == "visual_projection.weight":
            found["visual.proj"] = tensor.t()
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.t()
        elif ".encoder.layers." in name:
            tower, _, rest = name.partition(".encoder.layers.")
            number, _, leaf = rest.partition(".")
            block = f"{'visual.' if tower == 'vision_model' else ''}transformer.resblocks.{number}"
            part, _, kind = leaf.rpartition(".")
            if part in _HUB_BLOCK:
                found[f"{block}.{_HUB_BLOCK[part]}.{kind}"] = tensor
            elif part == "self_attn.q_proj":
                # OpenAI has the three in one matrix: made when the first comes, the others are passed over.
                parts = [tensors[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                raise WeightsError(f"{name} is not a tensor of CLIP as the hub stores it")
        else:
            raise WeightsError(f"{name} is not a tensor of CLIP as the hub stores it")
    return found


def load_image_tower(source: str, tower: ClipImageTower | None = None) -> ClipImageTower:
    """The frozen image tower with the weights of `source` (as in `read_clip`), ViT-B/32 unless a `tower` is given."""
    tensors, where = read_clip(source)
    tower = ClipImageTower() if tower is None else tower
    visual = {name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.")}
    load_into(tower, visual, where)
    return tower


_TEXT_ONLY = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def load_text_tower(source: str, tower: ClipTextTower | None = None) -> ClipTextTower:
    """The frozen text tower with the weights of `source` (as in `read_clip`), ViT-B/32 unless a `tower` is given."""
    tensors, where = read_clip(source)
    tower = ClipTextTower() if tower is None else tower
    load_into(tower, {name: t for name, t in tensors.items() if name.startswith(_TEXT_ONLY)}, where)
    return tower


def cosine_to(image_embedding: Tensor, text_embedding: Tensor) -> Tensor:
    """Mean cosine of image embeddings (b, d) with one text's embedding (1, d): a scalar, -1 to 1."""
    return F.cosine_similarity(image_embedding, text_embedding.expand_as(image_embedding), dim=-1).mean()


def pad_tokens(ids: list[int], n_tokens: int = 77) -> Tensor:
    """Token ids (1, n_tokens) as CLIP's text tower wants them: cut after the end of the text, then zeros.

    Raises ValueError when the end of the text is not among the ids.
    """
    if END_OF_TEXT not in ids:
        raise ValueError("the ids hold no end of text")
    ids = ids[: ids.index(END_OF_TEXT) + 1]
    if len(ids) > n_tokens:
        raise ValueError(f"{len(ids)} tokens; wanted {n_tokens} or fewer")
    return torch.tensor([ids + [0] * (n_tokens - len(ids))])
