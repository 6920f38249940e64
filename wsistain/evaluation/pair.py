"""Everything that is computed from the pixels of one pair: what a worker process does. Numpy only, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsistain.evaluation.fidelity import (
    css,
    gray_correlation,
    histogram_correlation,
    psnr,
    ssim,
    ssim_both_ranges,
    ssim_gauss,
    vif_of_many,
)
from wsistain.evaluation.pathology import MASK_BLOCK, cell_od, cell_regions, stain_accuracy, stain_mask
from wsistain.markers import Compartment, Marker
from wsistain.optics.scoring import count_stain, integrated_density, stain_od

RGB = NDArray[np.uint8]

USUAL_MPP = 0.5
"""um per px by which cells are found where nobody says it (baselines alone)."""


@dataclass(frozen=True)
class CellPlaces:
    """Where the cells of one picture are: y, x float (n,) px; compartment; um per px."""

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    compartment: Compartment
    mpp: float


@dataclass
class PairMeasures:
    """Numbers of one pair.

    systems  : system to metric to value; "real" is the real IHC itself, held against the H&E and, where there is one,
               the aligned truth.
    real     : "int_den", "int_den_cells", "positive_fraction", "h_score" of the real IHC; with a truth also those with
               "_truth".
    cell_od  : system (and "truth") to mean optical density at each cell, where cells are known.
    """

    systems: dict[str, dict[str, float]]
    real: dict[str, float]
    cell_od: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def measure_pair(
    he: RGB,
    real: RGB,
    virtual: Mapping[str, RGB],
    marker: Marker,
    truth: RGB | None = None,
    cells: CellPlaces | None = None,
    mpp: float | None = None,
) -> PairMeasures:
    """All per-picture metrics of `virtual` pictures of one patch against its real IHC of `marker`.

    he, real, truth : uint8 (h, w, 3) of one size; virtual: system to uint8 (h, w, 3).
    mpp             : um per px of them, by which cells are found.
    """
    # The real IHC, which is read once for all systems.
    names = list(virtual)
    dye, cutoff = marker.chromogen, marker.positive_od
    real_od = stain_od(real, dye)
    real_mask, real_counts = stain_mask(real_od, cutoff), count_stain(real_od, marker.cutoffs)
    result = PairMeasures(
        {},
        {
            "int_den": integrated_density(real, dye),
            "int_den_cells": _in_cells(real, marker, mpp),
            "positive_fraction": real_counts.positive_fraction,
            "h_score": real_counts.h_score,
        },
    )

    # The aligned truth, which only phantom patches have.
    truth_mask = None
    if truth is not None:
        truth_od = stain_od(truth, dye)
        truth_mask, truth_counts = stain_mask(truth_od, cutoff), count_stain(truth_od, marker.cutoffs)
        result.real["positive_fraction_truth"] = truth_counts.positive_fraction
        result.real["h_score_truth"] = truth_counts.h_score
        if cells is not None:
            result.cell_od["truth"] = _at_cells(truth_od, cells)

    # The real IHC as a row: how far a neighbouring section resembles the H&E (USIGAN's paired rate) and the truth.
    result.systems["real"] = {
        "r_c": gray_correlation(real, he),
        "positive_fraction": real_counts.positive_fraction,
        "h_score": real_counts.h_score,
    }
    if truth is not None and truth_mask is not None:
        result.systems["real"] |= {
            "ssim_truth": ssim(real, truth),
            "dice_truth": stain_accuracy(real_mask, truth_mask)["dice"],
        }
    if cells is not None:
        result.cell_od["real"] = _at_cells(real_od, cells)

    # Each system against them. VIF goes through all of them at once: the sums of the real picture are shared.
    vifs = vif_of_many(real, [virtual[name] for name in names])
    for name, vif in zip(names, vifs, strict=True):
        picture = virtual[name]
        od = stain_od(picture, dye)
        mask, counts = stain_mask(od, cutoff), count_stain(od, marker.cutoffs)
        own_range, float_range = ssim_both_ranges(picture, real)
        values = {
            "ssim": own_range,
            "ssim_float": float_range,
            "ssim_gauss": ssim_gauss(picture, real),
            "psnr": psnr(picture, real),
            "css": css(picture, real)[1],
            "vif": vif,
            "hist_corr": histogram_correlation(picture, real),
            "r_c": gray_correlation(picture, he),
            "int_den": integrated_density(picture, dye),
            "int_den_cells": _in_cells(picture, marker, mpp),
            "positive_fraction": counts.positive_fraction,
            "h_score": counts.h_score,
            **stain_accuracy(mask, real_mask, px=MASK_BLOCK),
        }
        values["positive_error"] = abs(values["positive_fraction"] - result.real["positive_fraction"])
        values["h_score_error"] = abs(values["h_score"] - result.real["h_score"])
        if truth is not None and truth_mask is not None:
            values["ssim_truth"] = ssim(picture, truth)
            values["dice_truth"] = stain_accuracy(mask, truth_mask)["dice"]
        if cells is not None:
            result.cell_od[name] = _at_cells(od, cells)
        result.systems[name] = values
    return result


def _in_cells(picture: RGB, marker: Marker, mpp: float | None) -> float:
    return integrated_density(picture, marker.chromogen, cell_regions(picture, mpp or USUAL_MPP))


def _at_cells(od: NDArray[np.float32], cells: CellPlaces) -> NDArray[np.float64]:
    return cell_od(od, cells.y, cells.x, compartment=cells.compartment, mpp=cells.mpp)
