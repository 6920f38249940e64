"""Agreement of the brown stain of two pictures: masks and their overlap, cell scores, ranking quality. Numpy only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.stats import rankdata

from wsistain.evaluation.fidelity import gray601
from wsistain.markers import Compartment

MASK_BLOCK = 4
"""Masks are made on means of 4 x 4 px of optical density: about 2 um, a third of a nucleus, so single pixels drop out."""

DISC_UM = 1.5
"""Radius of the disc in which a nuclear marker is read at a cell's position where its nucleus is not known better.

Inside nearly every nucleus: the phantom's have mean diameters of 6 to 14 um, less where they are long or cut near a
pole. A disc of 2.5 um takes in the surroundings of small ones and so reads their size with their stain: it reads the
phantom's aligned truth no better (AUC 0.996 both) and ranks the cells of a graded virtual stain 0.008 worse.
"""

RING_UM = (3.5, 6.5)
"""Inner and outer radius of the ring in which a membranous marker is read."""

CYTOPLASM_UM = (3.0, 5.5)
"""The same for a cytoplasmic one: on the phantom's aligned truth it tells positive cells best (AUC 0.992; the ring of
membranes 0.986).
"""

CELL_BLUR_UM, CELL_LEAST_UM2, CELL_BODY_UM = 0.7, 10.0, 2.0
"""Of `cell_regions`: the Gaussian before the cut, the smallest nucleus, and how far a cell reaches beyond it."""

_LEAST_CONTRAST = 10.0

Bool = NDArray[np.bool_]


def block_means(values: NDArray[Any], block: int = MASK_BLOCK) -> NDArray[np.float32]:
    """Means over block x block squares, float32 (h // block, w // block); a rest at the edges is left out."""
    h, w = (size // block * block for size in values.shape)
    rows = values[:h, :w].reshape(h // block, block, w).mean(axis=1, dtype=np.float32)
    means: NDArray[np.float32] = rows.reshape(h // block, w // block, block).mean(axis=2, dtype=np.float32)
    return means


def stain_mask(od: NDArray[Any], cutoff: float) -> Bool:
    """Where the stain is positive at the scale of 4 px, bool (h // 4, w // 4); `od` float (h, w)."""
    return block_means(od) >= cutoff


def hausdorff(a: Bool, b: Bool) -> float:
    """Largest distance from a point of one mask to the nearest of the other, px; 0 both empty, NaN one empty."""
    if not a.any() and not b.any():
        return 0.0
    if not a.any() or not b.any():
        return float("nan")
    return float(max(distance_transform_edt(~b)[a].max(), distance_transform_edt(~a)[b].max()))


def stain_accuracy(virtual: Bool, real: Bool, *, px: float = 1.0) -> dict[str, float]:
    """Dice, IoU, Hausdorff distance, sensitivity and specificity of a virtual mask against the real one.

    virtual, real : bool (h, w).
    px            : unit of the Hausdorff distance for one mask pixel (4 for `stain_mask`: picture px).

    Dice and IoU of two empty masks are 1. Sensitivity is NaN without positive, specificity without negative pixels
    in `real`, the Hausdorff distance when exactly one mask is empty.
    """
    if virtual.shape != real.shape:
        raise ValueError(f"masks of one size are compared; found {virtual.shape} and {real.shape}")
    both = int(np.count_nonzero(virtual & real))
    n_virtual, n_real, n = int(np.count_nonzero(virtual)), int(np.count_nonzero(real)), real.size
    either = n_virtual + n_real - both
    return {
        "dice": 2 * both / (n_virtual + n_real) if either else 1.0,
        "iou": both / either if either else 1.0,
        "hausdorff": hausdorff(virtual, real) * px,
        "sensitivity": both / n_real if n_real else float("nan"),
        "specificity": (n - either) / (n - n_real) if n_real < n else float("nan"),
    }


def _offsets(inner: float, outer: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    reach = int(np.floor(outer))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(dy, dx)
    inside = (distance >= inner) & (distance <= outer)
    return dy[inside], dx[inside]


def cell_od(
    od: NDArray[Any],
    y: NDArray[Any],
    x: NDArray[Any],
    *,
    compartment: Compartment,
    mpp: float,
) -> NDArray[np.float64]:
    """Mean optical density at each cell, float (n,): in a disc (nuclear) or a ring round its position.

    od   : float (h, w).
    y, x : positions, px, pixel centres at whole numbers; NaN comes back for a cell with less than half of its
           disc or ring in the picture.
    mpp  : um per px of `od`.
    """
    inner, outer = {"nuclear": (0.0, DISC_UM), "membranous": RING_UM, "cytoplasmic": CYTOPLASM_UM}[compartment]
    dy, dx = _offsets(inner / mpp, max(outer / mpp, inner / mpp + 1))
    h, w = od.shape
    result = np.full(len(y), np.nan)
    cy, cx = np.rint(np.asarray(y, dtype=float)).astype(np.int64), np.rint(np.asarray(x, dtype=float)).astype(np.int64)
    for start in range(0, len(cy), 4096):
        rows = cy[start : start + 4096, None] + dy
        cols = cx[start : start + 4096, None] + dx
        inside = (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
        values = np.where(inside, od[rows.clip(0, h - 1), cols.clip(0, w - 1)], 0)
        count = inside.sum(axis=1)
        enough = count * 2 >= dy.size
        result[start : start + 4096][enough] = values.sum(axis=1, dtype=np.float64)[enough] / count[enough]
    return result


def cell_regions(rgb: NDArray[np.uint8], mpp: float) -> Bool:
    """Where the cells of a picture are, bool (h, w): nuclei, dark by Otsu's cut of the blurred gray, and 2 um round them.

    rgb : uint8 (h, w, 3), H&E or IHC (brown nuclei are as dark as blue ones). mpp : um per px.

    Spots below 10 um2 are left out. Nothing is found where the two classes are less than 10 gray levels apart.
    """
    from skimage.filters import threshold_otsu

    gray = gaussian_filter(gray601(rgb).astype(np.float32), CELL_BLUR_UM / mpp, truncate=2.0)
    if gray.max() - gray.min() < _LEAST_CONTRAST:
        return np.zeros(gray.shape, dtype=bool)
    dark = gray <= threshold_otsu(gray)
    if gray[~dark].mean() - gray[dark].mean() < _LEAST_CONTRAST:
        return np.zeros(gray.shape, dtype=bool)
    spots, n = label(dark)
    large = np.bincount(spots.ravel(), minlength=n + 1) * mpp**2 >= CELL_LEAST_UM2
    large[0] = False
    nuclei = large[spots]
    if not nuclei.any():
        return np.zeros(gray.shape, dtype=bool)
    return np.asarray(distance_transform_edt(~nuclei) <= CELL_BODY_UM / mpp)


def area_under_curve(score: NDArray[Any], positive: Bool) -> float:
    """Probability that a positive has a higher score than a negative, ties counted half, 0..1; NaN without either."""
    n_positive = int(np.count_nonzero(positive))
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def precision_recall(called: Bool, positive: Bool) -> tuple[float, float]:
    """Share of called cells that are positive, and of positive cells that are called; NaN where there are none."""
    hits = int(np.count_nonzero(called & positive))
    n_called, n_positive = int(np.count_nonzero(called)), int(np.count_nonzero(positive))
    return (hits / n_called if n_called else float("nan"), hits / n_positive if n_positive else float("nan"))
