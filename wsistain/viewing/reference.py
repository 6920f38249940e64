"""A real IHC of the same block laid over a virtual stain: registered at low power, as `wsistain evaluate` does it."""

import numpy as np

from wsistain.errors import DataError
from wsistain.evaluation.registration import Registration, register
from wsistain.slide.base import RGB, Slide
from wsistain.slide.resample import choose_sampling, read_window
from wsistain.slide.tissue import find_tissue
from wsistain.viewing.frame import Frame
from wsistain.viewing.maps import Affine

REGISTRATION_PX = 900


def lay_over(stain: Slide, frame: Frame, real: Slide) -> tuple[Affine, float]:
    """Where a point of the common frame lies on `real`, and how well the two agree (correlation, 0..1).

    frame : where `stain` lies. DataError where they cannot be registered.
    """
    longest = max(max(s.info.size_l0) * s.info.mpp for s in (stain, real))
    mpp = max(longest / REGISTRATION_PX, stain.info.mpp, real.info.mpp)
    (fixed, mpp_v), (moving, mpp_r) = (_tissue_alone(slide, mpp) for slide in (stain, real))
    try:
        found = register(fixed, moving)
    except ValueError as error:
        raise DataError(f"{real.info.path} cannot be registered to {stain.info.path}: {error}") from None
    return affine_um(found, frame, mpp_v, mpp_r), found.correlation


def affine_um(found: Registration, frame: Frame, mpp_fixed: float, mpp_moving: float) -> Affine:
    """A map between two pictures' px as one from the common frame to um of the moving slide; pixel centres are kept."""
    turn, shift = found.matrix[:, :2], found.matrix[:, 2]
    matrix = turn * (mpp_moving / mpp_fixed)
    corner = np.array([frame.y_um, frame.x_um])
    return Affine(matrix, mpp_moving * (shift + 0.5 - turn @ np.array([0.5, 0.5])) - matrix @ corner)


def _tissue_alone(slide: Slide, mpp: float) -> tuple[RGB, float]:
    """The slide at about `mpp`, white where there is no tissue."""
    sampling = choose_sampling(slide.info, mpp)
    rgb = read_window(slide, sampling, 0, 0, *sampling.shape).copy()
    tissue = find_tissue(slide)
    if tissue.mask.any():
        rgb[~tissue.window(0, 0, *sampling.shape, px_l0=sampling.mpp / slide.info.mpp)] = 255
    return rgb, sampling.mpp
