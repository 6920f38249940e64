"""Pix2Pix: a U-Net trained on pairs by a conditional discriminator and L1.

Paper: Isola, Zhu, Zhou, Efros, "Image-to-image translation with conditional adversarial networks", CVPR 2017
(arXiv:1611.07004), equations 1 to 4. Code: junyanz/pytorch-CycleGAN-and-pix2pix.

Decided here:
- Dropout stands in the three 512-channel levels above the innermost one, as in the code; the paper's list of layers
  puts it one level deeper. Everything else agrees, so both presets are the same.
- At run time dropout is off and batch norm uses its running statistics. Paper and code leave both in training mode,
  which makes the stain of a tile depend on chance and on the tile; mention this when comparing.
- The pairs are weak (consecutive sections), which L1 punishes: the method is a baseline here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wsistain.config import Strict, preset_of
from wsistain.losses.adversarial import bce_d, bce_g
from wsistain.markers import Marker
from wsistain.networks.layers import initialise
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.unet import UnetGenerator
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum


class Weights(Strict):
    """Weights of the generator's terms (paper, section 3.3 and appendix 6.2)."""

    gan: float = 1.0
    l1: float = 100.0


class Config(SystemConfig):
    """Networks and optimiser of Pix2Pix."""

    n_levels: int = 8  # halvings of the U-Net; crops are multiples of 2 ** n_levels
    ngf: int = 64
    dropout: float = 0.5
    n_layers: int = 3  # of the discriminator: 70 x 70 px patches
    ndf: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The values of "paper" or "official" (they agree) under `overrides`."""
        return preset_of(cls, {}, overrides, f"options of pix2pix ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """Networks that train in seconds on any machine."""
        values = {"n_levels": 4, "ngf": 4, "n_layers": 2, "ndf": 4}
        return preset_of(cls, values, overrides, "options of pix2pix (tiny)")


class Pix2Pix(nn.Module):
    """Generator `G`, discriminator `D` on the six channels of (H&E, IHC), and their steps."""

    def __init__(self, cfg: Config, marker: Marker):
        super().__init__()
        self.cfg = cfg
        self.G = generator_network(self.header_options())
        self.D = PatchDiscriminator(cfg.n_layers, cfg.ndf, in_channels=6, norm="batch", blur=False)
        initialise(self.D, "normal")
        self.optimizers: dict[str, Optimizer] = {
            "G": Adam(self.G.parameters(), lr=cfg.lr, betas=cfg.betas),
            "D": Adam(self.D.parameters(), lr=cfg.lr, betas=cfg.betas),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """The discriminator's step, then the generator's."""
        fake = self.G(batch.he)
        real_pair = torch.cat([batch.he, batch.ihc], dim=1)
        loss_d = bce_d(self.D(real_pair), self.D(torch.cat([batch.he, fake.detach()], dim=1)))  # eq. 1, halved
        update(self.optimizers["D"], loss_d)
        with frozen(self.D):
            terms = {
                "gan": bce_g(self.D(torch.cat([batch.he, fake], dim=1))),  # eq. 1, non-saturating
                "l1": (fake.float() - batch.ihc).abs().mean(),  # eq. 3
            }
            update(self.optimizers["G"], weighted_sum(terms, self.cfg.weights))  # eq. 4
        return {**terms, "d": loss_d}

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_levels": self.cfg.n_levels, "ngf": self.cfg.ngf, "dropout": self.cfg.dropout}

    def generator_state(self) -> dict[str, Tensor]:
        return self.G.state_dict()


def generator_network(options: dict[str, Any]) -> nn.Module:
    """The U-Net of a weights header."""
    return UnetGenerator(options["n_levels"], options["ngf"], norm="batch", dropout=options["dropout"])
