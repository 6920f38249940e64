"""Rigid, then affine registration of two sections at low power by their optical density.

Sections of one block stained differently share structure, not colour, so what is compared is the gray optical
density, smoothed. A rigid search over all angles (masked cross-correlation of small pictures) gives starts; each is
refined by the enhanced correlation coefficient, from coarse to fine, first rigid, then affine.

Sources: Padfield 2012 (masked cross-correlation, as in scikit-image); Evangelidis and Psarakis 2008 (ECC).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from skimage.registration import phase_cross_correlation

F64 = NDArray[np.float64]

SEARCH_PX = 160
WORK_PX = 900
SEARCH_STEP_DEG = 6
STARTS = 4
LEAST_CORRELATION = 0.35
"""Real serial sections reach 0.5 and more after registration, a section and noise 0.3."""
SMOOTHING_PX = (12.0, 6.0, 3.0)
_SCALES = (0.7, 1.4)


@dataclass(frozen=True)
class Registration:
    """How a moving picture lies under a fixed one.

    matrix       : float (2, 3); (y, x) of the moving picture = matrix @ (y, x, 1) of the fixed one, px.
    rigid        : the same before the affine refinement.
    correlation  : Pearson of the smoothed densities over the overlap; correlation_rigid: that of the rigid map.
    residual_px  : local displacements left over, float (n,), px of the fixed picture, one a window with tissue.
    """

    matrix: F64
    rigid: F64
    correlation: float
    correlation_rigid: float
    residual_px: F64

    def map(self, points: F64) -> F64:
        """Points (n, 2) as (y, x) of the fixed picture in the frame of the moving one."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def gray_density(rgb: NDArray[np.uint8]) -> F64:
    """Gray optical density against the brightest twentieth of the picture, float (h, w), >= 0."""
    light = rgb.astype(np.float64).mean(axis=2) + 1
    return np.asarray(np.maximum(-np.log10(light / np.quantile(light, 0.95)), 0))


def _linear(picture: Any, at: F64, fill: float = 0.0) -> F64:
    """Values of a picture (h, w) at points (2, ...), linear between pixels."""
    return np.asarray(map_coordinates(picture, at, order=1, cval=fill))


def _displacement(fixed: F64, moving: F64, **options: Any) -> F64:
    """The shift (y, x) that scikit-image's phase correlation finds."""
    return np.asarray(phase_cross_correlation(fixed, moving, **options)[0])


def resample(moving: NDArray[Any], matrix: F64, shape: tuple[int, ...], fill: float = 0.0) -> NDArray[Any]:
    """`moving` (h, w) or (h, w, c) in the frame of a fixed picture of `shape`, linear; `fill` outside."""
    y, x = np.indices(shape, dtype=np.float64)
    at = np.stack([matrix[k, 0] * y + matrix[k, 1] * x + matrix[k, 2] for k in range(2)])
    if moving.ndim == 2:
        return _linear(moving, at, fill)
    planes = [_linear(moving[..., c], at, fill) for c in range(moving.shape[2])]
    return np.stack(planes, axis=2)


def _rotation(angle: float, fixed: tuple[int, int], moving: tuple[int, int]) -> F64:
    """Rotation about the centres of the two pictures, radians."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    centre_f, centre_m = (np.array([(n - 1) / 2 for n in shape]) for shape in (fixed, moving))
    return np.column_stack([turn, centre_m - turn @ centre_f])


def _scaled(matrix: F64, factor: float) -> F64:
    """A matrix between two pictures as one between the same pictures enlarged by `factor` (pixel centres kept)."""
    result = matrix.copy()
    result[:, 2] = factor * matrix[:, 2] + (factor - 1) / 2 * (1 - matrix[:, :2].sum(axis=1))
    return result


def _shrunk(picture: F64, factor: float) -> F64:
    """`picture` smoothed and resampled to `factor` of its size, at most 1."""
    if factor >= 1:
        return picture
    smooth = gaussian_filter(picture, 0.45 / factor)
    return np.asarray(zoom(smooth, factor, order=1, mode="nearest", grid_mode=True))


def _search(fixed: F64, moving: F64) -> list[F64]:
    """The best rigid starts over all angles, best first, for small pictures."""
    # Every angle, with the best shift at each by phase correlation; masks keep the empty corners out of it.
    side = max(*fixed.shape, *moving.shape)
    found = []
    inside = np.ones_like(moving)
    for degrees in range(-180, 180, SEARCH_STEP_DEG):
        turn = _rotation(np.deg2rad(degrees), (side, side), moving.shape)
        turned = resample(moving, turn, (side, side))
        seen = resample(inside, turn, (side, side)) > 0.99
        padded = np.zeros((side, side))
        padded[: fixed.shape[0], : fixed.shape[1]] = fixed
        known = np.zeros((side, side), bool)
        known[: fixed.shape[0], : fixed.shape[1]] = True
        shift = _displacement(padded, turned, reference_mask=known, moving_mask=seen, overlap_ratio=0.4)
        start = turn.copy()
        start[:, 2] -= turn[:, :2] @ np.asarray(shift)
        found.append((_correlation(fixed, moving, start), start))

    # The best few, no two of nearly the same angle: they would end in the same place.
    found.sort(key=lambda item: -item[0])
    chosen: list[F64] = []
    for _, start in found:
        if all(np.abs(start[:, :2] - other[:, :2]).max() > 0.15 for other in chosen):
            chosen.append(start)
        if len(chosen) == STARTS:
            break
    return chosen


def _correlation(fixed: F64, moving: F64, matrix: F64) -> float:
    """Pearson over the overlap; -1 where less than a fifth of the smaller picture overlaps."""
    warped = resample(moving, matrix, fixed.shape)
    seen = resample(np.ones_like(moving), matrix, fixed.shape) > 0.99
    if np.count_nonzero(seen) < 0.2 * min(fixed.size, moving.size):
        return -1.0
    a, b = fixed[seen] - fixed[seen].mean(), warped[seen] - warped[seen].mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else -1.0


def _refine(fixed: F64, moving: F64, matrix: F64, *, rigid: bool, step: int, iterations: int = 50) -> F64:
    """`matrix` after maximising the enhanced correlation coefficient on every `step`-th pixel.

    rigid keeps lengths and angles. Comes back unchanged where the pictures slip off each other.
    """
    # Points of the fixed picture, and how bright the moving one gets along each axis.
    y, x = (g.ravel().astype(np.float64) for g in np.mgrid[: fixed.shape[0] : step, : fixed.shape[1] : step])
    target = fixed[::step, ::step].ravel()
    slope_y, slope_x = np.gradient(moving)
    corners = np.array([[0, 0, 1], [fixed.shape[0], 0, 1], [0, fixed.shape[1], 1]], dtype=np.float64)

    # Steps until no corner of the picture moves by more than a fiftieth of a pixel.
    m = matrix.copy()
    for _ in range(iterations):
        wy, wx = (m[k, 0] * y + m[k, 1] * x + m[k, 2] for k in range(2))
        seen = (wy >= 0) & (wy <= moving.shape[0] - 1) & (wx >= 0) & (wx <= moving.shape[1] - 1)
        if np.count_nonzero(seen) < 0.1 * target.size:
            return matrix
        at = np.stack([wy[seen], wx[seen]])
        image, gy, gx = (_linear(p, at) for p in (moving, slope_y, slope_x))
        delta = _ecc_step(target[seen], image, _slopes(m, y[seen], x[seen], gy, gx, rigid=rigid))
        old = m
        if rigid:
            angle = np.arctan2(m[1, 0], m[0, 0]) + delta[0]
            m = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0]])
            m[:, 2] = old[:, 2] + delta[1:]
        else:
            m = m + delta.reshape(2, 3)
        if np.abs((m - old) @ corners.T).max() < 0.02:
            break
    return m


def _slopes(m: F64, y: F64, x: F64, gy: F64, gx: F64, *, rigid: bool) -> F64:
    """Derivatives of the warped picture by angle and shift, or by the six numbers of an affine map; (n, 3) or (n, 6)."""
    if not rigid:
        return np.stack([gy * y, gy * x, gy, gx * y, gx * x, gx], axis=1)
    c, s = m[0, 0], m[1, 0]
    return np.stack([gy * (-s * y - c * x) + gx * (c * y - s * x), gy, gx], axis=1)


def _ecc_step(target: F64, image: F64, slopes: F64) -> F64:
    """The step of Evangelidis and Psarakis (2008), eq. 18 to 20, for pictures (n,) and derivatives (n, p)."""
    t, i = target - target.mean(), image - image.mean()
    # Derivatives by angle grow with the distance from the corner: scaled, the equations stay well conditioned.
    scale = np.abs(slopes).max(axis=0) + 1e-12
    basis = slopes / scale
    normal = basis.T @ basis + 1e-9 * len(basis) * np.eye(basis.shape[1])
    by_i, by_t = basis.T @ i, basis.T @ t
    onto_i = np.linalg.solve(normal, by_i)
    below = float(t @ i - by_t @ onto_i)
    if below > 0:
        gain = float(i @ i - by_i @ onto_i) / below
    else:
        gain = float(np.sqrt((i @ i) / (t @ t + 1e-12)))
    return np.asarray(np.linalg.solve(normal, gain * by_t - by_i) / scale)


def _is_plausible(matrix: F64) -> bool:
    values = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return bool(np.linalg.det(matrix[:, :2]) > 0 and _SCALES[0] < values.min() and values.max() < _SCALES[1])


def _local_shifts(fixed: F64, warped: F64, seen: NDArray[np.bool_], window: int = 96) -> F64:
    """What is left over: length of the displacement of each window in which both pictures have structure, px."""
    found = []
    for y in range(0, fixed.shape[0] - window + 1, window // 2):
        for x in range(0, fixed.shape[1] - window + 1, window // 2):
            here = (slice(y, y + window), slice(x, x + window))
            a, b = fixed[here], warped[here]
            if not seen[here].all() or a.std() < 0.5 * fixed.std() or b.std() < 0.5 * warped.std():
                continue
            taper = np.outer(np.hanning(window), np.hanning(window))
            shift = _displacement((a - a.mean()) * taper, (b - b.mean()) * taper, upsample_factor=4, normalization=None)
            found.append(float(np.hypot(*shift)))
    return np.array(found)


def register(fixed: NDArray[np.uint8], moving: NDArray[np.uint8]) -> Registration:
    """How `moving` lies under `fixed`, two pictures uint8 (h, w, 3) of sections at the same um per px.

    Compared is their gray optical density; otherwise as `register_maps`.
    """
    return register_maps(gray_density(fixed), gray_density(moving))


def register_maps(fixed: F64, moving: F64, *, least: float = LEAST_CORRELATION) -> Registration:
    """How `moving` lies under `fixed`: amounts of something that both sections hold, float (h, w), at the same um per px.

    least : correlation below which the two are taken to be of different tissue.

    Any rotation and shift is found where at least two fifths overlap; not mirrored sections. The affine map is kept
    within 0.7 to 1.4 in every direction, else the rigid one stands. Maps of about 900 px a side (8 um per px of
    most sections) are what this is made for; larger ones are worked on at that size.

    Raises ValueError when one of the maps has no structure, or nothing that fits is found.
    """
    # The maps at working size, and coarser ones to begin with.
    if min(fixed.std(), moving.std()) < 1e-3:
        raise ValueError("one of the pictures has no structure to register")
    work = min(1.0, WORK_PX / max(*fixed.shape, *moving.shape))
    f, m = (_shrunk(d, work) for d in (fixed, moving))
    small = min(1.0, SEARCH_PX / max(*f.shape, *m.shape))
    tiny = [gaussian_filter(_shrunk(p, small), 1.5) for p in (f, m)]
    levels = [(s, gaussian_filter(f, s), gaussian_filter(m, s)) for s in SMOOTHING_PX]

    # Rigid first: of the starts over all angles the one that correlates best, then sharper level by level.
    best, best_value = None, -1.0
    sigma, coarse_f, coarse_m = levels[0]
    for start in _search(*tiny):
        rigid = _refine(coarse_f, coarse_m, _scaled(start, 1 / small), rigid=True, step=int(sigma / 2))
        value = _correlation(coarse_f, coarse_m, rigid)
        if value > best_value:
            best, best_value = rigid, value
    if best is None:
        raise ValueError("no rotation and shift was found at which the pictures agree")
    for sigma, a, b in levels[1:]:
        best = _refine(a, b, best, rigid=True, step=max(1, int(sigma / 2)))

    # Then affine, which stands only where it is plausible and fits no worse.
    affine = best
    for sigma, a, b in levels:
        affine = _refine(a, b, affine, rigid=False, step=max(1, int(sigma / 2)))
    _, fine_f, fine_m = levels[-1]
    value_rigid, value = _correlation(fine_f, fine_m, best), _correlation(fine_f, fine_m, affine)
    if not _is_plausible(affine) or value < value_rigid:
        affine, value = best, value_rigid
    if value < least:
        raise ValueError(f"the pictures agree nowhere: the best correlation is {value:.2f}")

    # What is left over, and everything in the frame of the pictures as given.
    warped = np.asarray(resample(fine_m, affine, (f.shape[0], f.shape[1])))
    seen = np.asarray(resample(np.ones_like(m), affine, (f.shape[0], f.shape[1]))) > 0.99
    return Registration(
        matrix=_scaled(affine, 1 / work),
        rigid=_scaled(best, 1 / work),
        correlation=value,
        correlation_rigid=value_rigid,
        residual_px=_local_shifts(fine_f, warped, seen) / work,
    )
