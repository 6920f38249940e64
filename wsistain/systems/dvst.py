"""D-VST: a diffusion transformer that stains H&E in the tone of a reference picture. It only stains here.

Yang et al., NeurIPS 2025 (yangshurong/D-VST). Weights are imported ('wsistain weights import HE2IHC.ckpt --as dvst
--reference IHC.png'), never trained. PixArt-alpha's transformer with four input channels more, which a small convolutional
network makes of the H&E; it looks at CLIP's tokens of a blurred picture of the wanted stain instead of at a text. Those
tokens are computed once, when the weights are imported, and are part of the file.

25 steps of DPM-Solver++ (second order, from noise) predict the noise in Stable Diffusion's latent; each step is guided
twice: u + 1.5 (h - u) + 1.5 (t - h), with u seeing nothing, h the H&E, t the H&E and the tone.

Departures: noise belongs to places on the slide, so that tiles that overlap agree; a larger picture is led as one whose
windows are averaged at every step under a raised cosine, on a fixed grid (the authors draw some of the windows at random
where there is much detail, and average them plainly). The file does not say what it stains and at which scale.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from wsistain.config import Strict, validate
from wsistain.diffusion.samplers import position_noise
from wsistain.diffusion.windows import Windows
from wsistain.errors import ConfigError
from wsistain.networks.facts import NetworkFacts
from wsistain.networks.sd_turbo import PUBLISHED_VAE, require_diffusers
from wsistain.networks.vit import mirrored

SHRINK = 8
TONE_PX = 64
"""Edge of the reference picture that the authors hand to CLIP."""

_PIXART: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 8,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1024,
    "attention_bias": True,
    "sample_size": 64,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": None,
}
_TINY_PIXART = _PIXART | {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "cross_attention_dim": 16,
    "sample_size": 8,
}
_TINY_VAE = PUBLISHED_VAE | {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "published": (PUBLISHED_VAE, _PIXART, 257),
    "tiny": (_TINY_VAE, _TINY_PIXART, 257),
}
"""Size to the VAE's and the transformer's configuration, and the number of CLIP's tokens. "tiny" is for tests."""


class Sampling(Strict):
    """How noise becomes a picture."""

    n_steps: int = Field(25, ge=2, le=1000, description="steps from noise to IHC")
    he_scale: float = Field(1.5, ge=0, le=20, description="guidance by the H&E; 1 with tone_scale 1: no guidance")
    tone_scale: float = Field(1.5, ge=0, le=20, description="guidance by the reference's tone")
    stride: int = Field(384, ge=64, le=512, multiple_of=64, description="step between windows, px")
    window_batch: int = Field(1, ge=1, le=64)
    seed: int = 0


class Options(Strict):
    """What a weights header says of the network."""

    size: Literal["published", "tiny"] = "published"
    window: int = Field(512, ge=64, le=1024, multiple_of=64)
    sampling: Sampling = Sampling()


class HeHint(nn.Module):
    """Four channels at an eighth of the size, (b, 4, h/8, w/8), of the H&E in [0, 1], under the published names."""

    def __init__(self) -> None:
        super().__init__()
        stages = [(3, 3, 16, 4, 2), (16, 16, 32, 4, 2), (32, 32, 64, 4, 2), (64, 64, 128, 3, 1)]
        self.spatial_conv_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1), nn.SiLU(), nn.Conv2d(b, c, kernel, stride, padding=1), nn.SiLU()
            )
            for a, b, c, kernel, stride in stages
        )
        self.spatial_conv_out = nn.Conv2d(128, 4, 1)

    def forward(self, he: Tensor) -> Tensor:
        x = 2 * he - 1
        for layers in self.spatial_conv_layers:
            x = layers(x)
        out: Tensor = self.spatial_conv_out(x)
        return out


class DvstStainer(nn.Module):
    """Stains H&E, float (b, 3, h, w) in [-1, 1] to the same, in the tone of the reference that was imported."""

    tone: Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        diffusers = require_diffusers()
        vae, transformer, n_tokens = SIZES[options.size]
        self.options, self.seed = options, options.sampling.seed
        self.transformer = diffusers.PixArtTransformer2DModel(**transformer)
        self.hint = HeHint()
        self.vae = diffusers.AutoencoderKL(**vae)
        self.register_buffer("tone", torch.zeros(1, n_tokens, transformer["cross_attention_dim"]))

    @property
    def facts(self) -> NetworkFacts:
        """Group norms and attention see a window."""
        return NetworkFacts("tile", size_multiple=SHRINK, tile_px=self.options.window, takes_positions=True)

    @torch.no_grad()
    def forward(self, x: Tensor, corners: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Stained tiles; `corners` are the (y, x) of their first pixels on the slide (all at the origin by default)."""
        corners = [(0, 0)] * len(x) if corners is None else list(corners)
        height, width, window = *x.shape[-2:], self.options.window
        whole = x[..., mirrored(height, window), :][..., mirrored(width, window)]
        return torch.cat([self._one(whole[i : i + 1], corners[i])[..., :height, :width] for i in range(len(x))])

    def _one(self, he: Tensor, corner: tuple[int, int]) -> Tensor:
        """One stained picture (1, 3, h, w), h and w at least a window."""
        sampling, edge = self.options.sampling, self.options.window
        places = [(corner[0] // SHRINK, corner[1] // SHRINK)]
        h, w = he.shape[-2] // SHRINK, he.shape[-1] // SHRINK
        windows = Windows(places, h, w, edge // SHRINK, sampling.stride // SHRINK, sampling.window_batch)
        light = (he + 1) / 2
        parts = [light[:, :, SHRINK * y :, SHRINK * x :][..., :edge, :edge] for _, y, x in windows.places()]
        hints = torch.split(torch.cat([self.hint(part) for part in parts]), sampling.window_batch)
        blind = self.hint(torch.zeros_like(parts[0]))

        scheduler = _scheduler(sampling.n_steps)
        y = position_noise(places, h, w, seed=self.seed, stream=0, channels=4, device=he.device)
        for t in scheduler.timesteps:
            at = iter(hints)
            noise = windows.fuse(lambda part, t=t, at=at: self._noise(part, next(at), blind, t), y)
            y = scheduler.step(noise, t, y).prev_sample
        stained: Tensor = self.vae.decode(y / self.vae.config.scaling_factor).sample
        return stained.clamp(-1, 1)

    def _noise(self, part: Tensor, hint: Tensor, blind: Tensor, t: Tensor) -> Tensor:
        """The noise in latent windows, guided by their hints and by the tone."""
        sampling, n = self.options.sampling, len(part)
        tone = self.tone.expand(n, -1, -1)
        none = torch.zeros_like(tone)
        seen = torch.cat([blind.expand(n, -1, -1, -1), hint, hint])
        made = self.transformer(
            torch.cat([part.repeat(3, 1, 1, 1), seen], dim=1),
            encoder_hidden_states=torch.cat([none, none, tone]),
            timestep=t.to(part.device).expand(3 * n),
        ).sample
        nothing, by_he, by_both = made[:, :4].chunk(3)
        by_hint, by_tone = by_he - nothing, by_both - by_he
        guided: Tensor = nothing + sampling.he_scale * by_hint + sampling.tone_scale * by_tone
        return guided


def _scheduler(n_steps: int) -> Any:
    """DPM-Solver++ as the authors set it, at its first step."""
    scheduler = require_diffusers().DPMSolverMultistepScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2, algorithm_type="dpmsolver++"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it hands tensors to NumPy in the old way
        scheduler.set_timesteps(n_steps)
    return scheduler


def tone_picture(reference: Tensor, side: int = 224) -> Tensor:
    """What CLIP is shown of a reference IHC, float (1, 3, h, w) in [0, 1]: (1, 3, side, side), normalised.

    Blurred over 51 px, shrunk to 64 px by nearest neighbours as in the authors' code, enlarged, normalised.
    """
    n, sigma = 51, 0.3 * ((51 - 1) * 0.5 - 1) + 0.8  # what OpenCV takes for a kernel of 51
    bell = torch.exp(-0.5 * ((torch.arange(n) - n // 2) / sigma) ** 2)
    bell = (bell / bell.sum()).to(reference)
    padded = F.pad(reference, (n // 2,) * 4, mode="reflect")
    rows = F.conv2d(padded, bell.view(1, 1, n, 1).expand(3, -1, -1, -1), groups=3)
    blurred = F.conv2d(rows, bell.view(1, 1, 1, n).expand(3, -1, -1, -1), groups=3)
    small = F.interpolate(blurred, size=(TONE_PX, TONE_PX), mode="nearest")
    large = F.interpolate(small, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1).to(reference)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1).to(reference)
    return (large - mean) / std


def check_sampling(options: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """ConfigError where a network of header `options` cannot stain with `sampling` in place of its own options."""
    own = validate(Options, dict(options), "generator options")
    changed = validate(Sampling, {**own.sampling.model_dump(), **sampling}, "sampling")
    if changed.stride > own.window:
        raise ConfigError(f"sampling: a stride of {changed.stride} px leaves gaps between windows of {own.window} px")


def generator_network(options: dict[str, Any]) -> DvstStainer:
    """The staining network of a weights header; ConfigError on options of another form."""
    return DvstStainer(validate(Options, dict(options), "generator options"))
