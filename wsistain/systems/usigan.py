"""USIGAN: Peng, Xiong et al., "USIGAN: Unbalanced Self-Information Feature Transport for Weakly Paired Image IHC Virtual
Staining" (2025). Equation numbers are the paper's.

CUT with three more terms, for weak pairs:
- transport cycle (eq. 3-11): the plan from H&E to real IHC patches followed by the plan from real to virtual IHC must be
  the plan from H&E to virtual IHC;
- optical density (eq. 12-14): the virtual images of a batch must resemble each other in DAB as the real ones do, and hold
  as much of it;
- features (eq. 15): the same resemblance on encoder features.
Both resemblances need at least two images a step (in each process).

Where the authors' code differs from their paper there is an option; `preset: official` sets all of them:

| option | paper (default) | official |
| --- | --- | --- |
| update | "paper": eq. 3-10, the minimum of eq. 3 with marginals 1 / N | "damped": scalings shrunk by exp(-tau u), rows of 1 |
| cost | "paper": similar patches exchange mass, K = exp(cos / eps) | "easy": dissimilar ones do, exp((1 - cos) / eps), a patch never with itself |
| composition | "ordered": H&E to real, then real to virtual | "official": the code multiplies its transposed plans the wrong way round |
| density_range | "light": focal density of light in [0, 1] | "raw": of [-1, 1], so that mid-tones count as black |

`update: paper` weighs the marginals with `reg_m` and composes through the middle marginal, T1 diag(1 / q) T2. Its plans
have mass 1, so that the cycle is N times smaller than with rows of 1: the published weight of 10,000 is worth 39 there at
N = 256. tau of eq. 3 is `reg_m`; the text says the opposite (tau = 0 is balanced), which is true of the code's damping,
`tau`, within 0.1 % of balanced at the published 0.001. `update: kl` counts entropy against 1 in the place of the
marginals, which inflates mass; it is kept for runs that used it. `matching: direct` and `update: balanced` are the
comparisons of Table V.

The training recipe of the code also shrinks whole patches to the crop while the learning rate decays:
`data.shrink_in_decay`. Eq. 16 prints the logarithmic adversarial loss; the code's least squares are used.

The authors' step encodes images up to twelve times; here H&E, real, virtual and identity images pass the encoder once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsistain import ot
from wsistain.config import Strict, preset_of
from wsistain.errors import ConfigError
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.contrastive import patch_nce_layers
from wsistain.losses.stain import OD_FLOOR, feature_correlation, od_correlation, od_total
from wsistain.markers import Marker, require_dab
from wsistain.networks.layers import folded_state
from wsistain.networks.patch_head import PatchHead, uniform_positions
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.resnet import CUT_TAPS, ResnetGenerator
from wsistain.numerics import check_choice, in_float32
from wsistain.optics.stains import FOCAL_POWER, focal_density, to_unit
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum
from wsistain.systems.resnet_family import ChanceWatch, adam, check_taps, resnet_generator

generator_network = resnet_generator

Cost = Literal["paper", "easy", "hard"]
PlanUpdate = Literal["paper", "damped", "kl", "balanced"]
Matching = Literal["cycle", "direct"]
Composition = Literal["ordered", "official"]


class Weights(Strict):
    """Weights of the generator's terms (eq. 19, sec. IV-B; the two contrastive terms are averaged in the code)."""

    gan: float = 1.0
    nce: float = 0.5
    nce_idt: float = Field(0.5, description="contrastive term on real IHC; 0 skips its pass through the generator")
    tcyc: float = Field(1e4, description="transport cycle; 0 skips it")
    cc: float = Field(10.0, description="resemblance of features; 0 skips it")
    odc: float = Field(1.0, description="resemblance and amount of DAB; 0 skips it")


class Config(SystemConfig):
    """Values of the paper (sec. IV-B) and, where it is silent, of the code."""

    n_blocks: int = Field(6, ge=1, le=64)
    ngf: int = Field(64, ge=1, le=1024)
    d_layers: int = Field(5, ge=1, le=6)
    ndf: int = Field(32, ge=1, le=1024)
    spectral: bool = Field(True, description="spectral norm in generator and discriminator")
    taps: tuple[int, ...] = Field(CUT_TAPS, description="generator layers that are compared")
    head_width: int = Field(256, ge=1)
    n_patches: int = Field(256, ge=2, description="positions a layer and image")
    nce_tau: float = Field(0.07, gt=0)
    cost: Cost = "paper"
    composition: Composition = "ordered"
    matching: Matching = Field("cycle", description="direct: plan(x, y) must be plan(y, virtual)")
    update: PlanUpdate = Field("paper", description="paper: eq. 3-10, mass 1; the others have rows of about 1")
    eps: float = Field(1.0, gt=0, description="entropic weight of the plans")
    tau: float = Field(1e-3, ge=0, description="damping under update: damped; 0 tends to balanced")
    reg_m: float = Field(10.0, gt=0, description="weight of the marginals under update: paper (tau of eq. 3) or kl")
    plan_iterations: int = Field(50, ge=1)
    density_range: Literal["light", "raw"] = "light"
    alpha: float = Field(FOCAL_POWER, gt=1, description="power of the focal optical density (eq. 13)")
    od_floor: float = Field(
        OD_FLOOR, ge=0, description="focal density below which a pixel does not count in odc's total"
    )
    single: bool = Field(False, description="allow one patch a step, where cc is 0 and odc only the amount of DAB")
    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _taps_exist(self) -> "Config":
        check_taps(self.taps, self.n_blocks)
        return self

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The configuration of preset "paper" or "official" with `overrides`."""
        official = {"update": "damped", "cost": "easy", "composition": "official", "density_range": "raw"}
        return preset_of(cls, official if name == "official" else {}, overrides, f"options of usigan, preset {name}")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """A configuration for smoke runs: narrow networks, a shallower discriminator."""
        values = {"ngf": 4, "d_layers": 3, "ndf": 4, "head_width": 8, "n_patches": 16}
        return preset_of(cls, values, overrides, "options of usigan, tiny")

    def check_batch(self, n: int) -> None:
        """ConfigError where `n` patches a step leave the resemblances (eq. 14-15) nothing to compare."""
        if n < 2 and not self.single and (self.weights.cc or self.weights.odc):
            raise ConfigError(
                "batch_size 1 leaves usigan's cc and odc nothing to compare (images of one step); use batch_size 2 or "
                "more, or options.weights.cc=0 and options.weights.odc=0, or options.single=true (Table VII's first row)"
            )


Plan = Callable[[Tensor, Tensor], Tensor]


@in_float32
def transport_plan(
    q: Tensor, k: Tensor, *, cost: Cost, update: PlanUpdate, eps: float, tau: float, reg_m: float, n_iter: int
) -> Tensor:
    """Plan between embeddings q (..., n, d) and k (..., m, d) of unit length: float (..., n, m), source by target.

    Mass 1 under update "paper" (about: the marginals 1 / n and 1 / m are weighed by `reg_m`), rows of about 1 under the
    others. ValueError for an update or cost that is not known.
    """
    check_choice("update", update, PlanUpdate)
    check_choice("cost", cost, Cost)
    affinity = q @ k.transpose(-1, -2)
    if cost != "paper":
        affinity = affinity if cost == "hard" else 1 - affinity
        # No place is matched with itself.
        itself = torch.eye(affinity.shape[-1], dtype=torch.bool, device=affinity.device)
        affinity = affinity.masked_fill(itself, -10.0)
    if update == "paper":
        return ot.unbalanced_plan(-affinity, eps, reg_m, n_iter=n_iter)
    if update == "damped":
        return ot.damped_plan(affinity / eps, tau, n_iter=n_iter)
    ones = affinity.new_ones(affinity.shape[:-1])
    if update == "kl":
        return ot.sinkhorn_unbalanced(-affinity, eps, reg_m, ones, ones, n_iter=n_iter, tol=0)
    return ot.sinkhorn(-affinity, eps, ones, ones, n_iter=n_iter, tol=0)


@in_float32
def transport_consistency(
    he: Tensor,
    ihc: Tensor,
    fake: Tensor,
    plan: Plan,
    *,
    matching: Matching = "cycle",
    composition: Composition = "ordered",
    middle: float = 1.0,
) -> Tensor:
    """Mean |difference| of plans between embeddings (..., n, d) of H&E, real and virtual IHC (eq. 11), a scalar.

    Only `fake` takes gradient. "cycle" compares the plan over the real IHC with the direct one, "direct" the plans on
    either side of the real IHC (SIM-GAN).

    middle : mass of each patch of the real IHC, by which the composed plan is divided: 1 for plans with rows of 1,
             1 / n for plans of mass 1.
    """
    check_choice("matching", matching, Matching)
    check_choice("composition", composition, Composition)
    he, ihc = he.detach(), ihc.detach()
    if matching == "direct":
        to_real, from_real = plan(torch.stack([he, ihc]), torch.stack([ihc, fake])).unbind()
        return (to_real.detach() - from_real).abs().mean()
    to_real, from_real, direct = plan(torch.stack([he, ihc, he]), torch.stack([ihc, fake, fake])).unbind()
    to_real = to_real.detach()
    over_real = to_real @ from_real if composition == "ordered" else from_real @ to_real
    if middle != 1:
        over_real = over_real / middle
    return (over_real - direct).abs().mean()


def _layers_together(*lists: Sequence[Tensor]) -> list[tuple[int, tuple[Tensor, ...]]]:
    """Layers with equally many patches, stacked to (l, b, n, d) for each list, with their number l."""
    sizes = sorted({z.shape[1] for z in lists[0]})
    found = []
    for n in sizes:
        at = [i for i, z in enumerate(lists[0]) if z.shape[1] == n]
        found.append((len(at), tuple(torch.stack([zs[i] for i in at]) for zs in lists)))
    return found


class USIGAN(nn.Module):
    """USIGAN while it trains. Needs weak pairs, two or more a step."""

    def __init__(self, cfg: Config, marker: Marker | None = None):
        super().__init__()
        require_dab(marker, "USIGAN")
        self.cfg = cfg
        self.G = ResnetGenerator(cfg.n_blocks, cfg.ngf, spectral=cfg.spectral)
        self.D = PatchDiscriminator(cfg.d_layers, cfg.ndf, spectral=cfg.spectral)
        self.head = PatchHead(self.G.tap_channels(cfg.taps), cfg.head_width, eps_inside=True)
        self.plan = functools.partial(
            transport_plan,
            cost=cfg.cost,
            update=cfg.update,
            eps=cfg.eps,
            tau=cfg.tau,
            reg_m=cfg.reg_m,
            n_iter=cfg.plan_iterations,
        )
        self.watch = ChanceWatch(
            f"the transport cycle is least when all are alike: lower options.weights.tcyc (now {cfg.weights.tcyc:g}), "
            "a tenth is a good start"
            if cfg.weights.tcyc
            else "raise options.weights.nce or lower options.lr"
        )
        self.optimizers = {
            "D": adam([self.D], cfg.lr, cfg.betas),
            "G": adam([self.G, self.head], cfg.lr, cfg.betas),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        # The virtual stain, with features of the H&E and of the real IHC.
        cfg, he, ihc, b = self.cfg, batch.he, batch.ihc, len(batch.he)
        with_idt = cfg.weights.nce_idt != 0
        if with_idt:
            out, seen = self.G.forward_with_features(torch.cat([he, ihc]), cfg.taps)
            seen = [f.detach() for f in seen]
        else:  # the real IHC is looked at, not stained
            out, of_he = self.G.forward_with_features(he, cfg.taps)
            with torch.no_grad():
                of_ihc = self.G.features(ihc, cfg.taps)
            seen = [torch.cat([f.detach(), g]) for f, g in zip(of_he, of_ihc, strict=True)]
        fake = out[:b]

        # The critic first: it learns from the stain as it is before this step's update.
        real_logits, fake_logits = self.D(torch.cat([ihc, fake.detach()])).chunk(2)
        d_loss = lsgan_d(real_logits, fake_logits)
        update(self.optimizers["D"], d_loss)

        # Keys of the real pictures and queries of the stain, at the same random places.
        at = uniform_positions(seen, cfg.n_patches)
        with torch.no_grad():
            keys = self.head(seen, at)
        made = self.G.features(out, cfg.taps)
        queries = self.head(made, at)
        zero = fake.new_zeros(())

        def nce(of: slice) -> Tensor:
            return patch_nce_layers([q[of] for q in queries], [k[of] for k in keys], cfg.nce_tau)  # eq. 17-18

        # The generator and its head; the critic hands gradients on and takes none.
        with frozen(self.D):
            terms = {
                "gan": lsgan_g(self.D(fake)),
                "nce": nce(slice(b)),
                "nce_idt": nce(slice(b, None)) if with_idt else zero,
                "tcyc": self._transport(keys, queries, b) if cfg.weights.tcyc else zero,
                "cc": feature_correlation([f[:b] for f in made], [f[b:] for f in seen]) if cfg.weights.cc else zero,
                "odc": self._density(fake, ihc) if cfg.weights.odc else zero,
            }
            update(self.optimizers["G"], weighted_sum(terms, cfg.weights))
        self.watch.see(terms["nce"], queries)
        return {name: term.detach() for name, term in {**terms, "d": d_loss}.items()}

    def _transport(self, keys: Sequence[Tensor], queries: Sequence[Tensor], b: int) -> Tensor:
        """Eq. 11, averaged over layers; `keys` hold H&E then real IHC, `queries` virtual IHC first."""
        cfg, total = self.cfg, queries[0].new_zeros(())
        lists = [k[:b] for k in keys], [k[b:] for k in keys], [q[:b] for q in queries]
        for n_layers, (he, ihc, fake) in _layers_together(*lists):
            term = transport_consistency(
                he,
                ihc,
                fake,
                self.plan,
                matching=cfg.matching,
                composition=cfg.composition,
                middle=1 / he.shape[-2] if cfg.update == "paper" else 1.0,
            )
            total = total + term * n_layers
        return total / len(queries)

    def _density(self, fake: Tensor, ihc: Tensor) -> Tensor:
        """Eq. 14 on focal optical density (eq. 13)."""
        light = to_unit if self.cfg.density_range == "light" else (lambda x: x)
        fake_od, real_od = (focal_density(light(x), self.cfg.alpha) for x in (fake, ihc))
        return od_correlation(fake_od, real_od) + od_total(fake_od, real_od, floor=self.cfg.od_floor)

    def concern(self) -> str | None:
        """That `nce` stays at chance, with what to set."""
        return self.watch.concern()

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf}

    def generator_state(self) -> dict[str, Tensor]:
        return folded_state(self.G)
