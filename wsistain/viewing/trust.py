"""The trust map of a result as a layer: nothing is laid over where the stain can be believed."""

from pathlib import Path

import numpy as np

from wsistain.output.trust import read_trust
from wsistain.viewing.frame import Frame
from wsistain.viewing.pictures import MapPicture

TRUST_COLOURS = [[136, 34, 85], [221, 170, 51]]
"""Of no trust, and of half; where the stain is trusted nothing is laid over it."""


def trust_picture(path: Path, version: str) -> MapPicture:
    """The map `labels/trust` of a result: clear where it is trusted, purple where it is not.

    Raises OutputError where it cannot be read.
    """
    found = read_trust(path)
    share = (found.values.astype(np.float32) - 1) / 254
    low, half = (np.array(c, np.float32) for c in TRUST_COLOURS)
    mix = np.clip(share * 2, 0, 1)[..., None]
    pixels = np.zeros((*found.values.shape, 4), np.uint8)
    pixels[..., :3] = np.rint(low + (half - low) * mix)
    pixels[..., 3] = np.where(found.values == 0, 0, np.rint(np.clip(1 - share, 0, 1) * 200))
    height, width = found.values.shape
    return MapPicture(pixels, Frame(height, width, found.mpp, found.y_um, found.x_um), version)
