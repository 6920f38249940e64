"""What a report shows of a stain and its H&E: small pictures of one scale and place, maps over them, drawn regions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import OutputError
from wsistain.output.reading import StoredStain
from wsistain.output.trust import TrustMap, has_trust, read_trust
from wsistain.reading.regions import Region
from wsistain.slide.base import RGB, Slide
from wsistain.slide.reader import open_slide
from wsistain.slide.resample import Sampling, read_window
from wsistain.slide.roi import Polygon

LONGEST_PX = 1000
"""Longest side of a picture: 280 dots an inch where two stand side by side on A4."""

LEAST_CELLS = 5
"""Squares of the map with fewer cells are left clear: one cell is no share."""

SQUARE_UM, MOST_SQUARES = 64.0, 120

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What all pictures of a stain show: (y_um, x_um) is the upper left corner on the slide, sizes are px of `mpp` um."""

    y_um: float
    x_um: float
    mpp: float
    height: int
    width: int

    def px(self, y_um: F64, x_um: F64) -> tuple[F64, F64]:
        """Places on the slide, um, as (y, x) in px of the view."""
        return (y_um - self.y_um) / self.mpp, (x_um - self.x_um) / self.mpp


def view_of(stain: StoredStain, he_mpp: float) -> View:
    """The view that holds all of a stain, at most LONGEST_PX long and no finer than what is stored."""
    height, width = (n * stain.mpp for n in stain.levels[0])
    mpp = max(max(height, width) / LONGEST_PX, stain.mpp, he_mpp)
    y, x = (round(o / mpp) * mpp for o in stain.origin_um)  # whole px of the slide's grid
    return View(y, x, mpp, *(max(1, int(np.ceil(n / mpp - 1e-6))) for n in (height, width)))


def picture(slide: Slide, view: View, corner_um: tuple[float, float] = (0.0, 0.0)) -> RGB:
    """What a slide shows in a view, uint8 (h, w, 3); corner_um: where the slide's own first pixel lies.

    Shrunk by exact areas at just the view's scale, so that two pictures of one view lie over each other.
    """
    info = slide.info
    level = max((i for i, d in enumerate(info.downsamples) if d * info.mpp <= view.mpp * (1 + 1e-9)), default=0,
                key=info.downsamples.__getitem__)  # fmt: skip
    scale = max(1.0, view.mpp / (info.mpp * info.downsamples[level]))
    shape = tuple(max(1, int(np.ceil(n / scale - 1e-3))) for n in info.level_sizes[level])
    sampling = Sampling(level, scale, view.mpp, (shape[0], shape[1]))
    y, x = (round((a - b) / view.mpp) for a, b in zip((view.y_um, view.x_um), corner_um, strict=True))
    return read_window(slide, sampling, y, x, view.height, view.width)


class HePictures:
    """Pictures of the open H&E, each view read once however many stains share it."""

    def __init__(self, slide: Slide) -> None:
        self._slide, self._mpp = slide, slide.info.mpp
        self._kept: dict[View, RGB] = {}

    def of(self, stain: StoredStain) -> tuple[View, RGB]:
        """The view of a stain and the H&E in it."""
        view = view_of(stain, self._mpp)
        if view not in self._kept:
            self._kept[view] = picture(self._slide, view)
        return view, self._kept[view]


def stain_picture(stain: StoredStain, view: View) -> RGB:
    """A finished stain in its view, uint8 (h, w, 3). Raises SlideError."""
    slide = open_slide(stain.path)
    try:
        return picture(slide, view, stain.origin_um)
    finally:
        slide.close()


@dataclass(frozen=True)
class SquareMap:
    """Shares 0..1 in squares of `edge` px of a view, float (h, w), NaN where not known; first square at (y, x) px."""

    share: NDArray[np.floating]
    y: float
    x: float
    edge: float


def positive_map(view: View, y: F64, x: F64, is_positive: NDArray[np.bool_]) -> tuple[SquareMap, float]:
    """(share of positive cells in squares, edge of a square in um); the cells lie at (y, x) um on the slide."""
    edge = SQUARE_UM
    while max(view.height, view.width) * view.mpp / edge > MOST_SQUARES:
        edge *= 2
    shape = tuple(max(1, int(np.ceil(n * view.mpp / edge - 1e-6))) for n in (view.height, view.width))
    rows, cols = ((v - o) // edge for v, o in ((y, view.y_um), (x, view.x_um)))
    here = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    at = (rows[here] * shape[1] + cols[here]).astype(np.int64)
    n, positive = (
        np.bincount(at, weights=w, minlength=shape[0] * shape[1]).reshape(shape)
        for w in (np.ones(len(at)), is_positive[here].astype(float))
    )
    share = np.where(n >= LEAST_CELLS, positive / np.maximum(n, 1), np.nan)
    return SquareMap(share, 0.0, 0.0, edge / view.mpp), edge


def trust_map(stain: StoredStain) -> TrustMap | str:
    """The trust map of a result, or why there is none to show."""
    if not has_trust(Path(stain.path)):
        return "not made"
    try:
        return read_trust(Path(stain.path))
    except OutputError as error:
        return str(error)


def in_view(trust: TrustMap, view: View) -> SquareMap:
    """A trust map as it lies in a view; one with more squares than a picture has px is thinned."""
    step = max(1, -(-max(trust.values.shape) // (2 * LONGEST_PX)))
    y, x = (trust.y_um - view.y_um) / view.mpp, (trust.x_um - view.x_um) / view.mpp
    return SquareMap(trust.share[::step, ::step], y, x, step * trust.mpp / view.mpp)


def outline(region: Region, view: View, um_l0: float) -> str:
    """The areas of a region as the path of an SVG in px of the view; what is smaller than a px is left out."""
    return " ".join(part for polygon in region.polygons if (part := _path(polygon, view, um_l0)))


def _path(polygon: Polygon, view: View, um_l0: float) -> str:
    rings = []
    for ring in polygon:
        y, x = view.px(ring[:, 0] * um_l0, ring[:, 1] * um_l0)
        corners = np.stack([x, y], axis=1).round(1)
        corners = corners[np.concatenate([[True], np.abs(np.diff(corners, axis=0)).max(axis=1) >= 0.5])]
        if len(corners) > 2 and np.ptp(corners, axis=0).max() >= 1:
            rings.append("M" + " ".join(f"{a:g},{b:g}" for a, b in corners) + "Z")
    return "".join(rings)


def scale_bar(view: View) -> tuple[float, float]:
    """(length in um, length in px of the view) of a bar of about a quarter of the picture."""
    from wsistain.pages.pictures import nice_length

    length = nice_length(view.width * view.mpp / 4)
    return length, length / view.mpp


def spread_of(values: NDArray[np.floating]) -> tuple[float, float]:
    """(median, share below one half) of trust, of what is known."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return (float(np.median(known)), float((known < 0.5).mean())) if known.size else (float("nan"), float("nan"))
