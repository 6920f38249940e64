"""What a staining network says of itself: the one protocol between networks, weights, training and the pipeline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

NormKind = Literal["instance", "tile", "frozen"]


@dataclass(frozen=True)
class NetworkFacts:
    """How a network that stains may be tiled, trained and called.

    norm            : how its norm statistics depend on the tile: "instance" where instance norm makes a tile's own enter
                      (they can be frozen for a slide), "tile" where they enter in another way (group norm, attention),
                      "frozen" where they do not.
    size_multiple   : edges of its input must be multiples of this, px.
    halo_px         : radius of the receptive field with norm statistics taken as fixed, px; None: unknown or unbounded.
    least_px        : smallest edge that it can be trained on, px.
    tile_px         : edge of the tiles that suit it when it stains, px; None: that of the crops it was trained on.
    takes_margin    : its `forward` (`stain`, `stain_and_tell`) takes `margin`, px at each edge that are looked at and not
                      painted: what it returns is as much smaller, and computed in less time.
    takes_positions : its `forward` takes the (y, x) of each tile's corner on the slide as a second argument.
    """

    norm: NormKind
    size_multiple: int = 1
    halo_px: int | None = None
    least_px: int = 1
    tile_px: int | None = None
    takes_margin: bool = False
    takes_positions: bool = False


@runtime_checkable
class StainingNetwork(Protocol):
    """An `nn.Module` that maps float (b, 3, h, w) in [-1, 1] to the same, and says its facts."""

    @property
    def facts(self) -> NetworkFacts: ...


@runtime_checkable
class Seeded(Protocol):
    """A network that draws noise; a run may set another seed before it stains."""

    seed: int


@runtime_checkable
class ManyMarkers(Protocol):
    """One network for several markers. Called as every other, it stains for the first of them."""

    def stain(self, x: Tensor, markers: Sequence[str]) -> list[Tensor]:
        """Pictures like `x`, one a marker, of one pass through what the markers share."""
        ...


@runtime_checkable
class TellsChance(Protocol):
    """A network that also tells how likely each place is positive."""

    def stain_and_tell(self, x: Tensor, markers: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """As `ManyMarkers.stain`, each picture with p, float (b, 1, h, w) in [0, 1]."""
        ...


@runtime_checkable
class OneByOne(Protocol):
    """A network that hands its pictures over one after the other, so that those of all markers are never held at once."""

    def stained(self, x: Tensor, markers: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """As `TellsChance.stain_and_tell`."""
        ...


@runtime_checkable
class AroundBase(Protocol):
    """A network around a base model that a weights file does not hold."""

    def load_trained(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take over the trained tensors alone; WeightsError naming `where` and what does not fit."""
        ...


@runtime_checkable
class ShortensItself(Protocol):
    """A network that knows which of its layers may compute in a shorter precision on a CPU; the rest stays in float32."""

    def shorten(self, dtype: torch.dtype | None) -> None:
        """Compute those layers in `dtype` from now on where the network stains; None: in the precision of its input."""
        ...


@runtime_checkable
class NamesFeatures(Protocol):
    """A network that says which of its layers shows best what it sees, as `named_modules` calls it."""

    feature_layer: str


def facts_of(network: nn.Module) -> NetworkFacts:
    """The facts that a staining network says; TypeError where it says none, since none may be guessed."""
    if not isinstance(network, StainingNetwork):
        raise TypeError(
            f"{type(network).__name__} says no facts of itself; give it a property `facts` that returns NetworkFacts"
        )
    return network.facts


def norm_by_layers(network: nn.Module) -> NormKind:
    """The kind of norm that the layers of a network have, where its author need not know better.

    Attention is not seen: a network with attention and without group norm must say "tile" itself.
    """
    modules = list(network.modules())
    if any(isinstance(m, nn.InstanceNorm2d) and not m.track_running_stats for m in modules):
        return "instance"
    return "tile" if any(isinstance(m, nn.GroupNorm) for m in modules) else "frozen"
