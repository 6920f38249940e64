"""CUT and FastCUT: Park, Efros, Zhang and Zhu, "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020
(arXiv:2007.15651).

A generator whose own encoder says what a patch is: the patch of the virtual stain must be told from other patches of the
same H&E image by the embedding of the H&E patch at its place (eq. 3-4), while a discriminator judges the style (eq. 1).
The same on real IHC keeps the generator from changing what is IHC already (eq. 5).

FastCUT is this system with `weights: {nce: 10, nce_idt: 0}` and `flip_equivariance: true`. The authors' code and their
paper agree, so the two presets do too. In the code the two contrastive terms are averaged (weights 0.5 and 0.5 here);
the CUT inside ASP's repository sums them (1 and 1).

`contrast: monce` weighs the negatives by optimal transport (Zhan et al., CVPR 2022), `contrast: hdce` with `weights.src`
is decoupled contrast with hard negatives and semantic relation consistency (Jung et al., CVPR 2022). `weights.fsesim`
with `nce: 0` is F-LSeSim's loss on the fixed features of VGG16 (Zheng et al., CVPR 2021); its learned variant is not here.

Every image passes the encoder once a step: the features of H&E and IHC are those of the pass that makes the virtual
images. With `flip_equivariance` the generator sees a mirrored H&E half of the time, and the upright one is encoded too.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsistain.config import Strict, preset_of
from wsistain.errors import ConfigError
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.contrastive import hdce, layer_mean, monce, patch_nce_layers, relation_consistency
from wsistain.losses.gaussian_pyramid import gaussian_pyramid_l1
from wsistain.losses.self_similarity import spatially_correlative
from wsistain.networks.layers import folded_state
from wsistain.networks.patch_head import PatchHead, uniform_positions
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.resnet import CUT_TAPS, ResnetGenerator
from wsistain.networks.vgg import Vgg16Features
from wsistain.published.places import check_net, require_net
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum
from wsistain.systems.resnet_family import ChanceWatch, adam, check_taps, resnet_generator

generator_network = resnet_generator


Contrast = Literal["patchnce", "monce", "hdce"]


class Weights(Strict):
    """Weights of the generator's terms (sec. 4.1: lambda 1 on the mean of the two contrastive terms)."""

    gan: float = 1.0
    nce: float = 0.5
    nce_idt: float = Field(0.5, description="contrastive term on real IHC; 0 skips its pass through the generator")
    src: float = Field(0.0, description="SRC: the same relations among patches; 1 in its code")
    fsesim: float = Field(0.0, description="F-LSeSim: the same self-similarities in VGG16's features; 10 in its paper")
    gp: float = Field(0.0, description="L1 on Gaussian pyramids of weak pairs: CUT + L_GP of ASP's tables, with 10")


class Config(SystemConfig):
    """Values of the paper (sec. 4.1 and appendix C) and its code."""

    n_blocks: int = Field(9, ge=1, le=64)
    ngf: int = Field(64, ge=1, le=1024)
    d_layers: int = Field(3, ge=1, le=6)
    ndf: int = Field(64, ge=1, le=1024)
    spectral: bool = Field(False, description="spectral norm in generator and discriminator")
    taps: tuple[int, ...] = Field(CUT_TAPS, description="generator layers that are compared")
    head_width: int = Field(256, ge=1)
    n_patches: int = Field(256, ge=2, description="positions a layer and image")
    nce_tau: float = Field(0.07, gt=0)
    contrast: Contrast = Field("patchnce", description="monce: negatives weighted by transport; hdce: SRC's")
    monce_eps: float = Field(1.0, gt=0, description="entropic weight of MoNCE's plan")
    hdce_gamma: float = Field(1.0, ge=0, description="how much hard negatives count for more; 0: all alike")
    vgg: Literal["published", "tiny"] = Field("published", description="features of fsesim; tiny: random, for tests")
    sesim_window: int = Field(32, ge=2, description="edge of what a patch's features are compared with (fsesim)")
    flip_equivariance: bool = Field(False, description="mirror the H&E half of the time (FastCUT)")
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
        return preset_of(cls, {}, overrides, f"options of cut, preset {name}")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """A configuration for smoke runs: narrow networks."""
        values = {"ngf": 4, "ndf": 4, "head_width": 8, "n_patches": 16, "vgg": "tiny"}
        return preset_of(cls, values, overrides, "options of cut, tiny")


SESIM_TAPS = (11, 18)
"""relu3_1 and relu4_1 of VGG16, the layers that F-LSeSim compares."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sesim_network(vgg: Literal["published", "tiny"]) -> Vgg16Features:
    """VGG16 up to relu4_1, frozen; a random one of a sixteenth of the width for "tiny". Raises WeightsError."""
    network = Vgg16Features(16 if vgg == "tiny" else 1, SESIM_TAPS)
    if vgg == "published":
        path = require_net("vgg16")
        check_net("vgg16", path)
        network.load_published(path)
    return network.requires_grad_(False).eval()


class CUT(nn.Module):
    """CUT while it trains."""

    def __init__(self, cfg: Config, marker: object = None):
        super().__init__()
        self.cfg = cfg
        self.G = ResnetGenerator(cfg.n_blocks, cfg.ngf, spectral=cfg.spectral)
        self.D = PatchDiscriminator(cfg.d_layers, cfg.ndf, spectral=cfg.spectral)
        self.head = PatchHead(self.G.tap_channels(cfg.taps), cfg.head_width)
        self.vgg = sesim_network(cfg.vgg) if cfg.weights.fsesim else None
        self.watch = ChanceWatch("raise options.weights.nce or lower options.lr")
        self.optimizers = {
            "D": adam([self.D], cfg.lr, cfg.betas),
            "G": adam([self.G, self.head], cfg.lr, cfg.betas),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        # The virtual stain and, in the same pass, the real IHC through the generator (the identity term).
        cfg, he, ihc = self.cfg, batch.he, batch.ihc
        if cfg.weights.gp and not batch.is_paired:
            raise ConfigError("weights.gp compares virtual with real IHC: set data.pairing to weak, or weights.gp to 0")
        with_idt = cfg.weights.nce_idt != 0
        is_flipped = cfg.flip_equivariance and bool(torch.rand(()) < 0.5)
        source = he.flip(3) if is_flipped else he
        out, seen = self.G.forward_with_features(torch.cat([source, ihc]) if with_idt else source, cfg.taps)
        fake = out[: len(he)]

        # The critic first: it learns from the stain as it is before this step's update.
        real_logits, fake_logits = self.D(torch.cat([ihc, fake.detach()])).chunk(2)
        d_loss = lsgan_d(real_logits, fake_logits)  # eq. 1
        update(self.optimizers["D"], d_loss)

        # Keys of the source and queries of the stain, at the same random places. Where a flipped source was stained,
        # both are turned upright: flip equivariance asks that nothing but the turn tells.
        contrasts = bool(cfg.weights.nce or with_idt or cfg.weights.src)
        with torch.no_grad():
            keys = [f.detach() for f in seen]
            if is_flipped and contrasts:
                upright = self.G.features(he, cfg.taps)
                keys = [torch.cat([u, f[len(he) :]]) for u, f in zip(upright, keys, strict=True)]
            at = uniform_positions(keys, cfg.n_patches)
            keys = self.head(keys, at)
        queries: list[Tensor] = []
        if contrasts:
            made = self.G.features(torch.cat([fake.flip(3) if is_flipped else fake, out[len(he) :]]), cfg.taps)
            queries = self.head(made, at)

        # The generator and its head; the critic hands gradients on and takes none.
        with frozen(self.D):
            terms = {"gan": lsgan_g(self.D(fake))}  # eq. 1
            for name, of in (("nce", slice(len(he))), ("nce_idt", slice(len(he), None))):  # eq. 4, eq. 5
                if not (with_idt if name == "nce_idt" else contrasts):
                    terms[name] = fake.new_zeros(())
                else:
                    terms[name] = self._contrast([q[of] for q in queries], [k[of] for k in keys])
            relations = []
            if cfg.weights.src:
                pairs = [(q[: len(he)], k[: len(he)]) for q, k in zip(queries, keys, strict=True)]
                relations = [relation_consistency(q, k) for q, k in pairs]
            terms["src"] = torch.stack(relations).mean() if relations else fake.new_zeros(())
            upright_fake = fake.flip(3) if is_flipped else fake
            terms["fsesim"] = self._self_similarity(he, upright_fake)
            terms["gp"] = gaussian_pyramid_l1(upright_fake, ihc) if cfg.weights.gp else fake.new_zeros(())
            update(self.optimizers["G"], weighted_sum(terms, cfg.weights))
        if queries:
            self.watch.see(terms["nce"], queries)
        return {name: term.detach() for name, term in {**terms, "d": d_loss}.items()}

    def _contrast(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """The contrastive loss of the options, mean over patches and layers."""
        cfg = self.cfg
        if cfg.contrast == "monce":
            return layer_mean([monce(q, k, cfg.nce_tau, eps=cfg.monce_eps) for q, k in zip(queries, keys, strict=True)])
        if cfg.contrast == "hdce":
            return layer_mean(
                [hdce(q, k, cfg.nce_tau, gamma=cfg.hdce_gamma) for q, k in zip(queries, keys, strict=True)]
            )
        return patch_nce_layers(queries, keys, cfg.nce_tau)

    def _self_similarity(self, he: Tensor, fake: Tensor) -> Tensor:
        """F-LSeSim's loss on VGG16's features, which see ImageNet's normalisation; 0 without its weight."""
        if self.vgg is None:
            return fake.new_zeros(())
        mean, std = (fake.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        with torch.no_grad():
            seen = self.vgg(((he + 1) / 2 - mean) / std)
        made = self.vgg(((fake + 1) / 2 - mean) / std)
        return spatially_correlative(seen, made, n_patches=self.cfg.n_patches, window=self.cfg.sesim_window)

    def concern(self) -> str | None:
        """That `nce` stays at chance, with what to set; nothing where it has no weight."""
        return self.watch.concern() if self.cfg.weights.nce else None

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf}

    def generator_state(self) -> dict[str, Tensor]:
        return folded_state(self.G)
