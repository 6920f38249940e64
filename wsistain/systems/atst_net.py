"""ATST-Net: a CycleGAN told by automatic annotation where the marker is, how strong it is, and on how many nuclei.

Paper: Xu, Song, Deng, Wang, Wang, Li, "Advancing Stain Transfer for Multi-Biomarkers: A Human Annotation-Free Method
Based on Auxiliary Task Supervision", IJCAI 2025. Code: SikangSHU/ATST-Net.

The real IHC of the adjacent section is separated, thresholded and closed to a mask (Eq. 1), and the virtual IHC must
show the same region: as a whole (L1, Eq. 2), in its most and least stained patches (L2, L3, Eq. 3), with the same mean
intensity (L4, Eq. 4) and number of nuclei (L5, Eq. 5). `G_ihc` is PathoDuet's ViT with a convolutional decoder, `G_he`
the U-Net of PC-StainGAN.

Decided here; `official` is what the authors' code does:
- The mask of the virtual image is a soft one with the annotation's own morphology. The code's sigmoids leave a gradient
  of about 1e-40, so its L1 to L3 cannot train; it also stands in for the closing with a dilation. (`mask_form`)
- L5 has no gradient in the code. Here it is the difference of a smooth count ("soft"), only watched ("monitor"), or
  left out ("none"). (`count`)
- Weights are the paper's; the code's differ and add an identity term. (`weights`)
- Discriminators judge patches, as in the CycleGAN that the paper cites; the code averages them to one number an image.
  (`pooled_critic`)
- The IHC of the IHC-to-H&E branch is the partner of the H&E; in the code another one. (`unpaired_b`)
- All windows of an image pass the generator in one batch; in the code one by one, so that batch norm sees each alone.
  (`windows_together`)
- The paper includes structural similarity in the cycle term without saying how; the factor is the code's. (`ssim_gain`)
- L5 weighs 1 a nucleus, in the paper as in the code, which counts in hundreds and weighs by 100. (`count_unit`)
- L5 counts with our own small counter, not the paper's CPP-Net, unless its weights are given. (`counter`)
- The soft mask's step is a share of the distance between the two classes that Otsu finds, so that a picture painted
  darker throughout is no better than the real one. (`softness`)
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wsistain.config import Strict, preset_of, validate
from wsistain.errors import ConfigError, DataError
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.auxiliary import count_loss, cycle_loss, intensity_loss, local_location_losses, location_loss
from wsistain.markers import Marker, require_dab
from wsistain.networks.layers import initialise
from wsistain.networks.nucleus_counter import load_counter
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.replay import ReplayPool
from wsistain.networks.stain_unet import StainUNet
from wsistain.networks.vit import VitGenerator, Windowed, load_encoder
from wsistain.numerics import in_float32
from wsistain.optics.masks import (
    Annotation,
    annotate_batch,
    dab_gray,
    haematoxylin_saturation,
    official_mask,
    soft_mask,
)
from wsistain.optics.stains import to_unit
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum

PATCH_GRID = 4  # 16 patches, of which the 4 most and the 4 least stained count (Eq. 3)


class Weights(Strict):
    """Weights of the generators' terms (paper, section 4.3); adversarial, cycle and identity sum both directions."""

    gan: float = 1.0
    cycle: float = 5.0  # alpha
    identity: float = 0.0  # not in the paper
    location: float = 60.0  # beta 1
    most_stained: float = 10.0  # beta 2
    least_stained: float = 10.0  # beta 3
    intensity: float = 20.0  # beta 4
    count: float = 1.0  # beta 5


AUXILIARY = ("location", "most_stained", "least_stained", "intensity", "count")
OFFICIAL_WEIGHTS = {
    "identity": 10.0,
    "location": 50.0,
    "most_stained": 100.0,
    "least_stained": 100.0,
    "intensity": 1.0,
    "count": 100.0,
}


class VitOptions(Strict):
    """The H&E-to-IHC generator: see `VitGenerator` and `Windowed`."""

    window: int = Field(224, ge=8)
    stride: int = Field(144, ge=1)
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    taps: tuple[int, ...] = (3, 6, 9, 12)
    decoder: tuple[int, ...] = (512, 256, 128, 64)
    n_residual: int = Field(5, ge=0, description="residual blocks at the bottleneck; 0: none (Table 3)")
    skips: bool = Field(True, description="skip connections from the encoder; False: without (Table 3)")
    vit_range: Literal["pm1", "01"] = Field("pm1", description="01: [0, 1] into the encoder, as PathoDuet was trained")


class UnetOptions(Strict):
    """The IHC-to-H&E generator: see `StainUNet`."""

    base: int = 32
    n_residual: int = 5


class AnnotationOptions(Strict):
    """How masks are made: see `Annotation`."""

    sigma: float = Field(1.0, gt=0)
    opening: int = Field(2, ge=0)
    closing_radius: int = Field(30, ge=0, description="px; larger forgives more shift between the sections")
    threshold_cap: float = Field(1.0, gt=0, le=1, description="below 1 keeps Otsu from splitting the noise of blanks")

    def annotation(self) -> Annotation:
        return Annotation(**self.model_dump())


class Config(SystemConfig):
    """Networks, masks and losses of ATST-Net."""

    encoder: str | None = Field(None, description="path of PathoDuet's checkpoint_HE.pth, or random")
    generator: Literal["vit", "unet"] = Field(
        "vit", description="unet: H&E to IHC by the network of the way back, without an encoder (Table 2, column U)"
    )
    g_ihc: VitOptions = VitOptions()
    g_he: UnetOptions = UnetOptions()
    windows_together: bool = True
    ndf: int = 64
    d_layers: int = 3
    pooled_critic: bool = False
    pool_size: int = Field(50, ge=1)
    annotation: AnnotationOptions = AnnotationOptions()
    mask_form: Literal["soft", "official"] = "soft"
    softness: float = Field(
        0.05, gt=0, description="of the soft mask's step, as a share of the distance between Otsu's two classes"
    )
    count: Literal["soft", "monitor", "none"] = "soft"
    counter: str = Field("small", description="small: the shipped counter; or the path of a CPP-Net checkpoint")
    count_unit: float = Field(1.0, gt=0, description="nuclei that L5 counts as one; the code: 100, at a weight of 100")
    ssim_gain: float = Field(5.0, ge=0)
    unpaired_b: bool = False
    lr: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    def automatic_masks(self) -> Annotation | None:
        """What the loop makes masks with before training; None where no term looks at them."""
        return self.annotation.annotation() if any(getattr(self.weights, name) for name in AUXILIARY) else None

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The paper's values, or the authors' code's, under `overrides`."""
        official = {
            "windows_together": False,
            "pooled_critic": True,
            "mask_form": "official",
            "count": "monitor",
            "count_unit": 100.0,
            "unpaired_b": True,
            "weights": OFFICIAL_WEIGHTS,
        }
        return preset_of(cls, official if name == "official" else {}, overrides, f"options of atst_net ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """Networks that train in seconds on any machine."""
        vit = {"window": 32, "stride": 20, "patch": 8, "width": 32, "depth": 3, "heads": 2, "n_residual": 1}
        values = {
            "encoder": "random",
            "g_ihc": {**vit, "taps": (1, 2, 3), "decoder": (16, 8, 4)},
            "g_he": {"base": 4, "n_residual": 1},
            "ndf": 4,
            "d_layers": 2,
            "pool_size": 3,
            "annotation": {"closing_radius": 2},
        }
        return preset_of(cls, values, overrides, "options of atst_net (tiny)")


@in_float32
def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


class _Before(nn.Module):
    """Hands out the images it was given the time before: other patches than the current ones, drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        self.images = torch.empty(0)

    def exchange(self, images: Tensor) -> Tensor:
        before, self.images = self.images, images.detach().clone()
        return before.to(images) if before.shape == images.shape else images

    def get_extra_state(self) -> Tensor:
        return self.images

    def set_extra_state(self, state: Tensor) -> None:
        self.images = state.clone()


class AtstNet(nn.Module):
    """Both generators, their discriminators, pools of earlier fakes, the nucleus counter, and one step of them all."""

    def __init__(self, cfg: Config, marker: Marker | None = None) -> None:
        super().__init__()
        require_dab(marker, "ATST-Net")
        self.cfg = cfg
        self.G_he = StainUNet(**cfg.g_he.model_dump())
        self.encoder_start = "none"
        self.G_ihc: nn.Module = StainUNet(**cfg.g_he.model_dump())
        if cfg.generator == "vit":
            self.G_ihc = _windowed(cfg.g_ihc, together=cfg.windows_together)
            self.encoder_start = _start_encoder(self.G_ihc.network, cfg.encoder)
        self.D_ihc = PatchDiscriminator(cfg.d_layers, cfg.ndf, blur=False)
        self.D_he = PatchDiscriminator(cfg.d_layers, cfg.ndf, blur=False)
        initialise(self.D_ihc, "normal")
        initialise(self.D_he, "normal")
        self.pool_ihc, self.pool_he, self.before = ReplayPool(cfg.pool_size), ReplayPool(cfg.pool_size), _Before()
        self.counter = load_counter(cfg.counter) if cfg.count != "none" else None
        makers = [p for g in (self.G_ihc, self.G_he) for p in g.parameters() if p.requires_grad]
        self.optimizers: dict[str, Optimizer] = {
            "G": Adam(makers, lr=cfg.lr, betas=cfg.betas),
            "D_he": Adam(self.D_he.parameters(), lr=cfg.lr, betas=cfg.betas),
            "D_ihc": Adam(self.D_ihc.parameters(), lr=cfg.lr, betas=cfg.betas),
        }

    def train(self, mode: bool = True) -> "AtstNet":
        super().train(mode)
        if self.counter is not None:
            self.counter.eval()
        return self

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """Both generators, then the discriminator of H&E, then that of IHC (the code's order)."""
        # Both ways, and the generators' update.
        he, weights = batch.he, self.cfg.weights
        ihc = self.before.exchange(batch.ihc) if self.cfg.unpaired_b else batch.ihc
        fake_ihc, fake_he = self.G_ihc(he), self.G_he(ihc)
        with frozen(self.D_ihc, self.D_he):
            gain = self.cfg.ssim_gain
            terms = {
                "gan": lsgan_g(self._judge(self.D_ihc, fake_ihc)) + lsgan_g(self._judge(self.D_he, fake_he)),
                "cycle": cycle_loss(self.G_he(fake_ihc), he, ssim_gain=gain)
                + cycle_loss(self.G_ihc(fake_he), ihc, ssim_gain=gain),
                "identity": self._identity(he, ihc) if weights.identity else he.new_zeros(()),
                **self._auxiliary(fake_ihc, batch),
            }
            update(self.optimizers["G"], weighted_sum(terms, weights))  # Eq. 6

        # Each critic on the real pictures and on fakes of this step and earlier ones.
        losses = {}
        for domain, critic, pool, real, fake in (
            ("d_he", self.D_he, self.pool_he, he, fake_he),
            ("d_ihc", self.D_ihc, self.pool_ihc, ihc, fake_ihc),
        ):
            losses[domain] = lsgan_d(self._judge(critic, real), self._judge(critic, pool.exchange(fake)))
            update(self.optimizers[domain.replace("d", "D", 1)], losses[domain])
        return {name: term.detach() for name, term in {**terms, **losses}.items()}

    def _judge(self, critic: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = critic(images)
        return logits.mean((1, 2, 3)) if self.cfg.pooled_critic else logits

    def _identity(self, he: Tensor, ihc: Tensor) -> Tensor:
        return _l1(self.G_ihc(ihc), ihc) + _l1(self.G_he(he), he)

    def _auxiliary(self, fake: Tensor, batch: Batch) -> dict[str, Tensor]:
        """L1 to L5 of the virtual IHC against the annotation of the real one; zeros for terms that weigh nothing."""
        cfg, w = self.cfg, self.cfg.weights
        zero = fake.new_zeros(())
        terms = dict.fromkeys(AUXILIARY, zero)
        if not any(getattr(w, name) for name in terms):
            return terms
        # What the IHC is annotated with, and the mask of the virtual one by the same measure, but differentiable.
        settings = cfg.annotation.annotation()
        light, real_light = to_unit(fake), to_unit(batch.ihc)
        if not batch.is_paired:
            raise DataError("ATST-Net learns from the IHC of the adjacent section: set data.pairing to weak")
        target = batch.mask if batch.mask is not None else annotate_batch(real_light, settings)
        dab = dab_gray(light)
        mask = official_mask(dab) if cfg.mask_form == "official" else soft_mask(dab, settings, softness=cfg.softness)
        if w.location:
            terms["location"] = location_loss(mask, target)  # Eq. 2
        if w.most_stained or w.least_stained:
            terms["most_stained"], terms["least_stained"] = local_location_losses(
                mask, target, grid=PATCH_GRID
            )  # Eq. 3
        if w.intensity:
            terms["intensity"] = intensity_loss(dab, mask, dab_gray(real_light), target)  # Eq. 4
        if w.count and self.counter is not None:
            with torch.no_grad():
                real = haematoxylin_saturation(real_light, target)
            terms["count"] = self._count(haematoxylin_saturation(light, mask), real)  # Eq. 5
        return terms

    def _count(self, fake: Tensor, real: Tensor) -> Tensor:
        assert self.counter is not None
        if self.cfg.count == "monitor":
            return count_loss(self.counter.count(fake.detach()), self.counter.count(real), scale=self.cfg.count_unit)
        with torch.no_grad():
            wanted = self.counter.mass(real)
        return count_loss(self.counter.mass(fake), wanted, scale=self.cfg.count_unit)

    def generator(self) -> nn.Module:
        """H&E to IHC."""
        return self.G_ihc

    def header_options(self) -> dict[str, object]:
        """What `generator_network` needs, and where the encoder started from."""
        if self.cfg.generator == "unet":
            return {"direction": "he-to-ihc", "generator": "unet", **self.cfg.g_he.model_dump(mode="json")}
        return {"direction": "he-to-ihc", **self.cfg.g_ihc.model_dump(mode="json"), "encoder": self.encoder_start}

    def generator_state(self) -> dict[str, Tensor]:
        return self.G_ihc.state_dict()

    def reverse_generator(self) -> nn.Module:
        """IHC to H&E."""
        return self.G_he

    def reverse_header_options(self) -> dict[str, object]:
        return {"direction": "ihc-to-he", **self.cfg.g_he.model_dump(mode="json")}

    def reverse_generator_state(self) -> dict[str, Tensor]:
        return self.G_he.state_dict()


def _start_encoder(network: nn.Module, start: str | None) -> str:
    """Give the encoder its first weights; returns what the weights' header says of them."""
    assert isinstance(network, VitGenerator)
    if start is None:
        raise ConfigError(
            "ATST-Net's encoder starts from PathoDuet (checkpoint_HE.pth, openmedlab/PathoDuet, CC-BY-NC 4.0): "
            "set options.encoder to the file's path, or to random to train from scratch"
        )
    if start == "random":
        return "random"
    n = load_encoder(network, Path(start).expanduser())
    return f"PathoDuet, {n} tensors of {Path(start).name}"


def _windowed(options: VitOptions, *, together: bool = True) -> Windowed:
    values = options.model_dump()
    stride = values.pop("stride")
    return Windowed(VitGenerator(**values), window=options.window, stride=stride, together=together)


def generator_network(options: dict[str, Any]) -> nn.Module:
    """The generator of a weights header, either direction; ConfigError on unknown or missing options."""
    values = dict(options)
    direction = values.pop("direction", None)
    if direction == "ihc-to-he":
        return StainUNet(**validate(UnetOptions, values, "generator options").model_dump())
    if direction != "he-to-ihc":
        raise ConfigError(f"generator options: direction {direction!r} is neither he-to-ihc nor ihc-to-he")
    values.pop("encoder", None)
    if values.pop("generator", "vit") == "unet":
        return StainUNet(**validate(UnetOptions, values, "generator options").model_dump())
    return _windowed(validate(VitOptions, values, "generator options"))
