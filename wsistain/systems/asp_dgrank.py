"""ASP-DGRank: ASP with attention-guided patches and a discriminator that sees diffused images. Equation numbers are
the paper's.

Two changes to ASP (Li et al. 2023): the supervised patches are drawn where the encoder's features of the real IHC are
strong (eq. 1-3), and the discriminator judges forward-diffused images, told their step, on a chain whose length adapts to
how sure it is (eq. 4-7; after Diffusion-GAN, Wang et al. 2023, arXiv:2206.02262).

There is no published code, so there is no `preset: official`. What the paper leaves open, and what is done here:
- query is the virtual patch, key the real one, without gradient, as in ASP (the paper writes them the other way round);
- draws are without replacement (a patch drawn twice would be its own negative), scores detached, each image its own;
- the first tap is the padded picture itself, where attention is brightness and prefers glass to stain (measured in
  docs/systems/asp_dgrank.md): positions are drawn uniformly there; `attention_layers: all` is the paper's wording;
- the chain's pace, `chain_every`, `images_to_full` and `chain_table`, is Diffusion-GAN's; a short run needs its own;
- L_GP is ASP's weighted mean; `gaussian_pyramid: octaves` is the sum of PyramidP2P that the paper cites;
- noise is scaled by sigma = 0.05, which the paper lists and its eq. 5 leaves out;
- half of the images that the discriminator sees are clean (`clean_fraction`), as in Diffusion-GAN; 0 is the paper's
  wording. Steps of real and virtual images are drawn independently, for each image;
- the chain's rule looks at the sign of the logits of real images. Least-squares logits lie around 0.5, so that is
  subtracted (`logit_centre`; 0 is Diffusion-GAN's rule for logistic losses);
- the step reaches the discriminator as a number added to each channel after the norm (`time_conditioning`);
- spectral norm as in ASP;
- without pairs the two supervised terms make no sense and are left out unless `keep_pair_losses`.
`sampling: uniform` and `diffuse: false` switch the two changes off (Table 5).
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsistain.config import Strict, preset_of
from wsistain.diffusion.sde import VPSchedule, linear_schedule, priority_steps
from wsistain.errors import ConfigError
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.contrastive import adaptive_weights, layer_mean, patch_nce, patch_nce_layers
from wsistain.losses.gaussian_pyramid import gaussian_pyramid_l1, octave_l1
from wsistain.networks.layers import folded_state
from wsistain.networks.patch_head import PatchHead, attended_positions, uniform_positions
from wsistain.networks.patchgan import PatchDiscriminator, TimeConditioning
from wsistain.networks.resnet import CUT_TAPS, ResnetGenerator
from wsistain.numerics import in_float32
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum
from wsistain.systems.resnet_family import ChanceWatch, adam, check_taps, resnet_generator

generator_network = resnet_generator

Pyramid = Literal["asp", "octaves"]


class Weights(Strict):
    """Weights of the generator's terms (sec. 4.2)."""

    gan: float = 1.0
    nce: float = 10.0
    a2sp: float = 10.0
    gp: float = 10.0


class Config(SystemConfig):
    """Values of the paper (sec. 4.2), else of ASP and Diffusion-GAN."""

    n_blocks: int = Field(6, ge=1, le=64)
    ngf: int = Field(64, ge=1, le=1024)
    d_layers: int = Field(5, ge=1, le=6)
    ndf: int = Field(32, ge=1, le=1024)
    spectral: bool = Field(True, description="spectral norm in generator and discriminator")
    taps: tuple[int, ...] = Field(CUT_TAPS, description="generator layers that are compared")
    head_width: int = Field(256, ge=1)
    n_patches: int = Field(256, ge=2, description="positions a layer and image")
    nce_tau: float = Field(0.07, gt=0)
    sampling: Literal["attention", "uniform"] = "attention"
    attention_layers: Literal["all", "deep"] = Field("deep", description="deep: the first tap is drawn uniformly")
    replacement: bool = Field(False, description="draw attended positions with replacement")
    diffuse: bool = True
    t_min: int = Field(10, ge=1)
    t_max: int = Field(1000, ge=1, le=100_000)
    beta_first: float = Field(1e-4, gt=0, lt=1)
    beta_last: float = Field(0.02, gt=0, lt=1)
    sigma: float = Field(0.05, ge=0, description="scale of the noise")
    clean_fraction: float = Field(0.5, ge=0, le=1, description="share of the table of steps that is step 0")
    chain_target: float = Field(0.6, ge=-1, le=1, description="mean sign of real logits above which the chain grows")
    logit_centre: float = Field(0.5, description="taken off real logits before their sign")
    chain_every: int = Field(4, ge=1, description="discriminator steps between changes of the chain")
    images_to_full: int = Field(100_000, ge=1, description="real images over which p can go from 0 to 1")
    chain_table: int = Field(64, ge=1, description="steps drawn at every change of the chain, from which images pick")
    time_conditioning: TimeConditioning = "bias"
    time_width: int = Field(128, ge=4, multiple_of=2)
    gaussian_pyramid: Pyramid = Field("asp", description="asp: mean of weighted levels; octaves: PyramidP2P's sum")
    keep_pair_losses: bool = Field(False, description="supervise also where pairs are drawn independently")
    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        check_taps(self.taps, self.n_blocks)
        if self.t_max < self.t_min:
            raise ValueError(f"t_max {self.t_max} is smaller than t_min {self.t_min}")
        return self

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The configuration of preset "paper" with `overrides`; ConfigError for "official": no code was published."""
        if name != "paper":
            raise ConfigError(f"asp_dgrank has no preset {name!r}: its authors published no code; use preset: paper")
        return preset_of(cls, {}, overrides, "options of asp_dgrank, preset paper")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """A configuration for smoke runs: narrow networks, a shallower discriminator, a short chain."""
        values = {"ngf": 4, "d_layers": 3, "ndf": 4, "head_width": 8, "n_patches": 16, "t_min": 2, "t_max": 8}
        return preset_of(cls, {**values, "time_width": 16}, overrides, "options of asp_dgrank, tiny")


class AdaptiveDiffusion(nn.Module):
    """Noises images at steps drawn from a chain that grows while the discriminator is sure of real images.

    p       : how far the chain has grown, 0 to 1.
    n_steps : its length, t_min + round(p (t_max - t_min)).

    Both, the table of steps and the signs counted since the last change are part of the state dict.
    """

    table: Tensor
    sign_sum: Tensor

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.p, self.n_steps, self._n_seen = 0.0, cfg.t_min, 0
        self.register_buffer("table", self._draw_table())
        self.register_buffer("sign_sum", torch.zeros(()))
        self._schedule: VPSchedule | None = None  # follows from n_steps

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.p, self.n_steps, self._n_seen], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.p, self.n_steps, self._n_seen = float(state[0]), int(state[1]), int(state[2])

    def _draw_table(self) -> Tensor:
        n = self.cfg.chain_table
        n_clean = round(n * self.cfg.clean_fraction)
        clean = torch.zeros(n_clean, dtype=torch.int64)
        return torch.cat([clean, priority_steps(self.n_steps, n - n_clean)]) if n_clean < n else clean

    def _tables(self, device: torch.device) -> VPSchedule:
        found = self._schedule
        if found is None or found.n_steps != self.n_steps or found.beta.device != device:
            first, last = self.cfg.beta_first, self.cfg.beta_last
            self._schedule = found = linear_schedule(self.n_steps, first=first, last=last, device=device)
        return found

    @in_float32
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Noised images (b, 3, h, w) and the step of each, long (b,); step 0 is the clean image."""
        t = self.table[torch.randint(len(self.table), (len(images),), device=self.table.device)]
        noise = torch.randn_like(images)
        return self._tables(images.device).q_sample(images, t, noise, noise_scale=self.cfg.sigma), t

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Count the signs of the discriminator's logits on real images (b, ...); every `chain_every`-th time adapt."""
        every = self.cfg.chain_every
        self.sign_sum += (real_logits.float() - self.cfg.logit_centre).sign().mean()
        self._n_seen += 1
        if self._n_seen < every:
            return
        seen = torch.stack([self.sign_sum / every, self.sign_sum.new_tensor(float(len(real_logits)))])
        if dist.is_available() and dist.is_initialized():  # every process keeps the same chain
            dist.all_reduce(seen)
            seen[0] /= dist.get_world_size()
        # Longer chains where the critic is too sure, shorter where it is not.
        sureness, n_images = seen.tolist()
        direction = (sureness > self.cfg.chain_target) - (sureness < self.cfg.chain_target)
        self.p = min(max(self.p + direction * n_images * every / self.cfg.images_to_full, 0.0), 1.0)
        self.n_steps = self.cfg.t_min + round(self.p * (self.cfg.t_max - self.cfg.t_min))
        self.table.copy_(self._draw_table())
        self.sign_sum.zero_()
        self._n_seen = 0


class ASPDGRank(nn.Module):
    """ASP-DGRank while it trains, on weak pairs or on images drawn independently."""

    def __init__(self, cfg: Config, marker: object = None):
        super().__init__()
        self.cfg = cfg
        time = cfg.time_conditioning if cfg.diffuse else "none"
        self.G = ResnetGenerator(cfg.n_blocks, cfg.ngf, spectral=cfg.spectral)
        self.D = PatchDiscriminator(
            cfg.d_layers, cfg.ndf, spectral=cfg.spectral, time=time, time_width=cfg.time_width, time_max=cfg.t_max
        )
        self.head = PatchHead(self.G.tap_channels(cfg.taps), cfg.head_width, eps_inside=True)
        self.diffusion = AdaptiveDiffusion(cfg)
        self.watch = ChanceWatch("raise options.weights.nce or lower options.lr")
        self.optimizers = {
            "D": adam([self.D], cfg.lr, cfg.betas),
            "G": adam([self.G, self.head], cfg.lr, cfg.betas),
        }

    def _judge(self, images: Tensor) -> Tensor:
        """Logits of images after diffusion, at steps drawn anew (eq. 5)."""
        if not self.cfg.diffuse:
            logits: Tensor = self.D(images)
        else:
            logits = self.D(*self.diffusion(images))
        return logits

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        # The virtual stain, with the features of the H&E on the way.
        cfg, he, ihc = self.cfg, batch.he, batch.ihc
        is_supervised = batch.is_paired or cfg.keep_pair_losses
        fake, seen = self.G.forward_with_features(he, cfg.taps)
        seen = [f.detach() for f in seen]

        # The critic on noised pictures; the noise grows or shrinks with how sure it is of the real ones.
        real_logits, fake_logits = self._judge(torch.cat([ihc, fake.detach()])).chunk(2)
        d_loss = lsgan_d(real_logits, fake_logits)  # eq. 6
        update(self.optimizers["D"], d_loss)
        if cfg.diffuse:
            self.diffusion.observe(real_logits)

        # Keys of the H&E and queries of the stain, at the same random places.
        made = self.G.features(fake, cfg.taps)
        at = uniform_positions(seen, cfg.n_patches)
        with torch.no_grad():
            keys = self.head(seen, at)
        zero = fake.new_zeros(())
        # The generator and its head; the critic hands gradients on and takes none.
        with frozen(self.D):
            gan = lsgan_g(self._judge(fake))  # eq. 7
            queries = self.head(made, at)
            terms = {
                "gan": gan,
                "nce": patch_nce_layers(queries, keys, cfg.nce_tau),
                "a2sp": self._a2sp(made, ihc, progress) if is_supervised and cfg.weights.a2sp else zero,
                "gp": self._pyramid(fake, ihc) if is_supervised and cfg.weights.gp else zero,
            }
            update(self.optimizers["G"], weighted_sum(terms, cfg.weights))  # eq. 8
        self.watch.see(terms["nce"], queries)
        chain = {"chain": float(self.diffusion.n_steps), "chain_p": self.diffusion.p}
        log = {**terms, "d": d_loss, **{name: torch.tensor(value) for name, value in chain.items()}}
        return {name: term.detach() for name, term in log.items()}

    def _a2sp(self, made: list[Tensor], ihc: Tensor, progress: Progress) -> Tensor:
        """Adaptive supervised PatchNCE at attended positions (eq. 1-3); `made` are features of the virtual IHC."""
        cfg = self.cfg
        with torch.no_grad():
            real = self.G.features(ihc, cfg.taps)
            if cfg.sampling == "uniform":
                at = uniform_positions(real, cfg.n_patches)
            else:
                at = attended_positions(real, cfg.n_patches, replacement=cfg.replacement)
                if cfg.attention_layers == "deep" and cfg.taps[0] == 0:
                    at[0] = uniform_positions(real[:1], cfg.n_patches)[0]
            keys = self.head(real, at)
        over, decay = progress.epoch / progress.total_epochs, progress.decay_epochs / progress.total_epochs
        losses = [
            patch_nce(q, k, cfg.nce_tau) * adaptive_weights(q, k, over, decay)
            for q, k in zip(self.head(made, at), keys, strict=True)
        ]
        return layer_mean(losses)

    def _pyramid(self, fake: Tensor, ihc: Tensor) -> Tensor:
        """L_GP; the paper cites PyramidP2P, whose sum of octaves is about 16 times ASP's weighted mean."""
        return octave_l1(fake, ihc) if self.cfg.gaussian_pyramid == "octaves" else gaussian_pyramid_l1(fake, ihc)

    def concern(self) -> str | None:
        """That `nce` stays at chance, with what to set."""
        return self.watch.concern()

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf}

    def generator_state(self) -> dict[str, Tensor]:
        return folded_state(self.G)
