"""ASP: Li, Hu and Kak, "Adaptive Supervised PatchNCE Loss for Learning H&E-to-IHC Stain Translation with Inconsistent
Groundtruth Image Pairs", MICCAI 2023 (arXiv:2303.06193).

FastCUT (one-sided contrastive translation) plus two terms that use the weakly paired section: the adaptive supervised
PatchNCE (sec. 2.2, eq. 2-4), in which a patch of the virtual stain must be told by the embedding of the real IHC at its
place, and places where the two disagree lose their weight as training ends; and an L1 on Gaussian pyramids.

`weights.mlpa` adds the molecular-level protein awareness of PSPStain (Chen et al., MICCAI 2024): what is published there
without its tumour prototypes (CTPC), which need a segmentation network of their own.

The numbers are those of the authors' code, which follows the paper; `preset: official` is the same as `paper`. Spectral
norm on every convolution and an embedding length of ||z + 1e-7|| are the code's. The H&E is encoded once, by the pass
that stains it (the code encodes it again for the losses), real IHC without gradient; both contrastive terms look at the
same positions (the code draws twice).
"""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsistain.config import Strict, preset_of
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.contrastive import Lookup, Schedule, adaptive_weights, patch_nce_layers
from wsistain.losses.gaussian_pyramid import gaussian_pyramid_l1
from wsistain.losses.stain import protein_awareness
from wsistain.markers import Marker, require_dab
from wsistain.networks.layers import folded_state
from wsistain.networks.patch_head import PatchHead, uniform_positions
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.resnet import CUT_TAPS, ResnetGenerator
from wsistain.optics.stains import focal_density, to_unit
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum
from wsistain.systems.resnet_family import ChanceWatch, adam, check_taps, resnet_generator

generator_network = resnet_generator


class Weights(Strict):
    """Weights of the generator's terms (sec. 3, and the code's defaults)."""

    gan: float = 1.0
    nce: float = 10.0
    asp: float = 10.0
    gp: float = 10.0
    mlpa: float = Field(0.0, description="PSPStain's protein awareness on DAB densities; 1 in its code")


class Config(SystemConfig):
    """Values of the paper (sec. 3) and its code."""

    n_blocks: int = Field(6, ge=1, le=64)
    ngf: int = Field(64, ge=1, le=1024)
    d_layers: int = Field(5, ge=1, le=6)
    ndf: int = Field(32, ge=1, le=1024)
    spectral: bool = Field(True, description="spectral norm in generator and discriminator")
    taps: tuple[int, ...] = Field(CUT_TAPS, description="generator layers that are compared")
    head_width: int = Field(256, ge=1)
    n_patches: int = Field(256, ge=2, description="positions a layer and image")
    nce_tau: float = Field(0.07, gt=0)
    schedule: Schedule = Field("lambda", description="how long the supervised patches count alike")
    lookup: Lookup = Field("linear", description="from cosine to weight")
    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _taps_exist(self) -> "Config":
        check_taps(self.taps, self.n_blocks)
        return self

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The configuration of preset `name` ("paper" and "official" are the same here) with `overrides`."""
        return preset_of(cls, {}, overrides, f"options of asp, preset {name}")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """A configuration for smoke runs: narrow networks, a shallower discriminator."""
        values = {"ngf": 4, "d_layers": 3, "ndf": 4, "head_width": 8, "n_patches": 16}
        return preset_of(cls, values, overrides, "options of asp, tiny")


class ASP(nn.Module):
    """ASP while it trains. Needs weak pairs."""

    def __init__(self, cfg: Config, marker: Marker | None = None):
        super().__init__()
        if cfg.weights.mlpa:
            require_dab(marker, "ASP's mlpa")
        self.cfg = cfg
        self.G = ResnetGenerator(cfg.n_blocks, cfg.ngf, spectral=cfg.spectral)
        self.D = PatchDiscriminator(cfg.d_layers, cfg.ndf, spectral=cfg.spectral)
        self.head = PatchHead(self.G.tap_channels(cfg.taps), cfg.head_width, eps_inside=True)
        self.watch = ChanceWatch("raise options.weights.nce or lower options.lr")
        self.optimizers = {
            "D": adam([self.D], cfg.lr, cfg.betas),
            "G": adam([self.G, self.head], cfg.lr, cfg.betas),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        # The virtual stain, with the features of the H&E on the way.
        cfg, he, ihc = self.cfg, batch.he, batch.ihc
        fake, seen = self.G.forward_with_features(he, cfg.taps)

        # The critic first: it learns from the stain as it is before this step's update.
        real_logits, fake_logits = self.D(torch.cat([ihc, fake.detach()])).chunk(2)
        d_loss = lsgan_d(real_logits, fake_logits)
        update(self.optimizers["D"], d_loss)

        # Keys of the H&E and of the real IHC, queries of the stain, all at the same random places.
        at = uniform_positions(seen, cfg.n_patches)
        with torch.no_grad():
            he_keys = self.head([f.detach() for f in seen], at)
            ihc_keys = self.head(self.G.features(ihc, cfg.taps), at)
        queries = self.head(self.G.features(fake, cfg.taps), at)
        # How far each place of the pair is trusted: by its likeness, and by how far training has come.
        over, decay = progress.epoch / progress.total_epochs, progress.decay_epochs / progress.total_epochs
        trust = [
            adaptive_weights(q, k, over, decay, schedule=cfg.schedule, lookup=cfg.lookup)
            for q, k in zip(queries, ihc_keys, strict=True)
        ]

        # The generator and its head; the critic hands gradients on and takes none.
        with frozen(self.D):
            terms = {
                "gan": lsgan_g(self.D(fake)),
                "nce": patch_nce_layers(queries, he_keys, cfg.nce_tau),
                "asp": patch_nce_layers(queries, ihc_keys, cfg.nce_tau, weights=trust),  # eq. 4
                "gp": gaussian_pyramid_l1(fake, ihc),
                "mlpa": self._awareness(fake, ihc) if cfg.weights.mlpa else fake.new_zeros(()),
            }
            update(self.optimizers["G"], weighted_sum(terms, cfg.weights))
        self.watch.see(terms["nce"], queries)
        return {name: term.detach() for name, term in {**terms, "d": d_loss}.items()}

    def _awareness(self, fake: Tensor, ihc: Tensor) -> Tensor:
        """PSPStain's MLPA loss on the focal optical density of the DAB."""
        return protein_awareness(focal_density(to_unit(fake)), focal_density(to_unit(ihc)))

    def concern(self) -> str | None:
        """That `nce` stays at chance, with what to set."""
        return self.watch.concern()

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf}

    def generator_state(self) -> dict[str, Tensor]:
        return folded_state(self.G)
