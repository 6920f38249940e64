"""What the three turbo systems have in common: the translators' settings, their critic, their distance of images.

A turbo system holds one U-Net, one VAE a direction and the embeddings of two prompts; a direction is named by the
domain it leads to ("ihc" or "he"), and a critic by the domain that it holds for real.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from wsistain.config import Strict, validate
from wsistain.errors import WeightsError
from wsistain.losses.adversarial import bce_g
from wsistain.losses.perceptual import Lpips
from wsistain.markers import Marker
from wsistain.networks.clip_critic import ClipCritic
from wsistain.networks.clip_tower import (
    CLIP_HUB,
    ClipImageTower,
    find_clip,
    load_image_tower,
    load_text_tower,
    pad_tokens,
)
from wsistain.networks.sd_turbo import (
    ALL_PARTS,
    BUILT_IN,
    SD_TURBO,
    base_fingerprint,
    check_fingerprint,
    embed_prompt,
    find_base,
    load_base,
    prompt_tokens,
    tokenize,
)
from wsistain.networks.turbo import (
    OneStepTranslator,
    SkipVae,
    Training,
    adapt_unet,
    adapt_vae,
    recompute_activations,
    store_frozen,
)
from wsistain.published.places import check_net, require_net


class TurboModel(Strict):
    """The translator: its base, what trains in it, and how it is told where to go."""

    base: str = Field(SD_TURBO, description="hub id, folder in diffusers' layout, or a random built-in: tiny, small")
    rank_unet: int = Field(128, ge=1, description="rank of the U-Net's adapters; their alpha is the same")
    rank_vae: int = Field(4, ge=1, description="rank of the VAEs' adapters; their alpha is 8")
    train_conv_in: bool = Field(True, description="the U-Net's first convolution trains in full")
    train_skips: bool = Field(True, description="the skip convolutions train in full")
    train_base: bool = Field(False, description="everything trains in full: for bases that were never trained")
    skip_gain: float = Field(1.0, ge=0, description="factor on the skips; 0 is the plain VAE")
    posterior: Literal["sample", "mean"] = Field(
        "sample", description="the latent in training; staining takes the mean"
    )
    prompt_ihc: str | None = Field(None, description="text that leads to the IHC; None: the marker's")
    prompt_he: str = "hematoxylin and eosin stain"
    checkpointing: bool = Field(True, description="recompute activations in the backward pass: less memory, more time")


class TwoWayModel(TurboModel):
    """The translators of CycleGAN-Turbo and of what is built on it."""

    train_skips: bool = Field(
        False, description="the skip convolutions train in full; the authors' add_adapter leaves only their adapters"
    )


class TurboCritic(Strict):
    """The critic and the perceptual distance: networks that are read from files and stay as they are."""

    clip: str = Field(CLIP_HUB, description="hub id, folder, OpenAI's archive or safetensors of ViT-B/32; or tiny")
    hidden: int = Field(256, ge=1, description="channels within the heads")
    real_target: float = Field(1.0, gt=0.5, le=1, description="what real is called; 0.8 smooths one-sidedly")
    lpips: Literal["published", "tiny"] = "published"


class TurboOptim(Strict):
    """Adam with decoupled weight decay (0: plain Adam), the same for generator and critic."""

    lr: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(10.0, gt=0, description="gradients are clipped to this norm")


TINY: dict[str, Any] = {
    "model": {"base": "tiny", "rank_unet": 4, "rank_vae": 2, "checkpointing": False},
    "critic": {"clip": "tiny", "hidden": 8, "lpips": "tiny"},
    "optim": {"lr": 1e-3},
}


class TurboHeader(Strict):
    """What a weights header says of a translator: enough to build it again around the base model on the machine."""

    base: str
    fingerprint: str
    prompt_tokens: int = Field(ge=1, le=1024)
    rank_unet: int = Field(ge=1, le=4096)
    rank_vae: int = Field(ge=1, le=4096)
    adapt_conv_in: bool
    train_conv_in: bool
    train_skips: bool
    train_base: bool
    skip_gain: float
    input_range: Literal["pm1", "01"] = "pm1"


def _training(model: TurboModel | TurboHeader, adapt_conv_in: bool) -> Training:
    return Training(
        rank_unet=model.rank_unet,
        rank_vae=model.rank_vae,
        adapt_conv_in=adapt_conv_in,
        conv_in=model.train_conv_in,
        skips=model.train_skips,
        base=model.train_base,
    )


class Translators(nn.Module):
    """One U-Net, and for each domain a VAE and a prompt that lead to it, while they train.

    model         : settings of base and adapters.
    prompts       : domain to the text that names it.
    adapt_conv_in : the U-Net's first convolution carries an adapter (CycleGAN-Turbo's way; not Pix2Pix-Turbo's).
    input_range   : of the pictures that the VAE is given, as in `OneStepTranslator`.

    The VAEs start equal, adapters included, as in the authors' code.
    """

    def __init__(
        self,
        model: TurboModel,
        prompts: Mapping[str, str],
        *,
        adapt_conv_in: bool = True,
        input_range: Literal["pm1", "01"] = "pm1",
    ) -> None:
        super().__init__()
        self.model, self.adapt_conv_in, self.input_range = model, adapt_conv_in, input_range
        training = _training(model, adapt_conv_in)
        self.unet, autoencoder = load_base(model.base)
        vae = SkipVae(autoencoder, model.skip_gain)
        adapt_unet(self.unet, training)
        adapt_vae(vae, training)
        self.vaes = nn.ModuleDict({domain: copy.deepcopy(vae) for domain in prompts})
        for domain, text in prompts.items():
            self.register_buffer(f"prompt_{domain}", embed_prompt(model.base, text))
        self.fingerprint = base_fingerprint(model.base)
        if model.checkpointing:
            recompute_activations(self.unet, [self.vae(domain) for domain in prompts])

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Keep what does not train in `dtype`, all but the decoders' last convolutions, which compute in float32."""
        store_frozen(self, dtype, keep=[self.vae(domain).decoder.conv_out for domain in self.vaes])

    def vae(self, domain: str) -> SkipVae:
        """The VAE of the direction that leads to `domain`."""
        vae = self.vaes[domain]
        assert isinstance(vae, SkipVae)
        return vae

    def towards(self, domain: str) -> OneStepTranslator:
        """The direction that leads to `domain`, made of this module's own tensors."""
        prompt = self.get_buffer(f"prompt_{domain}")
        return OneStepTranslator(
            self.unet, self.vae(domain), prompt, self.input_range, whole=self.model.base in BUILT_IN
        )

    def forward(self, image: Tensor, domain: str) -> Tensor:
        """`image` translated to `domain` as in training: the latent drawn or its mean, as the settings say."""
        translated: Tensor = self.towards(domain)(image, sample=self.model.posterior == "sample")
        return translated

    def header_options(self) -> dict[str, Any]:
        """The header options of any of these translators.

        A folder given as `base` is written as the hub's SD-Turbo: paths mean nothing on another machine; the
        fingerprint tells whether the base found there is the same.
        """
        model = self.model
        return TurboHeader(
            base=model.base if model.base in BUILT_IN or _is_hub_id(model.base) else SD_TURBO,
            fingerprint=self.fingerprint,
            prompt_tokens=prompt_tokens(model.base),
            rank_unet=model.rank_unet,
            rank_vae=model.rank_vae,
            adapt_conv_in=self.adapt_conv_in,
            train_conv_in=model.train_conv_in,
            train_skips=model.train_skips,
            train_base=model.train_base,
            skip_gain=model.skip_gain,
            input_range=self.input_range,
        ).model_dump()


def _is_hub_id(base: str) -> bool:
    return base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).is_dir()


def translator_from_header(options: Mapping[str, Any]) -> OneStepTranslator:
    """The network that a weights header describes, its base read from this machine, ready for `load_trained`.

    Raises ConfigError on options of another form, WeightsError when the base is absent or another one.
    """
    header = validate(TurboHeader, dict(options), "header options")
    unet, autoencoder = load_base(header.base)
    check_fingerprint(header.base, header.fingerprint)
    vae = SkipVae(autoencoder, header.skip_gain)
    training = _training(header, header.adapt_conv_in)
    adapt_unet(unet, training)
    adapt_vae(vae, training)
    prompt = torch.zeros(1, header.prompt_tokens, unet.config.cross_attention_dim)
    return OneStepTranslator(unet, vae, prompt, header.input_range, whole=header.base in BUILT_IN)


def marker_prompt(model: TurboModel, marker: Marker) -> str:
    """The text that leads to the IHC of `marker`."""
    return model.prompt_ihc if model.prompt_ihc is not None else marker.prompt


def require_published(model: TurboModel, critic: TurboCritic) -> None:
    """Nothing, or one WeightsError that names every published network that is missing, before anything large is read."""
    finders: list[Callable[[], object]] = []
    if model.base not in BUILT_IN:
        finders.append(lambda: find_base(model.base, ALL_PARTS))
    if critic.clip != "tiny":
        finders.append(lambda: find_clip(critic.clip))
    if critic.lpips == "published":
        finders += [lambda: require_net("vgg16"), lambda: require_net("lpips_vgg")]
    missing = []
    for find in finders:
        try:
            find()
        except WeightsError as error:
            missing.append(str(error))
    if len(missing) > 1:
        raise WeightsError(f"{len(missing)} published networks are missing: {'; '.join(missing)}")
    if missing:
        raise WeightsError(missing[0])


def build_critic(cfg: TurboCritic, domains: Iterable[str]) -> ClipCritic:
    """Critics of the `domains` on the CLIP tower that is asked for."""
    tower = ClipImageTower.tiny() if cfg.clip == "tiny" else load_image_tower(cfg.clip)
    return ClipCritic(tower, domains, cfg.hidden)


def build_lpips(cfg: TurboCritic) -> Lpips:
    """LPIPS on VGG16 with its published weights, or the random tiny one."""
    if cfg.lpips == "tiny":
        return Lpips.tiny("vgg")
    lpips = Lpips("vgg")
    files = [require_net(name) for name in ("vgg16", "lpips_vgg")]
    for name, path in zip(("vgg16", "lpips_vgg"), files, strict=True):
        check_net(name, path)
    lpips.load_published(*files)
    return lpips


def clip_text_embedding(cfg: TurboCritic, model: TurboModel, text: str, width: int) -> Tensor:
    """CLIP's embedding (1, width) of `text`, its tokens from the base's tokenizer (the vocabulary is CLIP's own).

    Random, but fixed by the text, where the tower or the base is a random one.
    """
    if cfg.clip == "tiny" or model.base in BUILT_IN:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
        return torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        embedding: Tensor = load_text_tower(cfg.clip)(pad_tokens(tokenize(model.base, text)))
    return embedding


@dataclass(frozen=True)
class Verdicts:
    """What a critic says of pictures, as losses: scalars, summed over the domains of the pictures.

    Pictures are given by domain, each goes before the critic of its own. `real_target` is what real is called.
    """

    critic: ClipCritic
    real_target: float

    def on_reals(self, images: Mapping[str, Tensor]) -> Tensor:
        """The critic's loss on real pictures."""
        return self._judge(images, self.real_target)

    def on_fakes(self, fakes: Mapping[str, Tensor]) -> Tensor:
        """The critic's loss on fakes; no gradient reaches what made them."""
        return self._judge({domain: fake.detach() for domain, fake in fakes.items()}, 0.0)

    def fooled(self, fakes: Mapping[str, Tensor]) -> Tensor:
        """The generator's loss in its non-saturating form: fakes that should pass for real."""
        return self._judge(fakes, self.real_target)

    def _judge(self, images: Mapping[str, Tensor], target: float) -> Tensor:
        """Cross-entropy of the logits with `target`: mean over images and space, sum over levels, then domains."""
        domains = []
        for domain, image in images.items():
            levels = [bce_g(level, real_target=target) for level in self.critic(image, domain)]
            domains.append(torch.stack(levels).sum())
        return torch.stack(domains).sum()


def image_distance(lpips: Lpips, a: Tensor, b: Tensor, l1_weight: float, lpips_weight: float) -> Tensor:
    """`l1_weight` mean |a - b| + `lpips_weight` LPIPS: a scalar; a weight of 0 leaves its part out."""
    parts = []
    if l1_weight:
        parts.append(l1_weight * F.l1_loss(a.float(), b.float()))
    if lpips_weight:
        parts.append(lpips_weight * lpips(a, b).mean())
    return torch.stack(parts).sum() if parts else a.new_zeros(())


def weighted_part(terms: Mapping[str, Tensor], weights: BaseModel) -> Tensor:
    """Sum of some of a system's terms times their weights, for steps that take the terms in turns."""
    return torch.stack([getattr(weights, name) * term.float() for name, term in terms.items()]).sum()


def adam(parameters: Iterable[nn.Parameter], optim: TurboOptim) -> torch.optim.AdamW:
    """The optimiser of those `parameters` that take gradients."""
    trained = [p for p in parameters if p.requires_grad]
    return torch.optim.AdamW(trained, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
