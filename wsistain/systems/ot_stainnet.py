"""OT-StainNet: CycleGAN-Turbo that learns from the neighbouring section through matched features.

"OT-StainNet: Optimal Transport Driven Semantic Matching for Weakly Paired H&E-to-IHC Stain Transfer", AAAI 2025,
eq. 1 to 7 and algorithm 1. SD-Turbo with adapters is trained in both directions (adversarial, cycle and identity
terms); beyond that, transport reorders the features of the real, weakly paired IHC onto the places of the H&E
(OTSM), and the relations among them supervise those among the features of the virtual IHC (SCC).

No code was published. What the paper leaves open is an option here, and docs/systems/ot_stainnet.md lists each
decision. `preset: official` takes over what the base code of the translator does where the paper is silent: five
updates a batch and weight decay.
"""

import copy
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsistain.config import Strict, preset_of
from wsistain.errors import DataError
from wsistain.losses.semantic import aligned_features, feature_l1, feature_rows, match_plan, semantic_consistency
from wsistain.markers import Marker
from wsistain.networks.clip_tower import ClipImageTower
from wsistain.networks.turbo import (
    OneStepTranslator,
    SkipVae,
    encode_image,
    merge_adapters,
    run_down_blocks,
    store_frozen,
)
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
    """Factors of eq. 7, from the paper's settings."""

    adversarial: float = 0.5
    cycle: float = 10.0
    identity: float = 1.0
    semantic: float = 1000.0


class Semantic(Strict):
    """How places are matched and compared; the paper leaves all of it open but the metric's form."""

    encoder: Literal["base", "adapted", "clip"] = Field(
        "base", description="whose features: the base's VAE without adapters, the generator's VAE, the critic's CLIP"
    )
    layer: Literal["down", "latent"] = Field(
        "down", description="of a VAE: last down block (512 channels) or the latent"
    )
    pool: int = Field(1, ge=1, description="places are means over pool x pool cells")
    solver: Literal["exact", "entropic", "none"] = Field("exact", description="of the transport; none leaves OTSM out")
    reg: float = Field(0.05, gt=0, description="entropic weight")
    normalize: bool = Field(True, description="features of unit length in the cost")
    alignment: Literal["rows", "paper"] = Field("rows", description="paper: P^T F as printed, which does not align")
    consistency: Literal["similarity", "l1"] = Field("similarity", description="eq. 3, or the ablation 'w/o SCC'")
    reverse: bool = Field(False, description="the virtual H&E is supervised in the same way")


class Config(SystemConfig):
    """OT-StainNet's options; values of the paper, and of the base code where it gives none."""

    model: TwoWayModel = TwoWayModel()
    critic: TurboCritic = TurboCritic()
    optim: TurboOptim = TurboOptim(lr=1e-5)
    weights: Weights = Weights()
    l1_weight: float = Field(1.0, ge=0, description="of mean |a - b| within L_rec, eq. 5 and 6")
    lpips_weight: float = Field(1.0, ge=0, description="of LPIPS within L_rec")
    semantic: Semantic = Semantic()
    turbo_steps: bool = Field(False, description="five updates a batch as in the base code, not algorithm 1's two")

    @classmethod
    def preset(cls, name: Literal["paper", "official"], overrides: dict[str, Any]) -> "Config":
        """The paper; or, where it is silent, what the code of CycleGAN-Turbo does."""
        official = {"turbo_steps": True, "optim": {"weight_decay": 1e-2}}
        return preset_of(cls, official if name == "official" else {}, overrides, "options")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """The same classes at a size that trains in seconds on a CPU."""
        return preset_of(cls, preset_of(cls, cls().model_dump(), TINY, "tiny").model_dump(), overrides, "options")


class _Features(nn.Module):
    """Frozen copy of a VAE's encoder as it came: its features do not move while training does.

    vae : not trained yet, so its adapters still add 0 and merging them gives the base back.
    """

    encoder: nn.Module
    quant_conv: nn.Module

    def __init__(self, vae: SkipVae) -> None:
        super().__init__()
        self.encoder, self.quant_conv = copy.deepcopy(vae.encoder), copy.deepcopy(vae.quant_conv)
        merge_adapters(self)
        self.requires_grad_(False)


class OTStainNet(nn.Module):
    """Both directions, their critics and the matching while they train."""

    def __init__(self, cfg: Config, marker: Marker) -> None:
        super().__init__()
        self.cfg = cfg
        self.clip_norm = cfg.optim.clip_norm
        require_published(cfg.model, cfg.critic)
        self.translators = Translators(cfg.model, {"ihc": marker_prompt(cfg.model, marker), "he": cfg.model.prompt_he})
        self.features = _Features(self.translators.vae("ihc")) if cfg.semantic.encoder == "base" else None
        self.critic = build_critic(cfg.critic, ("ihc", "he"))
        self.verdicts = Verdicts(self.critic, cfg.critic.real_target)
        self.lpips = build_lpips(cfg.critic)
        self.optimizers = {
            "G": adam(self.translators.parameters(), cfg.optim),
            "D": adam(self.critic.parameters(), cfg.optim),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """Algorithm 1 on one batch: the critics, then the generator on eq. 7 (or the base code's five updates).

        Raises DataError when the pictures are not pairs: the matching needs the section beside the H&E.
        """
        if self.cfg.weights.semantic and not batch.is_paired:
            raise DataError("OT-StainNet needs weak pairs (data.pairing: weak), or weights.semantic: 0")
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
                fooling=self._matched,
                identity=self._identity,
            )
        fakes = translated(self.translators, batch)
        critic = self.verdicts.on_reals(reals(batch)) + self.verdicts.on_fakes(fakes)
        update(self.optimizers["D"], 0.5 * critic)
        with frozen(self.critic):
            terms = {
                "adversarial": self.verdicts.fooled(fakes),  # eq. 4
                **self._cycle(batch, fakes),  # eq. 5
                **self._identity(batch),  # eq. 6
                "semantic": self._semantic(batch, fakes),  # eq. 1 to 3
            }
            update(self.optimizers["G"], weighted_sum(terms, self.cfg.weights))  # eq. 7
        return terms | {"critic": critic}

    def _matched(self, batch: Batch, fakes: Pictures) -> Terms:
        """What the base code's update of fooling holds here: eq. 4, and the matching of the same fakes."""
        return {"adversarial": self.verdicts.fooled(fakes), "semantic": self._semantic(batch, fakes)}

    def _cycle(self, batch: Batch, fakes: Pictures) -> Terms:
        return {"cycle": self._distance(returned(self.translators, fakes), batch)}

    def _identity(self, batch: Batch) -> Terms:
        return {"identity": self._distance(kept(self.translators, batch), batch)}

    def _distance(self, made: Pictures, batch: Batch) -> Tensor:
        """L_rec of eq. 5 and 6, of both directions."""
        return distance_to_reals(self.lpips, made, batch, self.cfg.l1_weight, self.cfg.lpips_weight)

    def _semantic(self, batch: Batch, fakes: Pictures) -> Tensor:
        """Eq. 3 for the virtual IHC; and for the virtual H&E where `reverse` asks for it."""
        if not self.cfg.weights.semantic:
            return batch.he.new_zeros(())
        with torch.no_grad():
            he, ihc = self._rows(batch.he), self._rows(batch.ihc)
        loss = self._consistency(he, ihc, fakes["ihc"])
        return loss + self._consistency(ihc, he, fakes["he"]) if self.cfg.semantic.reverse else loss

    def _consistency(self, source: Tensor, target: Tensor, virtual: Tensor) -> Tensor:
        """How the virtual picture's features differ from `target` rows brought to the places of `source` rows."""
        cfg = self.cfg.semantic
        plan_ot = match_plan(source, target, cfg.solver, reg=cfg.reg, normalize=cfg.normalize)
        matched = aligned_features(plan_ot, target, cfg.alignment)
        compare = semantic_consistency if cfg.consistency == "similarity" else feature_l1
        return compare(matched, self._rows(virtual))

    def _rows(self, image: Tensor) -> Tensor:
        """Feature rows (b, n, d) of pictures; no parameter takes a gradient from them, the pictures do."""
        cfg = self.cfg.semantic
        if cfg.encoder == "clip":
            return feature_rows(_last_map(self.critic.tower, image), cfg.pool)
        vae = self.features if self.features is not None else self.translators.vae("ihc")
        with frozen(vae):
            if cfg.layer == "latent":
                features = encode_image(vae.encoder, vae.quant_conv, image).mean
            else:
                features, _ = run_down_blocks(vae.encoder, image)
        return feature_rows(features.float(), cfg.pool)

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Keep the frozen base in `dtype`; see `Translators.store_frozen`."""
        self.translators.store_frozen(dtype)
        if self.features is not None:
            store_frozen(self.features, dtype)

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


def _last_map(tower: ClipImageTower, image: Tensor) -> Tensor:
    """CLIP's deepest token map (b, 768, 7, 7): 49 places a picture."""
    features: list[Tensor] = tower(image)
    return features[-2]


def generator_network(options: dict[str, Any]) -> OneStepTranslator:
    """The staining network of a weights header, without its trained tensors."""
    return translator_from_header(options)
