"""CycleGAN-Turbo: SD-Turbo with adapters, trained without pairs in both directions at once.

Parmar et al. 2024, "One-step image translation with text-to-image models" (arXiv:2403.12036). One U-Net serves both
directions, each with its own copy of the VAE and its prompt. Sum of an adversarial, a cycle and an identity term.

The paper states one objective; the authors' code takes its parts in turns, three updates of the generator and two of
the critics a batch, each after a new forward pass: `turbo_steps`. Their critics `net_disc_a` and `net_disc_b` are
named after the picture they are shown last; ours after the domain that they hold for real.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsistain.config import Strict, preset_of
from wsistain.markers import Marker
from wsistain.networks.turbo import OneStepTranslator
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum
from wsistain.systems.turbo_parts import (
    TINY,
    Translators,
    TurboCritic,
    TurboOptim,
    TwoWayModel,
    Verdicts,
    adam,
    build_critic,
    build_lpips,
    marker_prompt,
    require_published,
    translator_from_header,
)
from wsistain.systems.turbo_two_way import (
    Pictures,
    Terms,
    distance_to_reals,
    five_updates,
    kept,
    reals,
    returned,
    translated,
)


class Weights(Strict):
    """Factors of the terms, from the authors' code."""

    adversarial: float = 0.5
    cycle_l1: float = 1.0
    cycle_lpips: float = 10.0
    identity_l1: float = 1.0
    identity_lpips: float = 1.0


class Config(SystemConfig):
    """CycleGAN-Turbo's options; values of the authors' code and of their worked example."""

    model: TwoWayModel = TwoWayModel()
    critic: TurboCritic = TurboCritic()
    optim: TurboOptim = TurboOptim(lr=1e-5, weight_decay=1e-2, clip_norm=10.0)
    weights: Weights = Weights()
    turbo_steps: bool = Field(False, description="five updates a batch as in the authors' code, instead of two")

    @classmethod
    def preset(cls, name: Literal["paper", "official"], overrides: dict[str, Any]) -> "Config":
        """The paper's two updates a batch, or the official code's five."""
        return preset_of(cls, {**cls().model_dump(), "turbo_steps": name == "official"}, overrides, "options")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """The same classes at a size that trains in seconds on a CPU."""
        return preset_of(cls, preset_of(cls, cls().model_dump(), TINY, "tiny").model_dump(), overrides, "options")


class CycleGANTurbo(nn.Module):
    """Both directions and their critics while they train."""

    def __init__(self, cfg: Config, marker: Marker) -> None:
        super().__init__()
        self.cfg = cfg
        self.clip_norm = cfg.optim.clip_norm
        require_published(cfg.model, cfg.critic)
        self.translators = Translators(cfg.model, {"ihc": marker_prompt(cfg.model, marker), "he": cfg.model.prompt_he})
        self.critic = build_critic(cfg.critic, ("ihc", "he"))
        self.verdicts = Verdicts(self.critic, cfg.critic.real_target)
        self.lpips = build_lpips(cfg.critic)
        self.optimizers = {
            "G": adam(self.translators.parameters(), cfg.optim),
            "D": adam(self.critic.parameters(), cfg.optim),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """One batch: the critics, then the generator on the sum of its terms (or the code's five updates)."""
        if self.cfg.turbo_steps:
            return five_updates(
                batch,
                update,
                translators=self.translators,
                verdicts=self.verdicts,
                optimizers=self.optimizers,
                weights=self.cfg.weights,
                adversarial=self.cfg.weights.adversarial,
                cycle=self._cycle,
                fooling=self._fooled,
                identity=self._identity,
            )
        fakes = translated(self.translators, batch)
        critic = self.verdicts.on_reals(reals(batch)) + self.verdicts.on_fakes(fakes)
        update(self.optimizers["D"], 0.5 * critic)
        with frozen(self.critic):
            terms = self._fooled(batch, fakes) | self._cycle(batch, fakes) | self._identity(batch)
            update(self.optimizers["G"], weighted_sum(terms, self.cfg.weights))
        return terms | {"critic": critic}

    def _fooled(self, batch: Batch, fakes: Pictures) -> Terms:
        return {"adversarial": self.verdicts.fooled(fakes)}

    def _cycle(self, batch: Batch, fakes: Pictures) -> Terms:
        """There and back again."""
        return self._distances("cycle", returned(self.translators, fakes), batch)

    def _identity(self, batch: Batch) -> Terms:
        """Each direction shown a picture that is already in the domain it leads to."""
        return self._distances("identity", kept(self.translators, batch), batch)

    def _distances(self, name: str, made: Pictures, batch: Batch) -> Terms:
        return {
            f"{name}_l1": distance_to_reals(self.lpips, made, batch, 1.0, 0.0),
            f"{name}_lpips": distance_to_reals(self.lpips, made, batch, 0.0, 1.0),
        }

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
        """What was trained of the direction from H&E to IHC, and its prompt's embedding."""
        return self.generator().trained_state()

    def reverse_generator(self) -> OneStepTranslator:
        """The direction from IHC to H&E."""
        return self.translators.towards("he")

    def reverse_header_options(self) -> dict[str, Any]:
        """What `generator_network` needs for the way back: the same, since both directions are built alike."""
        return self.header_options()

    def reverse_generator_state(self) -> dict[str, Tensor]:
        """What was trained of the direction from IHC to H&E, and its prompt's embedding."""
        return self.reverse_generator().trained_state()


def generator_network(options: dict[str, Any]) -> OneStepTranslator:
    """The staining network of a weights header, without its trained tensors."""
    return translator_from_header(options)
