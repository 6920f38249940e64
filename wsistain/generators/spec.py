"""What is known of a generator before it is loaded, and what it must be able to do.

A generator takes uint8 tiles and gives uint8 tiles, so that the pipeline never sees a tensor and a generator without
a network never imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class GeneratorSpec:
    """What the pipeline must know of a generator before it is loaded; picklable, so workers load it themselves.

    name          : for people and provenance, e.g. "usigan".
    weights       : path of the weights file, or the built-in's name.
    weights_hash  : SHA-256 of the file; of name and version for a built-in without one.
    marker        : name of the marker that is stained.
    mpp           : um per px at which it stains; None: the slide's own level 0.
    tile_px       : edge of the tiles that it was trained on, px.
    radius        : of its receptive field with fixed norm statistics, px; None where unknown or without bound.
    stride        : step of the tile grid that suits it, px. overlap, halo: as in `Tiling`.
    size_multiple : tile edges must be multiples of this.
    norm          : as in the weights' `Header`.
    precision     : that the weights ask for.
    training_data : what it was trained on.
    note          : a sentence that is printed with every run and kept in the provenance; may be empty.
    seed          : of the noise of a diffusion model; None: the one in the weights.
    panel         : markers that its weights stain, which are often wanted in one pass.
    probability   : its tiles have a fourth channel: 255 less 255 p, p the chance that a place is positive.
    sampling      : JSON of how a diffusion model samples where that differs from the weights' header; "": it does not.
    """

    name: str
    weights: str
    weights_hash: str
    marker: str
    mpp: float | None
    tile_px: int
    radius: int | None
    stride: int
    overlap: int
    halo: int
    size_multiple: int
    norm: str
    precision: str = "float32"
    training_data: str = "none"
    licence: str = "Apache-2.0"
    note: str = ""
    seed: int | None = None
    sampling: str = ""
    panel: int = 1
    probability: bool = False

    @property
    def channels(self) -> int:
        """Channels of its stained tiles: red, green, blue, and one more where it tells p; 255 is glass in all."""
        return 4 if self.probability else 3


@runtime_checkable
class Panel(Protocol):
    """A generator whose network may stain for several markers at once; those that share it hold the same `network`."""

    spec: GeneratorSpec
    network: object

    def stain_markers(
        self, tiles: RGB, positions: Sequence[tuple[int, int]], markers: Sequence[str], margin: int = 0
    ) -> tuple[RGB, ...]:
        """One array a marker, as `Generator.stain` returns it, without `margin` px at each edge."""
        ...


def without_margin(tiles: RGB, margin: int) -> RGB:
    """Tiles (n, h, w, channels) without `margin` px at each edge."""
    return tiles[:, margin : tiles.shape[1] - margin, margin : tiles.shape[2] - margin]


def stain_all(
    generators: "Sequence[Generator]", tiles: RGB, positions: Sequence[tuple[int, int]], margin: int = 0
) -> list[RGB]:
    """What each generator makes of the same tiles; a network that several of them share runs once.

    margin : px at each edge of the tiles that are seen and not kept, a halo: the results are as much smaller.
    """
    found: dict[int, RGB] = {}
    for k, generator in enumerate(generators):
        if k in found:
            continue
        if not isinstance(generator, Panel):
            found[k] = without_margin(generator.stain(tiles, positions), margin)
            continue
        alike = [j for j, g in enumerate(generators) if isinstance(g, Panel) and g.network is generator.network]
        markers = [generators[j].spec.marker for j in alike]
        found.update(zip(alike, generator.stain_markers(tiles, positions, markers, margin), strict=True))
    return [found[k] for k in range(len(generators))]


class Generator(Protocol):
    """Stains tiles. Thread-safe; the result for a tile depends on the tile and its position alone."""

    spec: GeneratorSpec
    device: str

    def stain(self, tiles: RGB, positions: Sequence[tuple[int, int]]) -> RGB:
        """Stained tiles, uint8 (n, h, w, channels of the spec); `positions` are the (y, x) of their corners, output px."""
        ...
