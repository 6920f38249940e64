"""What is registered of a slide: its pieces of tissue, and maps of what both stains of one tissue have in common.

Colours differ between H&E and IHC, haematoxylin does not: its amount is the map on which sections are laid over each
other.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.markers import EOSIN, HAEMATOXYLIN, Chromogen
from wsistain.optics.pinkness import pinkness_of
from wsistain.slide.base import RGB, Slide
from wsistain.slide.glass import glass_colour, optical_density
from wsistain.slide.quality import folds
from wsistain.slide.resample import Sampling, choose_sampling, read_window
from wsistain.slide.segment import Segmented, segment_all
from wsistain.slide.tissue import TissueMask, read_thumbnail

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

GAP_UM = 400.0
"""Tissue further apart than this is another piece; sections of a ribbon lie millimetres apart, lobes of one do not."""

MOST_PIECES = 12
"""A slide with more pieces (a tissue microarray) is taken as one."""

_LEAST_SHARE, _LEAST_MM2 = 0.1, 0.1  # of the largest piece, and in all
_MARGIN_UM = 200.0
_PALE_OD = 0.015  # mean of the channels; glass has 0.003 at most once it is smoothed
_BAND = 512
_MOST_OD = 2.5


@dataclass(frozen=True)
class Piece:
    """A piece of tissue on a slide: number from 1, largest first; (y0, x0, y1, x1), um; area of its tissue, mm2."""

    number: int
    box_um: tuple[float, float, float, float]
    mm2: float


@dataclass(frozen=True)
class Side:
    """One of the two slides, and what its thumbnail shows.

    glass     : float (3,), colour of clear glass. chromogen : the dye beside haematoxylin; None for eosin.
    pinkness  : of the tissue, see `pinkness_of`; None where nothing is dark enough to tell.
    pieces    : of tissue, largest first. labels : their numbers on the mask's pixels, 0 elsewhere.
    """

    slide: Slide
    tissue: TissueMask
    fold: TissueMask
    glass: F32
    chromogen: Chromogen | None
    pinkness: float | None
    pieces: tuple[Piece, ...]
    labels: NDArray[np.uint8]

    def density(self, rgb: RGB) -> F32:
        """Amount of haematoxylin, optical density >= 0, float32 (h, w), of pixels of this slide."""
        return haematoxylin(rgb, self.glass, self.chromogen)

    def at(self, what: NDArray[Any], y: F64, x: F64) -> NDArray[Any]:
        """What a map on the mask's pixels says at places in um; 0 or False outside the slide."""
        px = self.tissue.downsample * self.slide.info.mpp
        row, col = np.floor(y / px).astype(np.int64), np.floor(x / px).astype(np.int64)
        h, w = what.shape
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        found: NDArray[Any] = np.where(inside, what[np.clip(row, 0, h - 1), np.clip(col, 0, w - 1)], 0)
        return found.astype(what.dtype)


def look_at_slide(slide: Slide, chromogen: Chromogen | None) -> Side:
    """Tissue, folds and glass of a slide, from one thumbnail."""
    thumbnail, mpp = read_thumbnail(slide)
    shown, glass = segment_all(thumbnail, mpp), glass_colour(thumbnail)
    found = shown.tissue if chromogen is None else _with_pale(thumbnail, shown, glass)
    folded = folds(thumbnail, found & ~shown.pen, mpp) if found.any() else found
    pieces, labels = _pieces_of(found, mpp)
    tissue, fold = (TissueMask(mask, mpp / slide.info.mpp) for mask in (found, folded))
    pinkness = pinkness_of(thumbnail[shown.tissue & ~shown.pen], glass)
    return Side(slide, tissue, fold, glass, chromogen, pinkness, pieces, labels)


def _with_pale(thumbnail: RGB, shown: Segmented, glass: F32) -> Mask:
    """The tissue of a thumbnail, and what is darker than glass and hangs together with it.

    Stroma without a brown cell, palely counterstained, is hardly coloured, and `segment` goes by colour.
    """
    od = np.empty(shown.tissue.shape, np.float32)
    for top in range(0, len(od), _BAND):
        start = max(top - 4, 0)
        band = optical_density(thumbnail[start : top + _BAND + 4], glass).mean(axis=2)
        od[top : top + _BAND] = band[top - start : top - start + _BAND]
    dark = (ndimage.gaussian_filter(od, 2) > _PALE_OD) & ~shown.unscanned & ~(shown.pen & ~shown.inked)
    labels, n = ndimage.label(dark | shown.tissue, np.ones((3, 3)))
    hangs = np.zeros(n + 1, bool)
    hangs[np.unique(labels[shown.tissue])] = True
    hangs[0] = False
    return np.asarray(hangs[labels])


def haematoxylin(rgb: RGB, glass: F32, chromogen: Chromogen | None) -> F32:
    """Amount of haematoxylin of a picture uint8 (h, w, 3), unit: optical density along its own colour, float32 (h, w).

    glass     : float (3,), colour of clear glass. chromogen : the other dye; None is eosin.

    Least squares on the colours of Ruifrok and Johnston; below 0 counts as 0.
    """
    table = -np.log10(np.maximum(np.arange(256), 1)[:, None] / np.maximum(glass, 1)[None, :]).astype(np.float32)
    other = EOSIN if chromogen is None else chromogen.od
    dyes = np.array([HAEMATOXYLIN, other])
    weights = np.linalg.pinv(dyes / np.linalg.norm(dyes, axis=1, keepdims=True))[:, 0].astype(np.float32)
    amount = np.zeros(rgb.shape[:2], np.float32)
    for c in range(3):
        amount += (table[:, c] * weights[c])[rgb[..., c]]
    return np.clip(amount, 0, _MOST_OD, out=amount)


def _pieces_of(mask: Mask, px: float) -> tuple[tuple[Piece, ...], NDArray[np.uint8]]:
    """The pieces of tissue in a mask of `px` um, largest first, and their numbers on its pixels.

    Gaps of up to `GAP_UM` are bridged; all is one piece where there would be more than `MOST_PIECES`.
    """
    if not mask.any():
        return (), np.zeros(mask.shape, np.uint8)
    near = ndimage.distance_transform_edt(~mask) <= GAP_UM / 2 / px
    islands, n = ndimage.label(near, np.ones((3, 3)))
    areas = np.bincount(islands[mask], minlength=n + 1)[1:] * px**2 / 1e6
    large = [k for k in np.argsort(-areas, kind="stable") if areas[k] >= max(_LEAST_SHARE * areas.max(), _LEAST_MM2)]
    if len(large) > MOST_PIECES:
        rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        whole = Piece(1, _box(rows[0], cols[0], rows[-1] + 1, cols[-1] + 1, px), float(areas.sum()))
        return (whole,), mask.astype(np.uint8)
    numbers = np.zeros(n + 1, np.uint8)
    pieces = []
    for number, k in enumerate(large, 1):
        numbers[k + 1] = number
        rows, cols = (np.flatnonzero((mask & (islands == k + 1)).any(axis=axis)) for axis in (1, 0))
        pieces.append(Piece(number, _box(rows[0], cols[0], rows[-1] + 1, cols[-1] + 1, px), float(areas[k])))
    return tuple(pieces), np.where(mask, numbers[islands], 0).astype(np.uint8)


def _box(y0: int, x0: int, y1: int, x1: int, px: float) -> tuple[float, float, float, float]:
    return y0 * px - _MARGIN_UM, x0 * px - _MARGIN_UM, y1 * px + _MARGIN_UM, x1 * px + _MARGIN_UM


@dataclass(frozen=True)
class Chart:
    """A map of one piece at low power: float32 (h, w), and where it lies on the slide.

    origin_um : (y, x) of the top left corner. mpp : um per px.
    """

    density: F32
    tissue: Mask
    origin_um: tuple[float, float]
    mpp: float

    @property
    def centres(self) -> tuple[F64, F64]:
        """um of the rows' and of the columns' centres."""
        h, w = self.density.shape
        return _centres(0, h, self.mpp, self.origin_um[0]), _centres(0, w, self.mpp, self.origin_um[1])

    def sample(self, y: F64, x: F64) -> F32:
        """The map at places in um, linear between pixels; 0 beyond it."""
        at = np.stack([(v - o) / self.mpp - 0.5 for v, o in zip((y, x), self.origin_um, strict=True)])
        return ndimage.map_coordinates(self.density, at, order=1, prefilter=False)  # type: ignore[no-any-return]


def _centres(start: int, stop: int, mpp: float, origin_um: float = 0.0) -> F64:
    """um of the centres of pixels."""
    return np.asarray(origin_um + (np.arange(start, stop) + 0.5) * mpp, dtype=np.float64)


def chart_of(side: Side, piece: Piece, mpp: float) -> Chart:
    """Haematoxylin and tissue of a piece at `mpp`, or at that of a stored level within 2 % of it; other pieces are glass."""
    sampling = choose_sampling(side.slide.info, mpp)
    y0, x0 = (int(np.floor(v / sampling.mpp)) for v in piece.box_um[:2])
    y1, x1 = (int(np.ceil(v / sampling.mpp)) for v in piece.box_um[2:])
    density = _in_bands(side, sampling, y0, x0, y1 - y0, x1 - x0)
    y, x = (_centres(a, b, sampling.mpp) for a, b in ((y0, y1), (x0, x1)))
    number = side.at(side.labels, y[:, None], x[None, :])
    density[(number != 0) & (number != piece.number)] = 0
    return Chart(density, number == piece.number, (y0 * sampling.mpp, x0 * sampling.mpp), sampling.mpp)


def _in_bands(side: Side, sampling: Sampling, y: int, x: int, h: int, w: int) -> F32:
    """Haematoxylin of a window, read band by band, so that its colours are never held at once."""
    out = np.empty((h, w), np.float32)
    for top in range(0, h, 1024):
        rows = min(1024, h - top)
        out[top : top + rows] = side.density(read_window(side.slide, sampling, y + top, x, rows, w))
    return out
