"""PyramidP2P: Pix2Pix with L1 on several octaves, so that a shifted section is judged by its coarse picture.

Paper: Liu, Zhu, Xu, Shi, Yuan, Lu, "BCI: Breast cancer immunohistochemical image generation through pyramid pix2pix",
CVPR Workshops 2022 (arXiv:2204.11425), section 4. Code: bupt-ai-cz/BCI.

Decided here:
- Weights, networks and octaves are the code's (four 3 x 3 Gaussian blurs of sigma 1, then every second pixel); the
  paper names none that differ, so both presets are the same. The code's image pool is unused and left out.
- At run time dropout is off and batch norm uses its running statistics. The code's own test leaves both in training
  mode; mention this when comparing.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wsistain.config import Strict, preset_of
from wsistain.losses.adversarial import bce_d, bce_g
from wsistain.losses.gaussian_pyramid import octave_l1
from wsistain.markers import Marker
from wsistain.networks.layers import initialise
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.resnet import ResnetGenerator
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum


class Weights(Strict):
    """Weights of the generator's terms (code: 25 for each octave)."""

    gan: float = 1.0
    octaves: float = 25.0


class Config(SystemConfig):
    """Networks and optimiser of PyramidP2P."""

    n_blocks: int = 9
    ngf: int = 64
    dropout: float = 0.5
    n_octaves: int = 4
    n_layers: int = 3  # of the discriminator: 70 x 70 px patches
    ndf: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The values of "paper" or "official" (they agree) under `overrides`."""
        return preset_of(cls, {}, overrides, f"options of pyramidp2p ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """Networks that train in seconds on any machine."""
        values = {"n_blocks": 1, "ngf": 4, "n_layers": 2, "ndf": 4}
        return preset_of(cls, values, overrides, "options of pyramidp2p (tiny)")


class PyramidP2P(nn.Module):
    """Generator `G`, discriminator `D` on the six channels of (H&E, IHC), and their steps."""

    def __init__(self, cfg: Config, marker: Marker):
        super().__init__()
        self.cfg = cfg
        self.G = generator_network(self.header_options())
        self.D = PatchDiscriminator(cfg.n_layers, cfg.ndf, in_channels=6, norm="batch", blur=False)
        initialise(self.G, "normal")
        initialise(self.D, "normal")
        self.optimizers: dict[str, Optimizer] = {
            "G": Adam(self.G.parameters(), lr=cfg.lr, betas=cfg.betas),
            "D": Adam(self.D.parameters(), lr=cfg.lr, betas=cfg.betas),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """The discriminator's step, then the generator's."""
        fake = self.G(batch.he)
        real_pair = torch.cat([batch.he, batch.ihc], dim=1)
        loss_d = bce_d(self.D(real_pair), self.D(torch.cat([batch.he, fake.detach()], dim=1)))
        update(self.optimizers["D"], loss_d)
        with frozen(self.D):
            terms = {
                "gan": bce_g(self.D(torch.cat([batch.he, fake], dim=1))),
                "octaves": octave_l1(fake, batch.ihc, self.cfg.n_octaves),  # sum over octaves of mean |difference|
            }
            update(self.optimizers["G"], weighted_sum(terms, self.cfg.weights))
        return {**terms, "d": loss_d}

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf, "dropout": self.cfg.dropout}

    def generator_state(self) -> dict[str, Tensor]:
        return self.G.state_dict()


def generator_network(options: dict[str, Any]) -> nn.Module:
    """The ResNet of a weights header: batch norm, strided and transposed convolutions."""
    return ResnetGenerator(options["n_blocks"], options["ngf"], norm="batch", blur=False, dropout=options["dropout"])
