"""The trust map that a reading leaves in a result: a label-like picture, 255 where the stain can be believed."""

from pathlib import Path

import numpy as np
import zarr

from wsistain.errors import OutputError
from wsistain.slide.ngff import read_attributes
from wsistain.slide.zarr_store import ZARR_ERRORS, open_zarr
from wsistain.viewing.frame import Frame
from wsistain.viewing.pictures import MapPicture

MOST_PX = 64_000_000
TRUST_COLOURS = [[136, 34, 85], [221, 170, 51]]
"""Of no trust, and of half; where the stain is trusted nothing is laid over it."""


def has_trust(path: Path) -> bool:
    """Whether a result has a trust map, by its look."""
    return (path / "labels" / "trust").is_dir()


def trust_picture(path: Path, version: str) -> MapPicture:
    """The map `labels/trust` of a result: clear where it is trusted, purple where it is not.

    Values are 1 (no trust) to 255 (full); 0 is where nothing is known, as on glass. OutputError where it cannot be read.
    """
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
    except ZARR_ERRORS as error:
        raise OutputError(f"{place} is no trust map that can be read ({error})") from None
    share = (values.astype(np.float32) - 1) / 254
    low, half = (np.array(c, np.float32) for c in TRUST_COLOURS)
    mix = np.clip(share * 2, 0, 1)[..., None]
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.rint(low + (half - low) * mix)
    pixels[..., 3] = np.where(values == 0, 0, np.rint(np.clip(1 - share, 0, 1) * 200))
    return MapPicture(pixels, Frame(values.shape[0], values.shape[1], scale[-1], shift[-2], shift[-1]), version)
