"""CycleGAN: two generators that undo each other, each judged by a discriminator of its domain; no pairs needed.

Paper: Zhu, Park, Isola, Efros, "Unpaired image-to-image translation using cycle-consistent adversarial networks",
ICCV 2017 (arXiv:1703.10593), equations 1 to 3 and section 5.2 (identity term). Code:
junyanz/pytorch-CycleGAN-and-pix2pix.

Decided here:
- The identity term is on with half the cycle's weight, the code's default; the paper uses it for some of its tasks.
  Everything else agrees, so both presets are the same.
- Networks are named by the domain they make or judge: `G_ihc` stains, `G_he` goes back, `D_ihc` judges IHC.
- H&E and IHC may come paired or not; the losses never compare them.
"""

from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wsistain.config import Strict, preset_of
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.markers import Marker
from wsistain.networks.layers import initialise
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.networks.replay import ReplayPool
from wsistain.networks.resnet import ResnetGenerator
from wsistain.numerics import in_float32
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum


class Weights(Strict):
    """Weights of the generators' terms, each a sum over both directions."""

    gan: float = 1.0
    cycle: float = 10.0  # paper, section 4
    identity: float = 5.0  # paper, section 5.2: half the cycle's


class Config(SystemConfig):
    """Networks and optimisers of CycleGAN."""

    n_blocks: int = 9  # paper, section 7.2: for 256 px and more
    ngf: int = 64
    n_layers: int = 3  # of the discriminators: 70 x 70 px patches
    ndf: int = 64
    pool_size: int = 50  # paper, section 4
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weights: Weights = Weights()

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The values of "paper" or "official" (they agree) under `overrides`."""
        return preset_of(cls, {}, overrides, f"options of cyclegan ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """Networks that train in seconds on any machine."""
        values = {"n_blocks": 1, "ngf": 4, "n_layers": 2, "ndf": 4, "pool_size": 3}
        return preset_of(cls, values, overrides, "options of cyclegan (tiny)")


@in_float32
def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


class CycleGAN(nn.Module):
    """Generators `G_ihc`, `G_he`, discriminators `D_ihc`, `D_he`, a pool of earlier fakes for each, and their steps."""

    def __init__(self, cfg: Config, marker: Marker):
        super().__init__()
        self.cfg = cfg
        self.G_ihc = generator_network(self.header_options())
        self.G_he = generator_network(self.header_options())
        self.D_ihc = PatchDiscriminator(cfg.n_layers, cfg.ndf, blur=False)
        self.D_he = PatchDiscriminator(cfg.n_layers, cfg.ndf, blur=False)
        self.pool_ihc, self.pool_he = ReplayPool(cfg.pool_size), ReplayPool(cfg.pool_size)
        for network in (self.G_ihc, self.G_he, self.D_ihc, self.D_he):
            initialise(network, "normal")
        makers = chain(self.G_ihc.parameters(), self.G_he.parameters())
        judges = chain(self.D_ihc.parameters(), self.D_he.parameters())
        self.optimizers: dict[str, Optimizer] = {
            "G": Adam(makers, lr=cfg.lr, betas=cfg.betas),
            "D": Adam(judges, lr=cfg.lr, betas=cfg.betas),
        }

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """Both generators' step, then both discriminators' on fakes from the pools."""
        he, ihc, weights = batch.he, batch.ihc, self.cfg.weights
        fake_ihc, fake_he = self.G_ihc(he), self.G_he(ihc)
        with frozen(self.D_ihc, self.D_he):
            terms = {
                "gan": lsgan_g(self.D_ihc(fake_ihc)) + lsgan_g(self.D_he(fake_he)),  # eq. 1, least squares
                "cycle": _l1(self.G_he(fake_ihc), he) + _l1(self.G_ihc(fake_he), ihc),  # eq. 2
                "identity": self._identity(he, ihc) if weights.identity else he.new_zeros(()),  # section 5.2
            }
            update(self.optimizers["G"], weighted_sum(terms, weights))  # eq. 3
        old_ihc, old_he = self.pool_ihc.exchange(fake_ihc), self.pool_he.exchange(fake_he)
        loss_d = lsgan_d(self.D_ihc(ihc), self.D_ihc(old_ihc)) + lsgan_d(self.D_he(he), self.D_he(old_he))
        update(self.optimizers["D"], loss_d)
        return {**terms, "d": loss_d}

    def _identity(self, he: Tensor, ihc: Tensor) -> Tensor:
        """A generator should leave alone what already is of its domain."""
        return _l1(self.G_ihc(ihc), ihc) + _l1(self.G_he(he), he)

    def generator(self) -> nn.Module:
        return self.G_ihc

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf}

    def generator_state(self) -> dict[str, Tensor]:
        return self.G_ihc.state_dict()


def generator_network(options: dict[str, Any]) -> nn.Module:
    """The ResNet of a weights header: instance norm, strided and transposed convolutions."""
    return ResnetGenerator(options["n_blocks"], options["ngf"], norm="instance", blur=False)
