"""The smooth rest of a registration: what an affine map cannot do, since sections stretch and shrink as they are mounted.

Both sections' haematoxylin, levelled to the same local mean and spread, is registered by Lucas-Kanade over windows, from
coarse to fine. Two things are kept from it that it would take for evidence: the edge of a section or of its scan, where
one slide shows tissue and the other does not, and windows without structure. The first is masked; in the second the field
is drawn to what its neighbours found, and to the affine map where none did.

Why not `skimage.registration.optical_flow_ilk`: it takes no mask, and begins at pictures of 16 px whatever the slide, where
levelled sections hold nothing but noise. docs/pair.md has both measured, beside elastix and SimpleITK.

Sources: Lucas and Kanade 1981; Le Besnerais and Champagnat 2005 (windows by filters, the whole field in every step).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, zoom

from wsistain.pairing.align import Placed, charts_of
from wsistain.pairing.fit import moved_chart
from wsistain.pairing.sections import Chart, Side
from wsistain.pairing.transform import PieceMap

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMOOTH_MPP, SMOOTH_PX = 4.0, 6_000_000
STEP_UM = 16.0


@dataclass(frozen=True)
class Stage:
    """One pass over the pictures: um per px, sigma of its windows and of what evens its field (um), and steps."""

    mpp: float
    window_um: float
    even_um: float
    steps: int


STAGES = (
    Stage(64, 320, 240, 8),
    Stage(32, 160, 120, 8),
    Stage(16, 100, 80, 8),
    Stage(8, 46, 40, 6),
    Stage(4, 29, 20, 4),
)

_LEVEL_UM, _LEVEL_PX = 150.0, 8.0  # sigma of the local mean and spread: the larger of both
_FLOOR = 0.05  # of the largest local variance: what is flat stays flat
_RIDGE = 0.02  # squared slope of a levelled picture, per px, at which a window and its neighbours count alike
_HOLE_UM = 400.0  # ducts, vessels and air spaces up to this wide are part of a section
_FAR, _FAR_SHARE = 8, 0.05  # how much wider, and how much weaker, the mean is that carries a field on
_LEAST_PX = 8


def smooth_map(he: Side, ihc: Side, placed: Placed) -> PieceMap:
    """The map of a piece with its smooth field, worked out at `SMOOTH_MPP`, coarser on pieces over 96 mm2."""
    charts = charts_of([(he, placed.he), (ihc, placed.ihc)], SMOOTH_MPP, SMOOTH_PX)
    fixed, still = charts[0], _map_of(placed, np.zeros((2, 2, 2), np.float32))
    inside = [replace(chart, density=_section(side, chart)) for side, chart in zip((he, ihc), charts, strict=True)]
    moved, moved_inside = (moved_chart(fixed, chart, still) for chart in (charts[1], inside[1]))
    flow = smooth_flow(fixed.density, moved, inside[0].density, moved_inside, fixed.mpp)

    # From px of the charts to um of the IHC slide: the flow lies before the affine map, the field after it.
    y, x = ((np.arange(0, n * fixed.mpp, STEP_UM)) / fixed.mpp - 0.5 for n in fixed.density.shape)
    at = np.meshgrid(np.clip(y, 0, None), np.clip(x, 0, None), indexing="ij")
    dy, dx = (map_coordinates(plane, at, order=1, mode="nearest", prefilter=False) * fixed.mpp for plane in flow)
    m = placed.matrix
    field = np.stack([m[k, 0] * dy + m[k, 1] * dx for k in range(2)]).astype(np.float32)
    return _map_of(placed, field, fixed.origin_um)


def _map_of(placed: Placed, field: F32, origin_um: tuple[float, float] = (0.0, 0.0)) -> PieceMap:
    box = np.array(placed.he.box_um)
    return PieceMap(placed.matrix, placed.rigid, box, np.array(origin_um), STEP_UM, field)


def _section(side: Side, chart: Chart) -> F32:
    """1 where a section lies on a chart, its holes included, and was scanned; else 0."""
    n = max(1, round(16 / chart.mpp))
    coarse = _shrunk(chart.tissue.astype(np.float32), n) > 0.25
    if not coarse.any():
        return np.zeros(chart.density.shape, np.float32)
    reach = _HOLE_UM / 2 / (n * chart.mpp)
    margin = int(reach) + 2  # so that the end of the chart closes nothing
    near = distance_transform_edt(~np.pad(coarse, margin)) <= reach
    closed = (distance_transform_edt(near) > reach)[margin:-margin, margin:-margin] | coarse
    h, w = chart.density.shape
    inside = np.kron(closed, np.ones((n, n), np.float32))[:h, :w]
    for axis, centres in enumerate(chart.centres):
        scanned = (centres >= 0) & (centres <= side.slide.info.size_l0[axis] * side.slide.info.mpp)
        inside *= np.expand_dims(scanned, 1 - axis)
    return inside.astype(np.float32)


def smooth_flow(fixed: F32, moved: F32, fixed_inside: F32, moved_inside: F32, mpp: float) -> F32:
    """Where each pixel of `fixed` is found on `moved`, as displacement float32 (2, h, w), (y, x) px.

    fixed, moved : haematoxylin, float32 (h, w), `moved` in the frame of `fixed` up to the displacement, at `mpp`.
    *_inside     : float32 (h, w), 1 where the section was seen, 0 elsewhere; where one was not, nothing is compared
                   and the field is carried on from where both were.
    """
    flow = np.zeros((2, *fixed.shape), np.float32)
    last = 0
    for stage in STAGES:
        shrink = max(1, round(stage.mpp / mpp))
        if shrink == last or min(fixed.shape) < _LEAST_PX * shrink:
            continue
        last, px = shrink, shrink * mpp
        a, b, seen_a, seen_b = (_shrunk(p, shrink) for p in (fixed, moved, fixed_inside, moved_inside))
        sigma = max(_LEVEL_UM / px, _LEVEL_PX)
        start = np.stack([_shrunk(plane, shrink) / np.float32(shrink) for plane in flow])
        pair = (_levelled(a, seen_a, sigma), _levelled(b, seen_b, sigma), seen_a, seen_b)
        found = _lucas_kanade(*pair, start, max(2, stage.window_um / px), max(2, stage.even_um / px), stage.steps)
        flow = np.stack([_enlarged(plane, shrink, fixed.shape) * shrink for plane in found])
    return flow


def _lucas_kanade(a: F32, b: F32, seen_a: F32, seen_b: F32, flow: F32, window: float, even: float, steps: int) -> F32:
    """`flow`, (2, h, w) px, after some steps that bring `b` over `a`; sigmas of windows and of the evening in px.

    In every step each window asks for a whole displacement, not a correction; what its structure does not decide is
    drawn to the mean of its surroundings (a ridge on the normal equations).
    """
    for _ in range(steps):
        # The normal equations of every window, from pixels that both sections show.
        moved, seen = _warped(b, flow), seen_a * _warped(seen_b, flow)
        slope_y, slope_x = np.gradient(moved)
        yy, xx, yx = (
            _windows(p * q * seen, window)
            for p, q in ((slope_y, slope_y), (slope_x, slope_x), (slope_y, slope_x))
        )  # fmt: skip

        # Around the mean field, to which windows without structure give nothing.
        structure = np.maximum(yy * xx - yx * yx, 0) / (yy + xx + 1e-6)
        mean = _evened(flow, seen * structure / (structure + _RIDGE), even)
        rest = a - moved + slope_y * (flow[0] - mean[0]) + slope_x * (flow[1] - mean[1])
        ye, xe = (_windows(slope * rest * seen, window) for slope in (slope_y, slope_x))
        yy, xx = yy + _RIDGE, xx + _RIDGE
        determinant = yy * xx - yx * yx
        step = mean + np.stack([xx * ye - yx * xe, yy * xe - yx * ye]) / determinant - flow
        flow = (flow + step / np.maximum(np.hypot(*step), 1)).astype(np.float32)  # slopes hold for a pixel, no further
    return _evened(flow, seen * structure / (structure + _RIDGE), even)


def _windows(values: NDArray[Any], sigma: float) -> F32:
    return np.asarray(gaussian_filter(values, sigma, mode="constant", truncate=3.0))


def _evened(flow: F32, weight: F32, sigma: float) -> F32:
    """The field smoothed by what has weight; beyond that a wider mean carries it on, so that it ends smoothly."""

    def sums(values: F32) -> F32:
        near = gaussian_filter(values, sigma, mode="nearest")
        far = gaussian_filter(_shrunk(values, _FAR), sigma, mode="nearest")
        return np.asarray(near + _FAR_SHARE * _enlarged(far, _FAR, values.shape))

    below = np.maximum(sums(weight), 1e-6)
    return np.stack([sums(plane * weight) / below for plane in flow]).astype(np.float32)


def _warped(picture: F32, flow: F32) -> F32:
    """A picture at the places to which the field points."""
    y, x = np.indices(picture.shape, dtype=np.float32)
    at = np.stack([y + flow[0], x + flow[1]])
    return np.asarray(map_coordinates(picture, at, order=1, mode="nearest", prefilter=False))


def _shrunk(picture: F32, n: int) -> F32:
    """Means of n x n px; what is left over at the far edges is taken from the last pixel."""
    if n == 1:
        return picture
    h, w = (-(-side // n) * n for side in picture.shape)
    padded = np.pad(picture, ((0, h - picture.shape[0]), (0, w - picture.shape[1])), mode="edge")
    return np.asarray(padded.reshape(h // n, n, w // n, n).mean(axis=(1, 3)), dtype=np.float32)


def _enlarged(picture: F32, n: int, shape: tuple[int, ...]) -> F32:
    """A picture shrunk by `n` at the size of the whole one, linear between its pixels."""
    if n == 1:
        return picture
    whole = zoom(picture, n, order=1, mode="nearest", grid_mode=True)
    return np.asarray(whole[: shape[0], : shape[1]], dtype=np.float32)


def _levelled(picture: F32, seen: F32, sigma: float) -> F32:
    """A picture less its local mean, over its local spread, both of what was seen; 0 elsewhere."""
    weight = gaussian_filter(seen, sigma) + 1e-6
    mean = gaussian_filter(picture * seen, sigma) / weight
    variance = gaussian_filter(seen * (picture - mean) ** 2, sigma) / weight
    most = float(variance[seen > 0.5].max(initial=0.0))
    return np.asarray(seen * (picture - mean) / np.sqrt(variance + _FLOOR * most + 1e-9), dtype=np.float32)
