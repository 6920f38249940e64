"""What a slide is to the rest of wsistain: a read-only pyramid of RGB pixels with a known mpp."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
"""uint8 (h, w, 3); 255 is clear glass."""


@dataclass(frozen=True)
class Part:
    """One thing that a slide's file holds.

    what   : what it is and, where it is left out, why.
    size   : (height, width), px.
    series : the number by which `--series` chooses it; None where it cannot be stained on its own.
    used   : whether it is read: as level 0, or as a level of it.
    """

    what: str
    size: tuple[int, int]
    series: int | None = None
    used: bool = False


@dataclass(frozen=True)
class SlideInfo:
    """Facts about an open slide.

    path        : as given (a file, folder or URL).
    size_l0     : (height, width) of level 0, px, bounds applied.
    mpp         : um per px at level 0; NaN only where the slide was opened without need of one.
    mpp_source  : "reader", "tiff tags" or "given"; "none" with a NaN.
    level_sizes : (height, width) of each level, 0 finest.
    downsamples : level-0 px per px of each level, first is 1.
    tile_px     : (height, width) of the native tiles of level 0; (0, 0) where unknown.
    vendor      : as the reader names it, e.g. "aperio".
    reader      : which adapter reads it, e.g. "tiff".
    fingerprint : hex digest that changes when the file's bytes do (size and hash of content).
    series      : the number of the picture that was chosen, among those that the file holds.
    parts       : what else the file holds, and what of it is left out.
    notes       : what whoever uses the result must know: a choice that was made, a contradiction, a cut file.
    problem     : why there is no mpp, where it is NaN.
    power       : magnification of the objective, where the file states one; told, never used as a scale.
    """

    path: str
    size_l0: tuple[int, int]
    mpp: float
    mpp_source: str
    level_sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    tile_px: tuple[int, int]
    vendor: str
    reader: str
    fingerprint: str
    series: int = 0
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    power: float | None = None


class Slide(Protocol):
    """An open slide; safe to read from several threads at once."""

    info: SlideInfo

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> RGB:
        """Pixels of a window in the frame of `level`; outside the slide and where nothing was scanned: 255.

        Native tiles that cannot be decoded are 255 and counted in `unreadable_tiles`.
        """
        ...

    @property
    def unreadable_tiles(self) -> int:
        """How many distinct native tiles (or reads, where tiles are unknown) could not be decoded so far."""
        ...

    @property
    def unreadable_keys(self) -> frozenset[tuple[int, ...]]:
        """The tiles or reads behind `unreadable_tiles`, so that several processes can be added up."""
        ...

    def close(self) -> None: ...
