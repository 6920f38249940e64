"""MIU-Diff: an unconditional diffusion model of IHC, steered by mutual information with the H&E's structure.

Paper: Liu, Wang, Cai, Li, "Score-based Diffusion Model for Unpaired Virtual Histology Staining", MICCAI 2025. No code
was published; the nearest relative is EGSDE (Zhao et al. 2022).

Training sees IHC alone: a score model learns what IHC looks like (section 2.1), an estimator learns how much an image
and its edge map say of each other (section 2.2). Staining starts from the H&E without colour, noised part of the way,
and runs back under an energy that asks for stain early and for the H&E's structure late (Eqs. 1 to 3), optionally
tuning the score model on the image near the end (section 2.3); see `miu_sampling`.

Decided here, because the paper does not say; options in brackets. `official` reads the paper to the letter:
- Chain of 1000 steps, run from S = N = 300, guidance at every step. (`chain`, `sampling.start`, `sampling.guide_from`)
- Drift -beta(t) y / 2, with the y that Eq. 1 of the paper drops; sign of the guidance as in Eq. 3.
- Strength of the guidance: none is given, and the energy's plain gradient is far too weak to act. It is a tenth of the
  score (`sampling.strength`: score), whatever the number of steps; `official` takes it raw, times 1.
- The gradients of entropy and information are brought to one size before their weights act (`sampling.combine`: each):
  as they come the second is some twenty times the first.
- The energy's grid of patches moves from step to step (`sampling.grid`: moving), and glass is not guided
  (`sampling.spare_glass`): a grid that stands still is seen in the picture.
- Entropy: that of a Gaussian of colours in each patch. (`sampling.entropy`)
- Estimator: 32 px patches, four halving convolutions of 4 x 4 px (those of 3 x 3 leave a comb in the gradient); trained on noised pairs at the steps where it is used and told
  the step (`clean_estimator` and `official`: on clean pairs), with Adam and MINE's corrected gradient. (`estimator`)
- The H&E is noised with one fixed noise an image, the one the run starts from, as EGSDE does. (`sampling.he_noise`)
- Edge maps are those of the brightness, in one channel, so that H&E and IHC compare; patches do not overlap.
  (`estimator.edges`, `estimator.overlap`)
- Both networks take a step on every batch; they do not see each other. (`train_parts`: one alone)
- Tuning compares features of the untuned model at three levels, one step of Adam a step. (`sampling.tune_*`)
- Staining uses a second-order solver with a tenth of the paper's steps, and tunes nothing: `solver: ancestral` and
  `tune_from: 40` are the paper's (and `official`'s).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from wsistain.config import Strict, preset_of, validate
from wsistain.networks.mi_estimator import gradient_map, without_colour
from wsistain.numerics import in_float32
from wsistain.published.tensors import load_into, read_published
from wsistain.systems.base import Batch, Progress, SystemConfig, Update
from wsistain.systems.miu_sampling import EstimatorOptions, MiuStainer, SamplingOptions, ScoreOptions

TINY_STEPS = {"start": 8, "n_steps": 8, "tune_from": 3, "guide_from": 8}
"""The most steps of a smoke run, whose chain has 20."""


class NetworkOptions(Strict):
    """What a weights header says of the staining network."""

    chain: int = Field(1000, ge=2, description="steps of the noising chain, T")
    score: ScoreOptions = ScoreOptions()
    estimator: EstimatorOptions = EstimatorOptions()
    sampling: SamplingOptions = SamplingOptions()

    def build(self) -> MiuStainer:
        return MiuStainer(self.score, self.estimator, self.sampling, chain=self.chain)


class Config(NetworkOptions, SystemConfig):
    """Networks, training and staining of MIU-Diff."""

    tiny_crop_px: ClassVar[int] = 32

    train_parts: Literal["both", "score", "estimator"] = "both"
    start_from: str | None = Field(
        None, description="weights file of an earlier run whose networks training goes on from"
    )
    clean_estimator: bool = Field(False, description="train the estimator on clean images (the paper to the letter)")
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    flip_vertical: bool = True
    lr: float = Field(1e-4, gt=0)  # paper, section 3
    estimator_lr: float = Field(1e-4, gt=0)
    estimator_rate: float = Field(0.01, gt=0, le=1, description="share of new values in the estimator's running mean")

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """Our reading of the paper, or ("official") the paper to the letter, under `overrides`.

        What is set here and is not a field's default differs from how weights of before were trained and stained, whose
        headers do not name it.
        """
        ours = {
            "estimator": {"kernel": 4},
            "sampling": {"strength": "score", "combine": "each", "grid": "moving", "spare_glass": True},
        }
        letter = {
            "clean_estimator": True,
            "estimator": {"time_width": 0},
            "sampling": {"solver": "ancestral", "n_steps": 300, "strength": "raw", "scale": 1.0, "tune_from": 40},
        }
        return preset_of(cls, letter if name == "official" else ours, overrides, f"options of miu_diff ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """Networks and chains that train and stain in seconds on any machine; steps that are asked for are cut to them."""
        sampling = overrides.get("sampling")
        if isinstance(sampling, dict):
            cut = {
                k: min(v, TINY_STEPS[k]) if k in TINY_STEPS and isinstance(v, int) else v for k, v in sampling.items()
            }
            overrides = {**overrides, "sampling": cut}
        values = {
            "chain": 20,
            "score": {"base": 16, "multipliers": (1, 2), "n_blocks": 1, "attention": (), "groups": 8},
            "estimator": {"patch": 8, "widths": (8, 8, 8, 8), "time_width": 16},
            "sampling": {"start": 8, "n_steps": 4, "window": 32, "window_stride": 24, "tune_patches": 16},
            "ema_decay": 0.5,
        }
        return preset_of(cls, values, overrides, "options of miu_diff (tiny)")


@in_float32
def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()


class MiuDiff(nn.Module):
    """Score model and estimator while they train; both live in the network that stains."""

    def __init__(self, cfg: Config, marker: object = None) -> None:
        super().__init__()
        self.cfg, self.ema_decay = cfg, cfg.ema_decay
        self.net = cfg.build()
        if cfg.start_from is not None:
            load_into(self.net, read_published(cfg.start_from), str(Path(cfg.start_from)))
        parts: dict[str, tuple[nn.Module, Callable[..., Optimizer], float]] = {
            "score": (self.net.score, AdamW, cfg.lr),
            "estimator": (self.net.estimator, Adam, cfg.estimator_lr),
        }
        wanted = tuple(parts) if cfg.train_parts == "both" else (cfg.train_parts,)
        self.optimizers: dict[str, Optimizer] = {}
        for name, (network, optimizer, lr) in parts.items():
            network.requires_grad_(name in wanted)
            if name in wanted:
                self.optimizers[name] = optimizer(network.parameters(), lr=lr)

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """A step of the score model and one of the estimator, each on the batch's IHC."""
        ihc = batch.ihc
        if self.cfg.flip_vertical:
            upside_down = torch.rand(len(ihc)).to(ihc.device) < 0.5
            ihc = torch.where(upside_down[:, None, None, None], ihc.flip(2), ihc)
        terms: dict[str, Tensor] = {}
        if "score" in self.optimizers:
            terms["score"] = self._score_loss(ihc)
            update(self.optimizers["score"], terms["score"])
        if "estimator" in self.optimizers:
            terms["estimator"], terms["information"] = self._estimator_loss(ihc)
            update(self.optimizers["estimator"], terms["estimator"])
        return {name: term.detach() for name, term in terms.items()}

    def _score_loss(self, ihc: Tensor) -> Tensor:
        """Mean squared error of the noise at a random step of the chain."""
        schedule = self.net.schedule(ihc.device)
        t = torch.randint(1, self.cfg.chain + 1, (len(ihc),), device=ihc.device)
        noise = torch.randn_like(ihc)
        return _mean_square(self.net.score(schedule.q_sample(ihc, t, noise), t - 1), noise)

    def _estimator_loss(self, ihc: Tensor) -> tuple[Tensor, Tensor]:
        """MINE on images and the edges of their brightness, noised to a common step with noises of their own."""
        schedule, gray = self.net.schedule(ihc.device), without_colour(ihc)
        low, high = (0, 1) if self.cfg.clean_estimator else (1, self.cfg.sampling.start + 1)
        t = torch.randint(low, high, (len(ihc),), device=ihc.device)
        kind = self.cfg.estimator.edges
        source = gray if kind == "gray" else ihc
        edges = gradient_map(schedule.q_sample(source, t, torch.randn_like(ihc)), kind)
        image = schedule.q_sample(ihc, t, torch.randn_like(ihc))
        return self.net.estimator.loss(edges, image, t, rate=self.cfg.estimator_rate)

    def generator(self) -> nn.Module:
        return self.net

    def header_options(self) -> dict[str, object]:
        names = set(NetworkOptions.model_fields)
        return self.cfg.model_dump(mode="json", include=names)

    def generator_state(self) -> dict[str, Tensor]:
        return self.net.state_dict()


def check_sampling(options: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """ConfigError where a network of header `options` cannot stain with `sampling` in place of its own options."""
    own = validate(NetworkOptions, dict(options), "generator options")
    validate(SamplingOptions, {**own.sampling.model_dump(), **sampling}, "sampling")


def generator_network(options: dict[str, Any]) -> nn.Module:
    """The staining network of a weights header; ConfigError on unknown or missing options."""
    return validate(NetworkOptions, dict(options), "generator options").build()
