"""LPStain, our own: learn who is positive from the shares of windows of a section that does not fit.

A consecutive section lies tens of um off, so no place of it labels a place of the H&E. What it does know is how large a
share of the nuclei (or membranes) round here is positive. A network that must say for every place how likely it is to be
positive, so that all windows have their shares, has to find out which nuclei are the positive ones: learning from label
proportions (Quadrianto et al. 2009, Yu et al. 2014; `losses/windows.py`).

The picture comes last and decides nothing: light = 10^-(h H + d D + b), with the dyes of the laboratory, measured on its
IHC and held (`optics/dyes.py`), haematoxylin h of the H&E in the amounts of the IHC, and DAB d = amplitude x p x place
(`networks/expression.py`). The losses of the picture (`counterstain`, `gan`) do not reach p, so that realism cannot
invent expression. Several markers share one trunk. No published paper; docs/systems/lpstain.md is ours.
"""

import logging
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wsistain.config import Strict, preset_of
from wsistain.errors import ConfigError, DataError
from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.windows import best_shift, share_loss, shifted
from wsistain.markers import Marker, find_marker, require_dab
from wsistain.networks.dye_layer import DyeLayer
from wsistain.networks.expression import ExpressionNet
from wsistain.networks.frozen_encoder import FrozenEncoder, load_encoder
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.optics.dyes import RGB, Dyes, measure_dyes
from wsistain.optics.restain import restained
from wsistain.optics.stains import to_unit
from wsistain.published.places import file_sha256
from wsistain.published.tensors import load_into, read_published
from wsistain.systems.base import Batch, Progress, SystemConfig, Update, frozen, weighted_sum

_LOG = logging.getLogger(__name__)

AFTER_TRAINING = ("widest_um", "near_um", "own", "white_glass")
"""Options that say how trained weights stain and change none of their numbers, though training may have been with others."""


class Weights(Strict):
    """Weights of the shares of windows, of nuclei and counterstain of the H&E, and of the critic of the picture."""

    share: float = 1.0
    nuclei: float = 1.0
    counterstain: float = 1.0
    gan: float = Field(0.0, ge=0, description="0: no critic is trained")


class Config(SystemConfig):
    """Network, windows, augmentation and optimiser; defaults as measured in docs/systems/lpstain.md."""

    tiny_crop_px: ClassVar[int] = 64
    many_markers: ClassVar[bool] = True

    n_blocks: int = Field(4, ge=2, le=64)
    ngf: int = Field(16, ge=2, le=512, multiple_of=2)
    windows: tuple[int, ...] = Field(
        (5, 13, 25), description="odd edges, in cells of 4 px of the trunk, of its texture"
    )
    far: int = Field(21, description="odd edge, in cells of 4 px of the trunk, of the window whose finds are averaged")
    width: int = Field(12, ge=1, le=256, description="channels of the network that paints the counterstain")
    pool: Literal[1, 2, 4] = Field(1, description="the trunk works at px of pool x pool: 2 for 0.5 um per px")
    fine: bool = Field(False, description="the trunk is given each of those pool x pool px, not their mean")
    mpp: float = Field(1.0, gt=0, description="um per px of the crops; that of the data in a training run")
    widest_um: float = Field(
        13.0, ge=0, le=64, description="what is as sure a nucleus over a square of this edge takes no DAB; 0: it does"
    )
    near_um: float = Field(
        16.0, ge=0, le=64, description="standard deviation of the neighbourhood that p is drawn to; 0: it is not"
    )
    own: float = Field(
        0.2,
        ge=0,
        le=1,
        description="what is left of what sets a place's logit off from its neighbourhood; 1 for aligned pairs",
    )
    white_glass: bool = Field(
        False, description="clear glass is white, as outside of tissue, not the ground of the laboratory's IHC"
    )
    windows_um: tuple[float, ...] = Field((32.0, 64.0, 128.0), min_length=1, description="edges of the label windows")
    distance: Literal["entropy", "squared"] = "entropy"
    growth: float = Field(1.0, ge=0, le=2, description="a scale of windows counts as its edge to this power")
    search_um: float = Field(64.0, ge=0, description="largest shift of the other section that is looked for; 0: none")
    jitter: float = Field(0.5, ge=0, le=1, description="strength of the H&E's stain, light and focus augmentation")
    ndf: int = Field(16, ge=1, le=512, description="channels of the critic")
    lr: float = Field(2e-3, gt=0, description="largest rate of the one cycle")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps in which the rate rises")
    betas: tuple[float, float] = (0.9, 0.99)
    encoder: str | None = Field(
        None, description="path of a frozen ResNet-50 with torchvision's names, which the trunk reads too"
    )
    start_from: str | None = Field(None, description="weights of an earlier run of the same network, to go on from")
    dyes: dict[str, Dyes] = Field(default_factory=dict, description="of each marker; measured where left out")
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _can_be_built(self) -> "Config":
        if any(edge < 3 or edge % 2 == 0 for edge in (*self.windows, self.far)):
            raise ValueError(f"windows {self.windows} and far {self.far}: wanted odd numbers of cells from 3 up")
        if self.fine and self.pool == 1:
            raise ValueError(
                "fine asks for each of the px that the trunk pools, and pool is 1; try pool 2 for 0.5 um per px"
            )
        return self

    @classmethod
    def preset(cls, name: str, overrides: dict[str, Any]) -> "Config":
        """The defaults under `overrides`; there is no paper to differ from."""
        return preset_of(cls, {}, overrides, f"options of lpstain ({name})")

    @classmethod
    def tiny(cls, overrides: dict[str, Any]) -> "Config":
        """A network that trains in seconds on any machine."""
        values = {"n_blocks": 2, "ngf": 4, "windows": (3,), "far": 3, "width": 4, "windows_um": (16.0, 32.0), "ndf": 4}
        return preset_of(cls, values, overrides, "options of lpstain (tiny)")

    def measured(self, marker: Marker, pictures: Iterable[tuple[RGB, RGB]], mpp: float) -> "Config":
        """This configuration at `mpp`, with the dyes of `marker` taken from its training `pictures` where not given."""
        require_dab(marker, "LPStain")
        dyes = dict(self.dyes)
        if marker.name not in dyes:
            dyes[marker.name] = measure_dyes(
                pictures,
                mpp=mpp,
                positive_od=marker.positive_od,
                cell_od=marker.positive_cell_od,
                compartment=marker.compartment,
            )
        return self.model_copy(update={"dyes": dyes, "mpp": mpp})


class LPStain(nn.Module):
    """Generator `G`, an optional critic `D` of its pictures, and their step."""

    clip_norm = 1.0

    def __init__(self, cfg: Config, marker: Marker):
        super().__init__()
        if not cfg.dyes:
            raise ValueError("the dyes are not measured: call Config.measured with training pictures first")
        self.cfg = cfg
        encoder = None if cfg.encoder is None else load_encoder(cfg.encoder)
        self.encoder_facts = None if encoder is None else _facts_of(encoder, cfg.encoder or "")
        self.G = _network(self.header_options(), encoder)
        if cfg.start_from is not None:
            load_into(self.G, self.G.told_apart(read_published(cfg.start_from)), cfg.start_from)
        self.optimizers: dict[str, Optimizer] = {
            "G": Adam((p for p in self.G.parameters() if p.requires_grad), lr=cfg.lr, betas=cfg.betas)
        }
        if cfg.weights.gan:
            self.D = PatchDiscriminator(2, cfg.ndf, norm="batch")
            self.optimizers["D"] = Adam(self.D.parameters(), lr=cfg.lr / 4, betas=(0.5, 0.99))

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """One step on the shares of windows and on the picture."""
        # Chances of every marker of the batch, all from one look at the restained H&E, and its haematoxylin.
        cfg = self.cfg
        if not batch.is_paired:
            raise DataError("LPStain learns from the section beside the H&E: set data.pairing to weak")
        self._set_rate(progress)
        he, ihc = to_unit(batch.he), to_unit(batch.ihc)
        seen = restained(batch.he, cfg.jitter).contiguous(memory_format=torch.channels_last)
        of = {name: [i for i, m in enumerate(batch.markers) if m == name] for name in dict.fromkeys(batch.markers)}
        numbers = [self.G.markers.index(name) for name in of]
        chances, h = self.G.chances(self.G.logits(seen, numbers), numbers), self.G.paint(seen)

        # Terms marker by marker, each over its own patches.
        parts = []
        pictures = []
        for k, (number, rows) in enumerate(zip(numbers, of.values(), strict=True)):
            p, nuclei = chances[rows, k : k + 1], chances[rows, -1:]
            parts.append((len(rows), self._terms(self.G.dye_layers()[number], p, nuclei, h[rows], he[rows], ihc[rows])))
            if cfg.weights.gan:  # the critic's gradient ends before the trunk
                pictures.append(self.G.picture(h[rows], p.detach(), self.G.narrow(nuclei.detach()), number))

        # Means over patches, so that a marker weighs by how often it is in the batch.
        terms = {name: torch.stack([n * t[name] for n, t in parts]).sum() / len(he) for name in parts[0][1]}

        # The critic, where there is one, then the generator.
        logs = {}
        if cfg.weights.gan:
            fake = torch.cat(pictures)
            logs["d"] = loss_d = lsgan_d(self.D(batch.ihc), self.D(fake.detach()))
            update(self.optimizers["D"], loss_d)
            with frozen(self.D):
                terms["gan"] = lsgan_g(self.D(fake))
                update(self.optimizers["G"], weighted_sum(terms, cfg.weights))
        else:
            terms["gan"] = h.new_zeros(())
            update(self.optimizers["G"], weighted_sum(terms, cfg.weights))
        return {name: term.detach() for name, term in {**terms, **logs}.items()}

    def _terms(
        self, layer: DyeLayer, p: Tensor, nuclei: Tensor, h: Tensor, he: Tensor, ihc: Tensor
    ) -> dict[str, Tensor]:
        """The losses of the images of one marker: chances `p` and `nuclei`, amounts `h`, light `he` and `ihc`."""
        cfg = self.cfg
        with torch.no_grad():
            wanted = layer.counterstain(he)
            seen = layer.nuclei(wanted, even=True)
            label, valid = self._laid_over(seen, layer.section(*layer.amounts(ihc)))
        edges = [max(2, round(um / cfg.mpp)) for um in cfg.windows_um]
        p, nuclei = self.G.full_size(p), self.G.full_size(nuclei)
        share = share_loss(
            p, layer.place(seen), label[:, :1], label[:, 1:2], valid, edges,
            distance=cfg.distance, growth=cfg.growth,
        )  # fmt: skip
        with torch.autocast(p.device.type, enabled=False):
            found = F.binary_cross_entropy(nuclei, seen)
        return {"share": share, "nuclei": found, "counterstain": F.l1_loss(h, wanted) / layer.dyes.nucleus}

    def _set_rate(self, progress: Progress) -> None:
        """One cycle (Smith and Topin 2019): the rate rises, then falls to 0, both as cosines; the loop's factor is undone."""
        place, rise = (progress.step + 1) / progress.steps, self.cfg.warmup
        if place < rise:
            factor = 0.04 + 0.96 * (1 - math.cos(math.pi * place / rise)) / 2
        else:
            factor = (1 + math.cos(math.pi * (place - rise) / (1 - rise))) / 2
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"]) * max(factor, 1e-3)

    def _laid_over(self, nuclei: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The label maps moved by the shift at which their nuclei fit those of the H&E best, and where they are known."""
        reach = round(self.cfg.search_um / self.cfg.mpp / 4)
        if not reach:
            return label, torch.ones_like(nuclei)
        maps = [F.avg_pool2d(x, 4) for x in (nuclei, label[:, 2:3])]
        return shifted(label, 4 * best_shift(maps[0], maps[1], reach))

    def generator(self) -> nn.Module:
        return self.G

    def header_options(self) -> dict[str, object]:
        cfg = self.cfg
        kept = ("n_blocks", "ngf", "windows", "far", "width", *AFTER_TRAINING, "pool", "fine", "mpp")
        options: dict[str, object] = {name: getattr(cfg, name) for name in kept}
        if self.encoder_facts is not None:
            options["encoder"] = self.encoder_facts
        dyes = {name: d.model_dump(mode="json") for name, d in cfg.dyes.items()}
        return options | {"dyes": dyes, "compartments": {name: find_marker(name).compartment for name in dyes}}

    def generator_state(self) -> dict[str, Tensor]:
        return self.G.state_dict()


def generator_network(options: dict[str, Any]) -> ExpressionNet:
    """The network of a weights header; that of its encoder, if it has one, is empty: the weights hold it."""
    facts = options.get("encoder")
    return _network(options, None if facts is None else FrozenEncoder(facts["width_divisor"]))


def adjusted(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Header `options` with `changes` of `AFTER_TRAINING`; ConfigError for others and for values that cannot be."""
    for name in changes:
        if name not in AFTER_TRAINING:
            raise ConfigError(
                f"{name} cannot be changed in trained weights of lpstain; what can: {', '.join(AFTER_TRAINING)}"
            )
    checked = preset_of(Config, {}, dict(changes), "options of lpstain")
    return {**options, **{name: getattr(checked, name) for name in changes}}


@cache
def _say_no_limit() -> None:
    """Once a process: how to give weights of before the limit that they lack."""
    _LOG.warning(
        "these weights of lpstain set no limit to the width of nuclei, so dense cytoplasm and keratin may turn brown; "
        "'wsistain weights set WEIGHTS widest_um=13 --output NEW.safetensors' sets one"
    )


def _facts_of(encoder: FrozenEncoder, path: str) -> dict[str, object]:
    """What the header keeps of the encoder: how it is built, and which file it came from."""
    file = Path(path).expanduser()
    return {"width_divisor": encoder.width_divisor, "file": file.name, "sha256": file_sha256(file)}


def _network(options: dict[str, Any], encoder: FrozenEncoder | None) -> ExpressionNet:
    dyes = {name: Dyes.model_validate(values) for name, values in options["dyes"].items()}
    if "widest_um" not in options:
        _say_no_limit()
    return ExpressionNet(
        dyes,
        options["compartments"],
        mpp=options["mpp"],
        pool=options["pool"],
        fine=options.get("fine", False),  # weights of before read means
        n_blocks=options["n_blocks"],
        ngf=options["ngf"],
        windows=options["windows"],
        far=options["far"],
        width=options["width"],
        widest_um=options.get("widest_um", 0.0),
        near_um=options.get("near_um", 0.0),  # weights of before were trained without
        own=options.get("own", 1.0),
        white_glass=options.get("white_glass", False),
        by_surest="near_um" in options,
        encoder=encoder,
    )
