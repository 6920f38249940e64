"""Aligned: squared error on aligned pairs, nothing else. The simplest system, and the recipe of the demonstration weights.

No paper: plain regression, for data whose two stains show the same section (the phantom with `--pairing aligned`,
restained slides). The squared error's best answer is the mean over everything that the H&E leaves open, so a nucleus is
painted as brown as it is likely to be positive: cells are ranked by probability. An absolute error would paint the
likelier of the two, and an adversary would invent one. On weakly paired sections the mean is a blur; use the other
systems there.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wsistain.config import Strict, preset_of
from wsistain.markers import Marker, require_dab
from wsistain.networks.context import ContextResnet, reset_parameters
from wsistain.networks.resnet import ResnetGenerator
from wsistain.published.tensors import load_into, read_published
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, weighted_sum


class Weights(Strict):
    """Weights of the squared errors at full size, of means over 4 x 4 px, and of brown against blue over 8 x 8 px."""

    fine: float = 4.0
    coarse: float = 4.0
    stain: float = 30.0


class Config(SystemConfig):
    """Network and optimiser."""

    tiny_crop_px: ClassVar[int] = 32

    n_blocks: int = 4
    ngf: int = 16
    windows: tuple[int, ...] = Field(
        (),
        description="odd edges, in cells of 4 px, of the windows whose texture the network is shown; none: a plain ResNet",
    )
    far: int = Field(41, description="with windows: odd edge, in cells of 4 px, of the window whose finds are averaged")
    glass: float = Field(
        0.0, ge=0, le=1, description="share of crops that are given an edge of tissue, with glass beyond"
    )
    start_from: str | None = Field(None, description="weights file of an earlier run of the same size, to go on from")
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _context_can_be_built(self) -> "Config":
        if self.windows and any(edge < 3 or edge % 2 == 0 for edge in (*self.windows, self.far)):
            raise ValueError(f"windows {self.windows} and far {self.far}: wanted odd numbers of cells from 3 up")
        if self.windows and self.ngf % 2:
            raise ValueError(f"ngf {self.ngf}: wanted an even number with windows")
        return self

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The defaults under `overrides`; there is no paper to differ from."""
        return preset_of(cls, {}, overrides, f"options of aligned ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """A network that trains in seconds on any machine."""
        return preset_of(cls, {"n_blocks": 1, "ngf": 4}, overrides, "options of aligned (tiny)")


class Aligned(nn.Module):
    """Generator `G` and its one step."""

    def __init__(self, cfg: Config, marker: Marker):
        super().__init__()
        require_dab(marker, "aligned")
        self.cfg = cfg
        self.G = generator_network(self.header_options())
        if cfg.start_from is not None:
            load_into(self.G, read_published(cfg.start_from), cfg.start_from)
        self.G.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 2.5 x as fast in bfloat16 on CPUs
        self.optimizers: dict[str, Optimizer] = {"G": Adam(self.G.parameters(), lr=cfg.lr, betas=cfg.betas)}

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """One step on the squared errors."""
        he, ihc = _with_glass(batch.he, batch.ihc, self.cfg.glass) if self.cfg.glass else (batch.he, batch.ihc)
        fake = self.G(he.contiguous(memory_format=torch.channels_last)).float()
        terms = {
            "fine": F.mse_loss(fake, ihc),
            "coarse": F.mse_loss(F.avg_pool2d(fake, 4), F.avg_pool2d(ihc, 4)),
            "stain": F.mse_loss(_brown(fake), _brown(ihc)),
        }
        update(self.optimizers["G"], weighted_sum(terms, self.cfg.weights))
        return terms

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        return {"n_blocks": self.cfg.n_blocks, "ngf": self.cfg.ngf, "windows": self.cfg.windows, "far": self.cfg.far}

    def generator_state(self) -> dict[str, Tensor]:
        return self.G.state_dict()


GLASS = 1.0
"""Glass in the wanted picture, in [-1, 1]: white, as the pipeline leaves what holds no tissue."""


def _with_glass(he: Tensor, ihc: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Both pictures (b, 3, h, w) with glass beyond a straight edge, in `share` of them; in a third of those all over.

    Patches are cut from inside the tissue, so a network trained on them has never seen an empty neighbourhood and
    paints glass any colour. The glass of the H&E differs in brightness, a little in tint, and is not quite even.
    """
    b, _, h, w = he.shape

    def draw(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand((b, 1, 1, 1), device=he.device, dtype=he.dtype)

    turn, place, there = draw(0, 2 * math.pi), draw(-1.2, 0.5), draw(0, 1) < share
    y = torch.linspace(-0.5, 0.5, h, device=he.device, dtype=he.dtype)[:, None]
    x = torch.linspace(-0.5, 0.5, w, device=he.device, dtype=he.dtype)
    beyond = there & (y * turn.sin() + x * turn.cos() > place)
    tint = 0.02 * torch.randn((b, 3, 1, 1), device=he.device, dtype=he.dtype)
    glass = (draw(0.8, 0.98) + tint + 0.01 * torch.randn_like(he)).clamp(-1, 1)
    return torch.where(beyond, glass, he), torch.where(beyond, torch.full_like(ihc, GLASS), ihc)


def _brown(picture: Tensor) -> Tensor:
    """Red light less blue light of (b, 3, h, w) in [-1, 1], means over 8 x 8 px (a nucleus at 0.5 um per px): (b, h/8, w/8).

    DAB absorbs blue, haematoxylin red, so it is positive on brown and negative on blue nuclei. A separated amount of DAB
    would be cut off at 0, and a nucleus painted blue would never learn that it should have been brown; in optical
    density the few blackest pixels would outweigh all others.
    """
    return F.avg_pool2d(picture[:, 0] - picture[:, 2], 8)


def generator_network(options: dict[str, Any]) -> nn.Module:
    """The network of a weights header: a `ContextResnet` where it names windows, else a plain ResNet with batch norm."""
    n_blocks, ngf, windows = options["n_blocks"], options["ngf"], options.get("windows")
    if windows:
        return ContextResnet(n_blocks, ngf, windows, options["far"])
    network = ResnetGenerator(n_blocks, ngf, norm="batch", blur=False)
    reset_parameters(network)
    return network
