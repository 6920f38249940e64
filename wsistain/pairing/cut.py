"""Patches that lie over each other on both slides, and what is measured of each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter

from wsistain.markers import Marker
from wsistain.optics.scoring import stain_od
from wsistain.pairing.fit import Fit
from wsistain.pairing.sections import Side
from wsistain.pairing.transform import PieceMap
from wsistain.slide.base import RGB
from wsistain.slide.quality import fine_detail
from wsistain.slide.resample import Sampling, choose_sampling, read_window

F64 = NDArray[np.float64]

_PROBE_UM = 8.0
_FOCUS_MPP, _FOCUS_COARSEST = 1.0, 1.5
_MARGIN_PX = 6  # what a cubic spline reaches beyond a pixel, and more: its filter decays within a few px


@dataclass(frozen=True)
class Measured:
    """What was measured of a patch; None where it could not be. docs/pair.md says what each is."""

    section: int
    y_l0: int
    x_l0: int
    residual_um: float | None
    agreement: float | None
    stretch: float
    tissue: float
    tissue_ihc: float
    fold: float
    fold_ihc: float
    focus: float | None
    focus_ihc: float | None
    dab: float


@dataclass(frozen=True)
class Patch:
    """One pair of pictures uint8 (size, size, 3), its place on the grid of patches, and what was measured."""

    row: int
    col: int
    he: RGB
    ihc: RGB
    measured: Measured


@dataclass(frozen=True)
class Cutter:
    """Cuts patches of `size` px at `mpp` from two registered slides.

    pieces       : maps by the number of the piece on the H&E slide. fits : how well they fit, by the same number.
    least_tissue : patches of which less is tissue, on the H&E, are not cut.
    """

    he: Side
    ihc: Side
    marker: Marker
    pieces: dict[int, PieceMap]
    fits: dict[int, Fit]
    mpp: float
    size: int
    least_tissue: float

    @property
    def samplings(self) -> tuple[Sampling, Sampling]:
        """How both slides are read at the wanted um per px."""
        he, ihc = (choose_sampling(side.slide.info, self.mpp) for side in (self.he, self.ihc))
        return he, ihc

    def places(self) -> tuple[list[tuple[int, int, int]], Counter[str]]:
        """(row, column, piece) of every patch that is cut, and how many are not, by reason."""
        he, _ = self.samplings
        edge = self.size * he.mpp
        left_out: Counter[str] = Counter()
        found = []
        for row in range(he.shape[0] // self.size):
            for col in range(he.shape[1] // self.size):
                y, x = self._probes(row * edge, col * edge, edge)
                tissue = self.he.at(self.he.tissue.mask, y, x)
                if not tissue.any():
                    continue
                number = np.bincount(self.he.at(self.he.labels, y, x).ravel(), minlength=1)
                number[0] = 0
                piece = int(number.argmax())
                if tissue.mean() < self.least_tissue:
                    left_out["less tissue than asked for"] += 1
                elif piece not in self.pieces:
                    left_out["on tissue that was not found on the IHC slide"] += 1
                elif not self._is_on_ihc(self.pieces[piece], y, x):
                    left_out["beyond the edge of the IHC slide"] += 1
                else:
                    found.append((row, col, piece))
        return found, left_out

    def _probes(self, y: float, x: float, edge: float) -> tuple[F64, F64]:
        """Places, um, spread over a square, its edges included."""
        at = np.linspace(0, edge, max(2, round(edge / _PROBE_UM)))
        yy, xx = np.meshgrid(y + at, x + at, indexing="ij")
        return yy, xx

    def _is_on_ihc(self, piece: PieceMap, y: F64, x: F64) -> bool:
        info = self.ihc.slide.info
        my, mx = piece.map(y, x)
        height, width = (n * info.mpp for n in info.size_l0)
        return bool(my.min() >= 0 and mx.min() >= 0 and my.max() <= height and mx.max() <= width)

    def cut(self, place: tuple[int, int, int]) -> Patch:
        """The patch at a place."""
        row, col, number = place
        he, ihc = self.samplings
        piece, fit = self.pieces[number], self.fits[number]
        rgb = read_window(self.he.slide, he, row * self.size, col * self.size, self.size, self.size)
        other = self._warped(piece, he, ihc, row * self.size, col * self.size)
        edge = self.size * he.mpp
        y0, x0 = row * edge, col * edge
        residual, agreement = fit.within(y0, x0, y0 + edge, x0 + edge)
        y, x = self._probes(y0, x0, edge)
        my, mx = piece.map(y, x)
        measured = Measured(
            section=number,
            y_l0=round(y0 / self.he.slide.info.mpp),
            x_l0=round(x0 / self.he.slide.info.mpp),
            residual_um=residual,
            agreement=agreement,
            stretch=_largest_stretch(piece, y0, x0, edge),
            tissue=float(self.he.at(self.he.tissue.mask, y, x).mean()),
            tissue_ihc=float(self.ihc.at(self.ihc.tissue.mask, my, mx).mean()),
            fold=float(self.he.at(self.he.fold.mask, y, x).mean()),
            fold_ihc=float(self.ihc.at(self.ihc.fold.mask, my, mx).mean()),
            focus=_focus(rgb, he.mpp),
            focus_ihc=_focus(other, he.mpp),
            dab=float((stain_od(other, self.marker.chromogen) >= self.marker.cutoffs[0]).mean()),
        )
        return Patch(row, col, rgb, other, measured)

    def _warped(self, piece: PieceMap, he: Sampling, ihc: Sampling, top: int, left: int) -> RGB:
        """The IHC under a patch of the H&E, pixel by pixel, by cubic splines."""
        y, x = ((np.arange(start, start + self.size) + 0.5) * he.mpp for start in (top, left))
        py, px = (v / ihc.mpp - 0.5 for v in piece.map(*np.meshgrid(y, x, indexing="ij")))
        y0, x0 = (int(np.floor(v.min())) - _MARGIN_PX for v in (py, px))
        y1, x1 = (int(np.ceil(v.max())) + _MARGIN_PX + 1 for v in (py, px))
        source = read_window(self.ihc.slide, ihc, y0, x0, y1 - y0, x1 - x0)
        at = np.stack([py - y0, px - x0])
        out = np.empty((self.size, self.size, 3), np.uint8)
        for c in range(3):
            spline = spline_filter(source[..., c].astype(np.float32), order=3, output=np.float32, mode="mirror")
            plane = map_coordinates(spline, at, order=3, prefilter=False, mode="mirror", output=np.float32)
            out[..., c] = np.clip(np.rint(plane), 0, 255)
        return out


def _largest_stretch(piece: PieceMap, y0: float, x0: float, edge: float) -> float:
    """Largest stretch at the nodes of the field in a square and next to it."""
    first = [max(0, int(np.floor((v - o) / piece.step_um))) for v, o in zip((y0, x0), piece.origin_um, strict=True)]
    n = int(np.ceil(edge / piece.step_um)) + 2
    part = piece.field_um[:, first[0] : first[0] + n, first[1] : first[1] + n]
    if min(part.shape) < 2:
        return 0.0
    return float(
        PieceMap(piece.matrix, piece.rigid, piece.box_um, piece.origin_um, piece.step_um, part).stretch().max()
    )


def _focus(rgb: RGB, mpp: float) -> float | None:
    """`fine_detail` of a patch at about 1 um per px; None where it is too coarse to tell."""
    if mpp > _FOCUS_COARSEST:
        return None
    n = max(1, round(_FOCUS_MPP / mpp))
    h, w = (side // n * n for side in rgb.shape[:2])
    if min(h, w) < n:
        return None
    small = rgb[:h, :w].reshape(h // n, n, w // n, n, 3).mean(axis=(1, 3))
    return fine_detail(np.rint(small).astype(np.uint8))


def in_order(cutter: Cutter, places: Sequence[tuple[int, int, int]]) -> Iterator[Patch]:
    """Every patch, one after another."""
    for place in places:
        yield cutter.cut(place)
