"""Pix2Pix-Turbo: SD-Turbo with adapters, trained on pairs in one direction.

Parmar et al. 2024, "One-step image translation with text-to-image models" (arXiv:2403.12036): squared error, LPIPS,
an adversarial term and the likeness of the output to its text in CLIP's eyes.

The paper states one objective; the authors' code updates the generator twice a batch (reconstruction with likeness;
fooling, after a new forward pass) and the critic twice (real; fake): `turbo_steps`. The code gives the VAE its sources
in [0, 1], a convention of the sketches it was made for; for stains [-1, 1] is the VAE's own range: `input_range`.
`preset: official` is the code in both.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from wsistain.config import Strict, preset_of
from wsistain.errors import DataError
from wsistain.markers import Marker
from wsistain.networks.clip_tower import cosine_to
from wsistain.networks.turbo import OneStepTranslator
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum
from wsistain.systems.turbo_parts import (
    TINY,
    Translators,
    TurboCritic,
    TurboModel,
    TurboOptim,
    Verdicts,
    adam,
    build_critic,
    build_lpips,
    clip_text_embedding,
    marker_prompt,
    require_published,
    translator_from_header,
    weighted_part,
)


class Weights(Strict):
    """Factors of the terms, from the authors' code."""

    adversarial: float = 0.5
    l2: float = 1.0
    lpips: float = 5.0
    likeness: float = 5.0


class Config(SystemConfig):
    """Pix2Pix-Turbo's options; values of the authors' code."""

    model: TurboModel = TurboModel(rank_unet=8)
    critic: TurboCritic = TurboCritic(real_target=0.8)
    optim: TurboOptim = TurboOptim(lr=5e-6, weight_decay=1e-2, clip_norm=1.0)
    weights: Weights = Weights()
    input_range: Literal["pm1", "01"] = Field("pm1", description="of the sources that the VAE is given")
    turbo_steps: bool = Field(False, description="four updates a batch as in the authors' code, instead of two")

    @classmethod
    def preset(cls, name: Literal["paper", "official"], overrides: dict[str, Any]) -> "Config":
        """One objective and sources in [-1, 1]; or the official code's updates and its sources in [0, 1]."""
        official = {"turbo_steps": True, "input_range": "01"}
        return preset_of(cls, {**cls().model_dump(), **(official if name == "official" else {})}, overrides, "options")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """The same classes at a size that trains in seconds on a CPU."""
        return preset_of(cls, preset_of(cls, cls().model_dump(), TINY, "tiny").model_dump(), overrides, "options")


class Pix2PixTurbo(nn.Module):
    """The translator and its critic while they train."""

    text_embedding: Tensor

    def __init__(self, cfg: Config, marker: Marker) -> None:
        super().__init__()
        self.cfg = cfg
        self.clip_norm = cfg.optim.clip_norm
        require_published(cfg.model, cfg.critic)
        text = marker_prompt(cfg.model, marker)
        self.translators = Translators(cfg.model, {"ihc": text}, adapt_conv_in=False, input_range=cfg.input_range)
        self.critic = build_critic(cfg.critic, ("ihc",))
        self.verdicts = Verdicts(self.critic, cfg.critic.real_target)
        self.lpips = build_lpips(cfg.critic)
        if cfg.weights.likeness:
            embedding = clip_text_embedding(cfg.critic, cfg.model, text, self.critic.tower.out)
        else:
            embedding = torch.zeros(1, self.critic.tower.out)
        self.register_buffer("text_embedding", embedding)
        self.optimizers = {
            "G": adam(self.translators.parameters(), cfg.optim),
            "D": adam(self.critic.parameters(), cfg.optim),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """One batch: the critic, then the generator on the sum of its terms (or the code's four updates).

        Raises DataError when the pictures are not pairs.
        """
        if not batch.is_paired:
            raise DataError("Pix2Pix-Turbo learns from pairs: set data.pairing to weak")
        if self.cfg.turbo_steps:
            return self._four_updates(batch, update)
        fake = self.translators(batch.he, "ihc")
        critic = self.verdicts.on_reals({"ihc": batch.ihc}) + self.verdicts.on_fakes({"ihc": fake})
        update(self.optimizers["D"], critic)
        with frozen(self.critic):
            terms = self._fooled(fake) | self._reconstruction(batch, fake)
            update(self.optimizers["G"], weighted_sum(terms, self.cfg.weights))
        return terms | {"critic": critic}

    def _four_updates(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Reconstruction; fooling after a new forward pass; critic on the real one; critic on that fake."""
        weights = self.cfg.weights
        reconstruction = self._reconstruction(batch, self.translators(batch.he, "ihc"))
        update(self.optimizers["G"], weighted_part(reconstruction, weights))
        fake = self.translators(batch.he, "ihc")
        with frozen(self.critic):
            fooled = self._fooled(fake)
            update(self.optimizers["G"], weighted_part(fooled, weights))
        real_loss = self.verdicts.on_reals({"ihc": batch.ihc})
        update(self.optimizers["D"], weights.adversarial * real_loss)
        fake_loss = self.verdicts.on_fakes({"ihc": fake})
        update(self.optimizers["D"], weights.adversarial * fake_loss)
        return reconstruction | fooled | {"critic": real_loss + fake_loss}

    def _fooled(self, fake: Tensor) -> dict[str, Tensor]:
        return {"adversarial": self.verdicts.fooled({"ihc": fake})}

    def _reconstruction(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        return {
            "l2": F.mse_loss(fake.float(), batch.ihc.float()),
            "lpips": self.lpips(fake, batch.ihc).mean(),
            "likeness": self._likeness(fake),
        }

    def _likeness(self, fake: Tensor) -> Tensor:
        """1 - cosine of picture and text: CLIP's logits are 100 times the cosine, the code divides by 100 again."""
        if not self.cfg.weights.likeness:
            return fake.new_zeros(())
        return 1 - cosine_to(self.critic.tower(fake)[-1].float(), self.text_embedding)

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Keep the frozen base in `dtype`; see `Translators.store_frozen`."""
        self.translators.store_frozen(dtype)

    def generator(self) -> OneStepTranslator:
        """The direction from H&E to IHC; takes the posterior's mean."""
        return self.translators.towards("ihc")

    def header_options(self) -> dict[str, Any]:
        """What `generator_network` needs."""
        return self.translators.header_options()

    def generator_state(self) -> dict[str, Tensor]:
        """What was trained, and the prompt's embedding."""
        return self.generator().trained_state()


def generator_network(options: dict[str, Any]) -> OneStepTranslator:
    """The staining network of a weights header, without its trained tensors."""
    return translator_from_header(options)
