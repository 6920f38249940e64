"""Light and stain: optical density, stain separation and recombination, DAB maps, focal optical density.

Everything here takes transmitted light as float (b, 3, h, w) in [0, 1], 1 = clear glass, and is differentiable except
at its clamps. `to_unit` and `from_unit` are the one place where the [-1, 1] of networks is converted.

Sources: Ruifrok and Johnston 2001 (separation; matrix as in scikit-image `rgb2hed`), USIGAN eq. 10-13 (focal optical
density; after PSPStain).
"""

import math

import torch
from torch import Tensor

from wsistain.markers import HED
from wsistain.numerics import in_float32

GRAY_SKIMAGE = (0.2125, 0.7154, 0.0721)
"""Luma weights of `skimage.color.rgb2gray`, which USIGAN uses."""

_FLOOR = 1e-6
_LOG_FLOOR = math.log(_FLOOR)
FOCAL_POWER = 1.8
"""USIGAN's alpha (eq. 13); above 1, so that dark DAB counts for more than its share."""


def to_unit(x: Tensor) -> Tensor:
    """Images of the networks, [-1, 1], as light in [0, 1]."""
    return (x + 1) / 2


def from_unit(light: Tensor) -> Tensor:
    """Light in [0, 1] as images of the networks, [-1, 1]."""
    return light * 2 - 1


@in_float32
def optical_density(rgb: Tensor, *, floor: float = 1 / 255) -> Tensor:
    """Optical density -log10(light) of each colour channel (Beer-Lambert).

    rgb   : float (b, 3, h, w), light in [0, 1].
    floor : smallest light counted; keeps the density finite on black pixels (default: one 8-bit step).

    Returns float (b, 3, h, w), 0 on glass, at most -log10(floor). The gradient is zero below `floor`. The range of
    `rgb` is not checked.

    >>> round(optical_density(torch.full((1, 3, 1, 1), 0.1)).mean().item(), 3)
    1.0
    """
    return -torch.log10(rgb.clamp_min(floor))


def _mix(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("bchw,cs->bshw", x, matrix.to(x))


def stain_matrix(rows: tuple[tuple[float, float, float], ...] = HED) -> Tensor:
    """A stain matrix as float64 (3 stains, 3 colours)."""
    return torch.tensor(rows, dtype=torch.float64)


@in_float32
def separate_stains(rgb: Tensor, rows: tuple[tuple[float, float, float], ...] = HED) -> Tensor:
    """Amounts of the stains in `rows`, never negative: max(ln(max(rgb, 1e-6)) / ln(1e-6) . M^-1, 0).

    rgb : float (b, 3, h, w), light in [0, 1]; light below 1e-6 counts as 1e-6.

    Returns float (b, 3, h, w), one channel a stain; 0 on glass. Equal to scikit-image's `rgb2hed` for HED.
    """
    absorbed = torch.log(rgb.clamp_min(_FLOOR)) / _LOG_FLOOR
    return _mix(absorbed, torch.linalg.inv(stain_matrix(rows))).clamp_min(0)


@in_float32
def combine_stains(stains: Tensor, rows: tuple[tuple[float, float, float], ...] = HED) -> Tensor:
    """Light that passes the given amounts of stain: clamp(exp(ln(1e-6) . s . M), 0, 1); as `hed2rgb`."""
    return torch.exp(_mix(stains, stain_matrix(rows)) * _LOG_FLOOR).clamp(0, 1)


@in_float32
def gray(rgb: Tensor, weights: tuple[float, float, float] = GRAY_SKIMAGE) -> Tensor:
    """Weighted sum of the colours: float (b, h, w)."""
    return torch.einsum("bchw,c->bhw", rgb, torch.tensor(weights, dtype=rgb.dtype, device=rgb.device))


@in_float32
def dab_light(rgb: Tensor) -> Tensor:
    """What the picture would look like with its DAB alone: float (b, 3, h, w) in [0, 1]."""
    stains = separate_stains(rgb)
    keep = torch.tensor([0.0, 0.0, 1.0], dtype=stains.dtype, device=stains.device)[None, :, None, None]
    return combine_stains(stains * keep)


@in_float32
def focal_density(rgb: Tensor, alpha: float = FOCAL_POWER) -> Tensor:
    """USIGAN's focal optical density of DAB: max(log10(1 / (g + c)), 0) ** alpha, g the gray light of the DAB alone.

    c = 10 ** -(e ** (1 / alpha)), 0.0180755 at 1.8, bounds it by e (the code's; eq. 13 prints no offset). Returns float
    (b, h, w); 0 on glass, with alpha 1.8 2.26 on black.
    """
    offset = 10 ** -(math.e ** (1 / alpha))
    return torch.log10(1 / (gray(dab_light(rgb)) + offset)).clamp_min(0) ** alpha
