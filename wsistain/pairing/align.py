"""Which piece of tissue of the IHC slide belongs to which of the H&E slide, and how it lies there: up to an affine map.

Every piece is held against every other at low power, at all angles, face up and face down; pieces are then given to each
other so that the sum of correlations is largest. What is correlated is the amount of haematoxylin, smoothed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

from wsistain.errors import DataError
from wsistain.evaluation.registration import Registration, register_maps, resample
from wsistain.pairing.sections import Chart, Piece, Side, chart_of

F64 = NDArray[np.float64]

COARSE_MPP, COARSE_PX = 32.0, 90_000
AFFINE_MPP, AFFINE_PX = 8.0, 810_000
LEAST_CORRELATION = 0.4
"""Of haematoxylin inside the tissue: sections of one block have 0.58 and more after an affine map (far ones too), others
at most 0.33 (docs/pair.md)."""

FACE_DOWN_BY = 0.1
"""A section is taken to lie face down where that correlates better by so much: most do not."""

_SMOOTH_UM = 32.0
_LEAST_OVERLAP = 0.4  # of the smaller piece's tissue


@dataclass(frozen=True)
class Placed:
    """How a piece lies: matrices float64 (2, 3), H&E um to IHC um; correlation of haematoxylin inside the tissue.

    runner_up : the best correlation of this H&E piece with another piece of the IHC slide; None where there is none.
    """

    he: Piece
    ihc: Piece
    matrix: F64
    rigid: F64
    is_mirrored: bool
    correlation: float
    runner_up: float | None = None


def place_pieces(he: Side, ihc: Side) -> list[Placed]:
    """The pieces that belong together, by number of the H&E piece.

    Raises DataError where none do, with the correlations that were found.
    """
    # Every piece against every other, at low power.
    charts = charts_of([(side, piece) for side in (he, ihc) for piece in side.pieces], COARSE_MPP, COARSE_PX)
    tried = [[_best_way(a, b) for b in charts[len(he.pieces) :]] for a in charts[: len(he.pieces)]]
    score = np.array([[way.correlation for way in row] for row in tried])

    # Each to one other; several sections of one block may fit nearly as well, which is told.
    placed, best = [], float(score.max())
    for i, j in zip(*linear_sum_assignment(-score), strict=True):
        if score[i, j] < LEAST_CORRELATION:
            continue
        fine = charts_of([(he, he.pieces[i]), (ihc, ihc.pieces[j])], AFFINE_MPP, AFFINE_PX)
        way = _way(fine[0], fine[1], flip=tried[i][j].flip)
        if way.correlation < LEAST_CORRELATION or way.found is None:
            continue
        others = np.delete(score[i], j)
        matrix, rigid = (_in_um(m, fine[0], fine[1], way.flip) for m in (way.found.matrix, way.found.rigid))
        placed.append(
            Placed(
                he.pieces[i],
                ihc.pieces[j],
                matrix,
                rigid,
                way.flip,
                round(way.correlation, 4),
                round(float(others.max()), 4) if others.size else None,
            )
        )
    if not placed:
        raise DataError(_refusal(he, ihc, best))
    return placed


@dataclass(frozen=True)
class _Way:
    """One way in which a piece may lie: face down or not, how it fits then, and the correlation inside the tissue."""

    flip: bool
    found: Registration | None
    correlation: float


def charts_of(pieces: Sequence[tuple[Side, Piece]], mpp: float, most_px: int) -> list[Chart]:
    """Charts of pieces at one um per px: `mpp`, or coarser where a slide is, or where one would have over `most_px`."""
    areas = [(p.box_um[2] - p.box_um[0]) * (p.box_um[3] - p.box_um[1]) for _, p in pieces]
    common = max(mpp, *(side.slide.info.mpp for side, _ in pieces), float(np.sqrt(max(areas) / most_px)))
    return [chart_of(side, piece, common) for side, piece in pieces]


def _best_way(fixed: Chart, moving: Chart) -> _Way:
    """The better of face up and face down."""
    up, down = (_way(fixed, moving, flip=flip) for flip in (False, True))
    return down if down.correlation > up.correlation + FACE_DOWN_BY else up


def _way(fixed: Chart, moving: Chart, *, flip: bool) -> _Way:
    """The best rotation, shift and affine map; its correlation is -1 where there is none."""
    step = -1 if flip else 1
    density, tissue = moving.density[:, ::step], moving.tissue[:, ::step]
    try:
        found = register_maps(fixed.density.astype(np.float64), density.astype(np.float64), least=-1.0)
    except ValueError:
        return _Way(flip, None, -1.0)
    return _Way(flip, found, _inside(fixed, density, tissue, found.matrix))


def _inside(fixed: Chart, density: NDArray[Any], tissue: NDArray[np.bool_], matrix: F64) -> float:
    """Pearson of the smoothed haematoxylin where both show tissue: outlines alone, alike in many sections, do not count."""
    sigma = _SMOOTH_UM / fixed.mpp
    shape = fixed.density.shape
    moved = resample(gaussian_filter(density.astype(np.float64), sigma), matrix, shape)
    both = fixed.tissue & (resample(tissue.astype(np.float64), matrix, shape) > 0.5)
    if np.count_nonzero(both) < _LEAST_OVERLAP * min(np.count_nonzero(fixed.tissue), np.count_nonzero(tissue)):
        return -1.0
    a, b = gaussian_filter(fixed.density.astype(np.float64), sigma)[both], moved[both]
    if min(a.std(), b.std()) < 1e-6:
        return -1.0
    return float(np.corrcoef(a, b)[0, 1])


def _in_um(matrix: F64, fixed: Chart, moving: Chart, flip: bool) -> F64:
    """A matrix between pixels of two charts, the second one flipped or not, as one between um of the slides."""
    m, t = matrix[:, :2].copy(), matrix[:, 2].copy()
    if flip:
        m[1], t[1] = -m[1], moving.density.shape[1] - 1 - t[1]
    scale = moving.mpp / fixed.mpp
    shift = np.array(moving.origin_um) + moving.mpp * (t + 0.5 - m @ (np.array(fixed.origin_um) / fixed.mpp + 0.5))
    return np.column_stack([m * scale, shift])


def _refusal(he: Side, ihc: Side, best: float) -> str:
    """Why two slides are no pair, with what was seen."""
    areas = [", ".join(f"{p.mm2:.1f}" for p in side.pieces) for side in (he, ihc)]
    found = (
        f"the best correlation of haematoxylin in the tissue is {best:.2f}"
        if best > -1
        else "no two pieces overlap at any angle"
    )
    return (
        f"{he.slide.info.path} and {ihc.slide.info.path} do not show the same tissue: over {len(he.pieces)} x "
        f"{len(ihc.pieces)} pieces ({areas[0]} mm2 and {areas[1]} mm2), all angles, face up and face down, {found}, wanted "
        f"{LEAST_CORRELATION}; check that both are sections of one block"
    )
