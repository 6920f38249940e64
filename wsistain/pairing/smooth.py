"""The smooth rest of a registration: what an affine map cannot do, since sections stretch and shrink as they are mounted.

Both sections' haematoxylin, levelled to the same local mean and spread, is registered by iterated Lucas-Kanade over
windows, from coarse to fine: `skimage.registration.optical_flow_ilk`, first at 8 um per px, then at 4 over smaller windows.
benchmarks/pair.py measured it beside elastix, SimpleITK and others (docs/pair.md).

Source: Le Besnerais and Champagnat 2005 (as implemented in scikit-image).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from skimage.registration import optical_flow_ilk

from wsistain.pairing.align import Placed, charts_of
from wsistain.pairing.fit import moved_chart
from wsistain.pairing.sections import Side
from wsistain.pairing.transform import PieceMap

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMOOTH_MPP, SMOOTH_PX = 4.0, 6_000_000
STEP_UM = 16.0
_STAGES = ((2, 80.0, 10, 40.0), (1, 50.0, 5, 20.0))
"""Of each stage: how much coarser, radius of its windows (um), warps, and over what its field is evened out (um)."""

_LEVEL_UM = 150.0
_FLOOR = 0.05  # of the largest local variance: what is flat stays flat
_MOST_UM = 400.0  # larger smooth displacements are no mounting but a wrong start


def smooth_map(he: Side, ihc: Side, placed: Placed) -> PieceMap:
    """The map of a piece with its smooth field, worked out at `SMOOTH_MPP`, coarser on pieces over 96 mm2."""
    charts = charts_of([(he, placed.he), (ihc, placed.ihc)], SMOOTH_MPP, SMOOTH_PX)
    fixed = charts[0]
    moved = moved_chart(fixed, charts[1], _map_of(placed, np.zeros((2, 2, 2), np.float32)))
    flow = smooth_flow(fixed.density, moved, fixed.tissue, fixed.mpp)

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


def smooth_flow(fixed: F32, moved: F32, tissue: Mask, mpp: float) -> F32:
    """Where each pixel of `fixed` is found on `moved`, as displacement float32 (2, h, w), (y, x) px.

    fixed, moved : haematoxylin, float32 (h, w), `moved` in the frame of `fixed` up to the displacement.
    tissue       : bool (h, w), that of `fixed`; elsewhere the field is carried on from there.
    """
    flow = np.zeros((2, *fixed.shape), np.float32)
    if not tissue.any():
        return flow
    for shrink, radius_um, warps, even_um in _STAGES:
        a, b = _shrunk(fixed, shrink), _shrunk(_warped(moved, flow), shrink)
        there = _shrunk(tissue.astype(np.float32), shrink) > 0.5
        px = mpp * shrink
        levelled = [_levelled(p, _LEVEL_UM / px) for p in (a, b)]
        step = optical_flow_ilk(
            levelled[0], levelled[1], radius=max(2, round(radius_um / px)), num_warp=warps, dtype=np.float32
        )  # fmt: skip
        step = _evened(np.asarray(step), there & (np.hypot(*step) < _MOST_UM / px), even_um / px)
        flow = _composed(flow, _enlarged(step, shrink, fixed.shape))
    return flow


def _evened(flow: F32, there: Mask, sigma: float) -> F32:
    """The field smoothed by what is `there`; beyond that a wider mean carries it on, so that it ends smoothly."""
    weight = there.astype(np.float32)
    out = np.empty_like(flow)
    near, far = (gaussian_filter(weight, s, mode="nearest") for s in (sigma, 8 * sigma))
    for k in range(2):
        a, b = (gaussian_filter(flow[k] * weight, s, mode="nearest") for s in (sigma, 8 * sigma))
        out[k] = (a + 0.05 * b) / np.maximum(near + 0.05 * far, 1e-6)
    return out


def _warped(picture: F32, flow: F32) -> F32:
    """A picture at the places to which the field points."""
    y, x = np.indices(picture.shape, dtype=np.float32)
    at = np.stack([y + flow[0], x + flow[1]])
    return np.asarray(map_coordinates(picture, at, order=1, mode="nearest", prefilter=False))


def _composed(first: F32, then: F32) -> F32:
    """The field of a picture that was warped by `first` and after that by `then`."""
    return np.stack([_warped(plane, then) for plane in first]) + then


def _shrunk(picture: F32, n: int) -> F32:
    """Means of n x n px; what is left over at the far edges is taken from the last pixel."""
    h, w = (-(-side // n) * n for side in picture.shape)
    padded = np.pad(picture, ((0, h - picture.shape[0]), (0, w - picture.shape[1])), mode="edge")
    return np.asarray(padded.reshape(h // n, n, w // n, n).mean(axis=(1, 3)), dtype=np.float32)


def _enlarged(flow: F32, n: int, shape: tuple[int, ...]) -> F32:
    """A field of pictures shrunk by `n` as one of the whole ones."""
    if n == 1:
        return flow
    planes = [zoom(plane, n, order=1, mode="nearest", grid_mode=True) * n for plane in flow]
    return np.stack([plane[: shape[0], : shape[1]] for plane in planes]).astype(np.float32)


def _levelled(picture: F32, sigma: float) -> F32:
    """A picture less its local mean, over its local spread."""
    mean = gaussian_filter(picture, sigma)
    variance = gaussian_filter((picture - mean) ** 2, sigma)
    spread = np.sqrt(variance + _FLOOR * float(variance.max()) + 1e-9)
    return np.asarray((picture - mean) / spread, dtype=np.float32)
