"""HistDiST: Stable Diffusion 1.5 taught to turn the noise behind an H&E into IHC. It only stains here.

Großkopf et al. (ErikGro/HistDiST). Weights are imported ('wsistain weights import FOLDER --as histdist'), never trained.
The H&E's latent is led up to noise by 100 deterministic steps under the text "H&E" (DDIM inversion), brought to mean 0 and
deviation 1 in each channel, and led down again by 100 steps that see the H&E's latent and Phikon's tokens of it, with
eta = 0.6 - 0.4 cos(pi s), s from 0 to 1 over the steps, held between 0 and 1. The U-Net predicts v; the noise levels are
rescaled so that the last has no signal, and steps trail.

Departures: noise belongs to places on the slide, so that tiles that overlap agree; a picture larger than 512 px is led
as one whose windows are averaged at every step; its deviation is taken over all of it. Phikon is looked up on this
machine (owkin/phikon on the hub, its own licence: not for commercial use) and sees the windows of the H&E at 224 px,
resized by torch's antialiased filter where the authors use Pillow's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from wsistain.config import Strict, validate
from wsistain.diffusion.samplers import position_noise
from wsistain.diffusion.windows import Windows
from wsistain.errors import ConfigError, WeightsError
from wsistain.networks.facts import NetworkFacts
from wsistain.networks.sd_turbo import PUBLISHED_UNET, PUBLISHED_VAE, build_parts, require_diffusers
from wsistain.networks.vit import mirrored
from wsistain.published.places import find_hub_folder
from wsistain.published.tensors import load_into

PHIKON_HUB = "owkin/phikon"
LATENT_SCALE, SHRINK = 0.18215, 8
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

UNET = PUBLISHED_UNET | {
    "in_channels": 8,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "use_linear_projection": False,
}
"""Stable Diffusion 1.5's U-Net with four channels more for the H&E."""

_TINY_VAE = PUBLISHED_VAE | {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
_TINY_UNET = UNET | {
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "published": (PUBLISHED_VAE, UNET, 77),
    "tiny": (_TINY_VAE, _TINY_UNET, 77),
}
"""Size to the VAE's and the U-Net's configuration, and the number of a text's tokens. "tiny" is for tests."""


class Sampling(Strict):
    """How the picture is led up to noise and down again."""

    up: int = Field(100, ge=2, le=1000, description="steps from the H&E to noise")
    down: int = Field(100, ge=2, le=1000, description="steps from noise to IHC")
    eta: Literal["cosine", "none"] = Field("cosine", description="share of new noise in the steps down; none: no noise")
    stride: int = Field(384, ge=64, le=512, multiple_of=64, description="step between windows, px")
    window_batch: int = Field(1, ge=1, le=64)
    seed: int = 0


class Options(Strict):
    """What a weights header says of the network.

    beta_first, beta_last : noise levels (scaled linear) before they are rescaled, of the folder's scheduler.
    alpha_to_one          : the level before the first step is clean, where the scheduler says so.
    """

    size: Literal["published", "tiny"] = "published"
    window: int = Field(512, ge=64, le=1024, multiple_of=64)
    chain: int = Field(1000, ge=10, le=4000)
    beta_first: float = Field(0.00085, gt=0, lt=1)
    beta_last: float = Field(0.012, gt=0, lt=1)
    alpha_to_one: bool = False
    sampling: Sampling = Sampling()


def alphas(options: Options) -> Tensor:
    """Share of signal after each step of the chain, float64 (chain,), the last 0 (zero terminal SNR, Lin et al. 2024)."""
    first, last = math.sqrt(options.beta_first), math.sqrt(options.beta_last)
    # In float32 first, as diffusers computes them: these are the numbers that the U-Net was trained with.
    betas = torch.linspace(first, last, options.chain, dtype=torch.float32) ** 2
    root = torch.cumprod(1 - betas, 0).sqrt().double()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root.square()


def trailing(chain: int, n_steps: int) -> list[int]:
    """The `n_steps` steps of a chain that trail to its end, ascending: chain - 1 is the last of them."""
    return [round(chain * (n_steps - k) / n_steps) - 1 for k in range(n_steps)][::-1]


class HistDistStainer(nn.Module):
    """Stains H&E, float (b, 3, h, w) in [-1, 1] to the same."""

    prompt: Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        vae, unet, n_tokens = SIZES[options.size]
        self.options, self.seed = options, options.sampling.seed
        self.unet, self.vae = build_parts(vae, unet)
        self.register_buffer("prompt", torch.zeros(1, n_tokens, unet["cross_attention_dim"]))
        self.phikon = load_phikon(unet["cross_attention_dim"])

    @property
    def facts(self) -> NetworkFacts:
        """Group norms and attention see a window."""
        return NetworkFacts("tile", size_multiple=SHRINK, tile_px=self.options.window, takes_positions=True)

    def held_state(self) -> dict[str, Tensor]:
        """What a weights file holds: all but Phikon."""
        return {n: t for n, t in self.state_dict().items() if not n.startswith("phikon.")}

    def load_trained(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take over all but Phikon; WeightsError naming `where` and what does not fit."""
        own = {n: t for n, t in self.state_dict().items() if n.startswith("phikon.")}
        load_into(self, {**tensors, **own}, where, may_lack=())

    @torch.no_grad()
    def forward(self, x: Tensor, corners: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Stained tiles; `corners` are the (y, x) of their first pixels on the slide (all at the origin by default)."""
        corners = [(0, 0)] * len(x) if corners is None else list(corners)
        height, width, window = *x.shape[-2:], self.options.window
        whole = x[..., mirrored(height, window), :][..., mirrored(width, window)]
        return torch.cat([self._one(whole[i : i + 1], corners[i])[..., :height, :width] for i in range(len(x))])

    def _one(self, he: Tensor, corner: tuple[int, int]) -> Tensor:
        """One stained picture (1, 3, h, w), h and w at least a window."""
        # In latent pixels, which lie on a grid of 8 px.
        sampling, small = self.options.sampling, self.options.window // SHRINK
        places = [(corner[0] // SHRINK, corner[1] // SHRINK)]
        h, w = he.shape[-2] // SHRINK, he.shape[-1] // SHRINK
        windows = Windows(places, h, w, small, sampling.stride // SHRINK, sampling.window_batch)

        def noise(stream: int) -> Tensor:
            return position_noise(places, h, w, seed=self.seed, stream=stream, channels=4, device=he.device)

        # Up: the H&E as noise.
        posterior = self.vae.encode(he).latent_dist
        mean, std = posterior.mean, posterior.std
        levels = alphas(self.options).to(he.device)
        before = 1.0 if self.options.alpha_to_one else float(levels[0])
        y = (mean + std * noise(0)) * LATENT_SCALE
        up = trailing(self.options.chain, sampling.up)
        nothing, text = torch.zeros_like(y), self.prompt

        for t in up:
            earlier = t - self.options.chain // sampling.up
            low = float(levels[earlier]) if earlier >= 0 else before
            v = windows.fuse(lambda part, none, t=t: self._v(part, none, t, text), y, nothing)
            y = _ddim(y, v, low, float(levels[t]))
        y = (y - y.mean((2, 3), keepdim=True)) / y.std((2, 3), keepdim=True)

        # Down: the noise as IHC, seeing the H&E's latent, and Phikon's tokens of each window.
        tokens = self._tokens(he, windows)
        down = trailing(self.options.chain, sampling.down)[::-1]
        for k, t in enumerate(down):
            at = iter(torch.split(tokens, sampling.window_batch))
            v = windows.fuse(lambda part, seen, t=t, at=at: self._v(part, seen, t, next(at)), y, mean)
            to = t - self.options.chain // sampling.down
            high, low = float(levels[t]), float(levels[to]) if to >= 0 else before
            eta = _eta(k / (len(down) - 1)) if sampling.eta == "cosine" else 0.0
            spread = eta * math.sqrt((1 - low) / (1 - high) * (1 - high / low))
            y = _ddim(y, v, high, low, spread)
            if spread:
                y = y + spread * noise(1 + k)
        light: Tensor = self.vae.decode(y / LATENT_SCALE).sample
        return light.clamp(-1, 1)

    def _v(self, part: Tensor, beside: Tensor, t: int, text: Tensor) -> Tensor:
        """The U-Net's v of windows, the H&E's latent (or zeros) beside them."""
        at = torch.full((len(part),), t, device=part.device)
        context = text.expand(len(part), -1, -1)
        v: Tensor = self.unet(torch.cat([part, beside], dim=1), at, encoder_hidden_states=context).sample
        return v

    def _tokens(self, he: Tensor, windows: Windows) -> Tensor:
        """Phikon's tokens of every window in the order of `windows`: (n, 197, 768)."""
        edge = self.options.window
        light = (he + 1) / 2
        parts = [light[0, :, 8 * y : 8 * y + edge, 8 * x : 8 * x + edge] for _, y, x in windows.places()]
        side = self.phikon.config.image_size
        crops = F.interpolate(torch.stack(parts), size=(side, side), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, device=he.device, dtype=he.dtype).view(3, 1, 1) for v in (_MEAN, _STD))
        tokens: Tensor = self.phikon((crops - mean) / std).last_hidden_state
        return tokens


def _eta(share: float) -> float:
    return min(max(0.6 - 0.4 * math.cos(math.pi * share), 0.0), 1.0)


def _ddim(y: Tensor, v: Tensor, at: float, to: float, spread: float = 0.0) -> Tensor:
    """The state at signal `to` from that at signal `at` and its v, less the share `spread` that new noise will fill.

    y = sqrt(at) x + sqrt(1 - at) e and v = sqrt(at) e - sqrt(1 - at) x give x and e (Salimans and Ho 2022); the state at
    another level is made of the same two (Song et al. 2021, eq. 12).
    """
    clean = math.sqrt(at) * y - math.sqrt(1 - at) * v
    noise = math.sqrt(at) * v + math.sqrt(1 - at) * y
    return math.sqrt(to) * clean + math.sqrt(max(1 - to - spread**2, 0.0)) * noise


def load_phikon(width: int) -> Any:
    """Phikon from this machine (transformers' `ViTModel`), its tokens `width` wide; WeightsError where it is not here."""
    require_diffusers()
    import transformers

    folder = find_hub_folder(PHIKON_HUB, "config.json")
    try:
        kind: Any = transformers.ViTModel
        tower, report = kind.from_pretrained(
            folder,
            add_pooling_layer=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder} is not a readable Phikon: {str(error).strip().splitlines()[0]}") from None
    if report["missing_keys"] or tower.config.hidden_size != width:
        lacking = (
            ", ".join(sorted(report["missing_keys"])[:3]) or f"tokens of {tower.config.hidden_size}, wanted {width}"
        )
        raise WeightsError(f"{folder} is not Phikon: {lacking}")
    return tower.eval()


def check_sampling(options: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """ConfigError where a network of header `options` cannot stain with `sampling` in place of its own options."""
    own = validate(Options, dict(options), "generator options")
    changed = validate(Sampling, {**own.sampling.model_dump(), **sampling}, "sampling")
    if max(changed.up, changed.down) > own.chain:
        raise ConfigError(f"sampling: more steps than the chain's {own.chain}")


def generator_network(options: dict[str, Any]) -> HistDistStainer:
    """The staining network of a weights header; ConfigError on options of another form, WeightsError without Phikon."""
    return HistDistStainer(validate(Options, dict(options), "generator options"))
