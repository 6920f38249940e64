"""The trust map of a result, `labels/trust` in its Zarr, as it is read by whatever shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsistain.errors import OutputError
from wsistain.slide.ngff import read_attributes
from wsistain.slide.zarr_store import ZARR_ERRORS, open_zarr

MOST_PX = 64_000_000


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
    return (path / "labels" / "trust").is_dir()


def read_trust(path: Path) -> TrustMap:
    """The map of a result. OutputError where it cannot be read."""
    place = path / "labels" / "trust"
    try:
        group = open_zarr(place)
        image = read_attributes(group.attrs.asdict(), str(place)).multiscales[0]
        array = group[image.datasets[0].path]
        if not isinstance(array, zarr.Array):
            raise OutputError(f"{place} is no trust map: its first level is no array")
        n_axes = len(array.shape)
        scale, shift = image.scale(0, n_axes), image.translation(0, n_axes) or [0.0] * n_axes
        if scale is None or int(np.prod(array.shape[-2:])) > MOST_PX or array.dtype != np.uint8:
            raise OutputError(f"{place} is no trust map: wanted uint8 with a scale, at most {MOST_PX / 1e6:.0f} MP")
        values = np.asarray(array[(0,) * (n_axes - 2)])
        y_um, x_um = _corner(group.attrs.asdict()) or (shift[-2], shift[-1])
    except ZARR_ERRORS as error:
        raise OutputError(f"{place} is no trust map that can be read ({error})") from None
    return TrustMap(values, scale[-1], y_um, x_um)


def _corner(attributes: dict[str, Any]) -> tuple[float, float] | None:
    """(y, x) um of the corner of a map of ours; None where it says nothing: its translation is that of a centre."""
    told = attributes.get("wsistain")
    corner = told.get("corner_um") if isinstance(told, dict) else None
    if not isinstance(corner, list) or len(corner) != 2 or not all(isinstance(v, int | float) for v in corner):
        return None
    return float(corner[0]), float(corner[1])
