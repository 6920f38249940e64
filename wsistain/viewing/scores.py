"""Scores of an area that was drawn: the same definitions as everywhere (`wsistain.optics.scoring`)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.markers import Marker
from wsistain.optics.scoring import NONE, StainCounts, count_stain, stain_od
from wsistain.slide.roi import FAR_PX, inside
from wsistain.slide.tissue import TissueMask
from wsistain.viewing.frame import Frame
from wsistain.viewing.pictures import SlidePicture

MOST_PX = 600_000_000
"""Pixels of the box round an area that are read at most, about 150 mm2 at 0.5 um per px."""

MOST_CORNERS = 20_000
_EDGE = 2048

Ring = NDArray[np.float64]
"""float (n, 2) of (y, x) corners, um of the common frame."""


def ring_of(corners: Any) -> Ring:
    """A ring from the [x, y] um pairs that a page sends. ConfigError where it is none."""
    wanted = f"wanted 3 to {MOST_CORNERS} corners as [x, y] in um"
    if not isinstance(corners, list) or not 3 <= len(corners) <= MOST_CORNERS:
        raise ConfigError(f"an area has no such outline; {wanted}")
    try:
        ring = np.array([(float(p[1]), float(p[0])) for p in corners], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise ConfigError(f"an outline holds a corner that is no pair of numbers; {wanted}") from None
    if not np.isfinite(ring).all() or np.abs(ring).max() > FAR_PX:
        raise ConfigError(f"an outline reaches further than any slide; {wanted}")
    return ring


@dataclass(frozen=True)
class Tissue:
    """Where there is tissue: a mask, and the um per level-0 px and the corner of the slide that it is of."""

    mask: TissueMask
    of: Frame

    def window(self, frame: Frame, y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
        """The mask at every pixel of a window of another picture, bool (height, width); none outside the slide."""
        step = self.of.mpp * self.mask.downsample
        h, w = self.mask.mask.shape
        rows = np.floor(((np.arange(y, y + height) + 0.5) * frame.mpp + frame.y_um - self.of.y_um) / step).astype(int)
        cols = np.floor(((np.arange(x, x + width) + 0.5) * frame.mpp + frame.x_um - self.of.x_um) / step).astype(int)
        found = self.mask.mask[np.ix_(rows.clip(0, h - 1), cols.clip(0, w - 1))]
        found &= ((rows >= 0) & (rows < h))[:, None] & ((cols >= 0) & (cols < w))[None, :]
        return found


def score_area(stain: SlidePicture, tissue: Tissue, marker: Marker, ring: Ring) -> dict[str, Any]:
    """Scores of the stain's tissue inside an outline: plain JSON values, None for what nothing is known of.

    tissue : of the H&E where that is known (all markers of a slide then have the same), else of the stain itself.

    A pixel is inside by its centre.
    ConfigError for an area that is not on the stain, or is too large to be read while one waits.
    """
    frame = stain.frame
    px = (ring - np.array([frame.y_um, frame.x_um])) / frame.mpp
    low = np.clip(np.floor(px.min(axis=0)), 0, (frame.height, frame.width)).astype(int)
    high = np.clip(np.ceil(px.max(axis=0)), 0, (frame.height, frame.width)).astype(int)
    if (high <= low).any():
        raise ConfigError("the area does not touch the stain; draw it on what is stained")
    if int(np.prod(high - low)) > MOST_PX:
        raise ConfigError(
            f"the area spans {np.prod(high - low) / 1e6:.0f} MP, more than {MOST_PX / 1e6:.0f}; draw a smaller one, "
            "or use wsistain evaluate for the whole slide"
        )
    total, area = NONE, 0
    for y in range(low[0], high[0], _EDGE):
        for x in range(low[1], high[1], _EDGE):
            height, width = min(_EDGE, high[0] - y), min(_EDGE, high[1] - x)
            within = inside(px - (y, x), (height, width), "the area")
            if not within.any():
                continue
            area += int(within.sum())
            within &= tissue.window(frame, y, x, height, width)
            if within.any():
                od = stain_od(stain.read(0, y, x, height, width), marker.chromogen)
                total += count_stain(od, marker.cutoffs, within)
    return {"area_mm2": area * frame.mpp**2 / 1e6, **_told(total, frame.mpp), "marker": marker.name}


def _told(counts: StainCounts, mpp: float) -> dict[str, Any]:
    return {
        "tissue_mm2": counts.n * mpp**2 / 1e6,
        "positive_fraction": _or_none(counts.positive_fraction),
        "h_score": _or_none(counts.h_score),
        "shares": [n / counts.n if counts.n else None for n in counts.reached],
        "cutoffs_reached": ["1+", "2+", "3+"],
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def holds(ring: Ring, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points a ring winds round at least once, bool (n,); the same rule as for pixels."""
    winding = np.zeros(len(y), np.int64)
    for (y0, x0), (y1, x1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y >= min(y0, y1)) & (y < max(y0, y1))
        right = x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x
        winding += np.where(crosses & right, 1 if y1 > y0 else -1, 0)
    found: NDArray[np.bool_] = winding != 0
    return found
