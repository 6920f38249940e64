"""The trust map of a result, `labels/trust` in its Zarr, as it is read by whatever shows it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.output.label_map import map_folder, read_values


@dataclass(frozen=True)
class TrustMap:
    """How far the stain can be believed, square by square.

    values     : uint8 (h, w), 1 (not at all) to 255 (wholly); 0 where nothing is known, as on glass.
    mpp        : um per px, the edge of a square.
    y_um, x_um : the map's upper left corner on the slide, um.
    """

    values: NDArray[np.uint8]
    mpp: float
    y_um: float
    x_um: float

    @property
    def share(self) -> NDArray[np.float32]:
        """Trust 0..1, float32 (h, w), NaN where nothing is known."""
        known = (self.values.astype(np.float32) - 1) / 254
        return np.where(self.values == 0, np.float32(np.nan), known)


def has_trust(path: Path) -> bool:
    """Whether a result has a trust map, by its look."""
    return map_folder(path).is_dir()


def read_trust(path: Path) -> TrustMap:
    """The map of a result. OutputError where it cannot be read."""
    found = read_values(path)
    return TrustMap(found.values, found.cell_um, *found.corner_um)
