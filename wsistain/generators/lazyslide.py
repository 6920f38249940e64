"""Our weights as a virtual-stain model of LazySlide (`lazyslide.tl.virtual_stain`).

LazySlide tells its models apart by what they have, so this is none of its classes and imports nothing of it: `model`,
`name`, `stains`, `output_mpp`, `output_range`, `get_transform`, `predict`, `to` and `try_compile` are its
`VirtualStainModelProtocol` (lazyslide-models 0.1).

LazySlide cuts the tiles, blends them by a ramp in floating point and keeps the picture in memory; seams, exact tiling, resume
and provenance are `wsistain run`'s alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsistain.errors import ConfigError
from wsistain.generators.load import build_generator, find_generator
from wsistain.generators.spec import Generator, stain_all
from wsistain.systems import STAINING_ONLY, SYSTEMS, find_stainer
from wsistain.systems.base import Sampled


class LazySlideStain:
    """A generator for one or several markers, as LazySlide calls it.

    weights : file, folder, hub id or built-in name, as for `wsistain run`.
    markers : names; one RGB picture each.

    mpp, tile_px : what the tiles must be: give them to LazySlide's tiling, which does not ask the model.

    Raises WeightsError and ConfigError as `find_generator` does, and ConfigError for diffusion models, whose noise belongs to
    a place on the slide that LazySlide does not tell.
    """

    output_mpp: float | None = None
    """None: the stain lies on the tiles' own grid."""

    output_range = (0.0, 1.0)

    def __init__(self, weights: str = "demo", markers: Sequence[str] = ("ER",), *, device: str = "cpu") -> None:
        self._weights, self._markers = weights, tuple(markers)
        specs = [find_generator(weights, marker) for marker in self._markers]
        if specs[0].name in {*SYSTEMS, *STAINING_ONLY} and isinstance(find_stainer(specs[0].name), Sampled):
            raise ConfigError(f"{weights} is a diffusion model, which LazySlide cannot place; use wsistain run")
        self.mpp, self.tile_px = specs[0].mpp, specs[0].tile_px
        self.name = f"wsistain_{specs[0].name}"
        self.stains = tuple(f"virtual {marker}" for marker in self._markers)
        self._specs = specs
        self._load(device)

    def _load(self, device: str) -> None:
        generators: list[Generator] = []
        for spec in self._specs:
            generators.append(build_generator(spec, device=device, beside=generators))
        self.model = generators

    def get_transform(self) -> Callable[[NDArray[np.uint8]], Tensor]:
        """From a tile as LazySlide reads it, uint8 (h, w, 3), to a uint8 tensor (3, h, w)."""
        return _as_planes

    def predict(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Stained tiles, float32 (b, 3 n, h, w) in [0, 1], red, green and blue of each stain in turn.

        image : uint8 (b, 3, h, w).
        """
        if image.dtype != torch.uint8:
            raise ConfigError(f"the tiles are {image.dtype}; wanted uint8, as get_transform gives them")
        tiles = np.ascontiguousarray(image.permute(0, 2, 3, 1).cpu().numpy())
        stained = stain_all(self.model, tiles, [(0, 0)] * len(tiles))
        planes = np.concatenate([pixels.transpose(0, 3, 1, 2) for pixels in stained], axis=1)
        return torch.from_numpy(planes.astype(np.float32) / 255)

    def to(self, device: Any) -> "LazySlideStain":
        """This model, on another device."""
        self._load(str(device))
        return self

    def try_compile(self, **kwargs: Any) -> None:
        """Nothing is compiled: the pipeline's generators decide that themselves."""


def _as_planes(tile: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(tile)[..., :3].transpose(2, 0, 1)))
