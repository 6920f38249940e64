"""What the loop and the pipeline ask of a published system, and nothing more."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from wsistain.config import Strict
from wsistain.markers import Marker
from wsistain.optics.masks import Annotation
from wsistain.optics.scoring import RGB


@dataclass(frozen=True)
class Batch:
    """Training images, of one marker unless the system takes many.

    he, ihc : float (b, 3, h, w) in [-1, 1]; `ihc` shares the geometry of `he` when `is_paired`.
    marker  : name of the marker, of the first image where there are several.
    names   : names of the H&E patches, one an image.
    markers : name of the marker of each image.
    mask    : float (b, 1, h, w) in {0, 1} where a system asks for annotation, else None.
    """

    he: Tensor
    ihc: Tensor
    marker: str
    names: tuple[str, ...]
    is_paired: bool = True
    mask: Tensor | None = None
    markers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.markers:
            object.__setattr__(self, "markers", (self.marker,) * len(self.he))


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` and `epoch` count from 0 and name what is about to run."""

    step: int
    epoch: int
    steps: int
    epochs: int
    decay_epochs: int
    steps_per_epoch: int

    @property
    def total_epochs(self) -> int:
        return self.epochs + self.decay_epochs


Update = Callable[[Optimizer, Tensor], None]
"""Clears gradients, runs backward on the loss, averages over processes, clips, steps. Given by the loop."""


class SystemConfig(Strict):
    """Base of every system's `Config`: what training reads of it besides the system's own options.

    Each also has two class methods that take the user's options and give a `Config`: `preset(name, overrides)` with the
    values of a preset ("paper", "official"), `tiny(overrides)` with the smallest networks for a smoke run.
    """

    tiny_crop_px: ClassVar[int] = 64
    """Edge of the crops of a smoke run."""

    many_markers: ClassVar[bool] = False
    """Whether `marker` may list several; `Batch.markers` then tells which an image is of."""

    def measured(self, marker: Marker, pictures: Iterable[tuple[RGB, RGB]], mpp: float) -> Self:
        """This configuration with what the system takes from its data before it is built; called for each marker.

        pictures : pairs of H&E and IHC of `marker`, uint8 (h, w, 3), read only when asked for. mpp : um per px of them.
        """
        return self

    def automatic_masks(self) -> Annotation | None:
        """What the loop makes masks with before training; None where the system looks at none."""
        return None

    def check_batch(self, n: int) -> None:
        """ConfigError where `n` patches a step are too few."""


class System(Protocol):
    """One published method while it trains: an `nn.Module` with named parts, its optimisers and its step.

    Its `Config` is a `SystemConfig`. A system may also be `Averaged`, `Clipped`, `Watched` and `Reversible`.
    """

    optimizers: dict[str, Optimizer]

    def training_step(self, batch: Batch, progress: Progress, update: Update) -> dict[str, Tensor]:
        """One step on `batch`; returns its raw, unweighted terms (detached scalars are fine) for the log."""
        ...

    def generator(self) -> nn.Module:
        """The network that stains, a `networks.facts.StainingNetwork`: its facts go into the weights' header."""
        ...

    def header_options(self) -> dict[str, object]:
        """What the module's `generator_network(options)` needs to rebuild the staining network."""
        ...

    def generator_state(self) -> dict[str, Tensor]:
        """The tensors of that network: fit `generator_network(header_options())` exactly."""
        ...


@runtime_checkable
class Watched(System, Protocol):
    """A system that knows when its training goes wrong."""

    def concern(self) -> str | None:
        """What is wrong with the run and what to set, or None; asked when metrics are written, told once."""
        ...


@runtime_checkable
class Averaged(System, Protocol):
    """A system of whose generator's parameters the loop keeps an exponential mean, and saves that."""

    ema_decay: float


@runtime_checkable
class Clipped(System, Protocol):
    """A system whose gradients the loop clips to this norm."""

    clip_norm: float


@runtime_checkable
class Reversible(Protocol):
    """A system that also trains the way back, from IHC to H&E; the loop saves both, `run --direction` chooses.

    The three methods are those of `System` without `reverse_`, for the network that goes back.
    """

    def reverse_generator(self) -> nn.Module: ...

    def reverse_header_options(self) -> dict[str, object]: ...

    def reverse_generator_state(self) -> dict[str, Tensor]: ...


@runtime_checkable
class Sampled(Protocol):
    """A system's module whose networks are told when they stain how to sample."""

    def check_sampling(self, options: Mapping[str, object], sampling: Mapping[str, object]) -> None:
        """ConfigError where a network of header `options` cannot be sampled with `sampling` in place of its own."""
        ...


@runtime_checkable
class Adjustable(Protocol):
    """A system's module some of whose options say how trained weights stain, not what they learned."""

    def adjusted(self, options: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
        """Header `options` with `changes`; ConfigError for those that cannot be changed after training, or not so."""
        ...


@runtime_checkable
class FrozenBase(Protocol):
    """A system around a large base that does not train; the loop has it kept in the precision that it computes in."""

    def store_frozen(self, dtype: torch.dtype) -> None: ...


def weighted_sum(terms: Mapping[str, Tensor], weights: BaseModel) -> Tensor:
    """Sum of the terms times the fields of `weights` of the same name; the two sets of names must be equal.

    A weight of 0 drops its term from the graph. Raises ValueError naming what is missing or surplus.
    """
    names = set(type(weights).model_fields)
    if names != set(terms):
        raise ValueError(
            f"terms without a weight: {sorted(set(terms) - names)}; weights without a term: {sorted(names - set(terms))}"
        )
    parts = [getattr(weights, name) * term for name, term in terms.items() if getattr(weights, name) != 0]
    if not parts:
        raise ValueError("every weight is 0: nothing to train")
    return torch.stack([p.float() for p in parts]).sum()


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the block, the parameters of `modules` take no gradient (the generator's step judges by them)."""
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
