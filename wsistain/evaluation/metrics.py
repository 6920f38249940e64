"""What each number of the tables is: its group, which way is better, and the convention it is computed in."""

from dataclasses import dataclass
from typing import Literal

Group = Literal["fidelity", "distribution", "pathology", "truth"]


@dataclass(frozen=True)
class Metric:
    """One column of the tables.

    label      : heading.
    better     : "higher", "lower" or "zero" (closest to 0); "none" for what only describes.
    convention : picture range, colour, size, library form, source.
    decimals   : digits after the point in tables.
    scale      : what tables print is the value times this (100: percent); files hold the value.
    """

    label: str
    group: Group
    better: Literal["higher", "lower", "zero", "none"]
    convention: str
    decimals: int = 3
    scale: float = 1.0


_PAIR = "virtual against real IHC, uint8 RGB, 0..255, mean of pictures"

METRICS: dict[str, Metric] = {
    "ssim": Metric(
        "SSIM",
        "fidelity",
        "higher",
        f"{_PAIR}; uniform window 7, sample covariance, mean of channels (scikit-image defaults)",
    ),
    "ssim_float": Metric(
        "SSIM (range 2)",
        "fidelity",
        "higher",
        f"{_PAIR}; as SSIM of pictures as floats in 0..1 with range 2, scikit-image's for floats where none is given: higher by 0.1 to 0.2, likely what tables with 0.3 and more on weak pairs print",
    ),
    "ssim_gauss": Metric(
        "SSIM (Gauss)",
        "fidelity",
        "higher",
        f"{_PAIR}; Gaussian window 11, sigma 1.5, population covariance (pytorch-msssim; torchmetrics averages a padded border too)",
    ),
    "psnr": Metric(
        "PSNR",
        "fidelity",
        "higher",
        f"{_PAIR}; dB over all channels; pictures equal to the last bit are left out and counted",
    ),
    "css": Metric(
        "CSS",
        "fidelity",
        "higher",
        f"{_PAIR}; contrast-structure part, uniform window 5, valid region (second output of sewar's ssim, ws=5; ATST-Net)",
    ),
    "vif": Metric(
        "VIF",
        "fidelity",
        "higher",
        f"{_PAIR}; pixel domain, real as reference, 4 scales, noise variance 2, mean of channels (sewar vifp)",
    ),
    "hist_corr": Metric(
        "Hist", "fidelity", "higher", f"{_PAIR}; Pearson of 256-bin histograms, mean of R, G, B (OpenCV correlation)"
    ),
    "lpips_alex": Metric(
        "LPIPS", "fidelity", "lower", "AlexNet, v0.1, pictures in [-1, 1], full size, mean of pictures"
    ),
    "stlpips_alex": Metric(
        "ST-LPIPS",
        "fidelity",
        "lower",
        "shift-tolerant LPIPS (AlexNet with blurred strides; stlpips-pytorch 0.0.2), pictures in [-1, 1], full size, mean of pictures",
    ),
    "phv_1": Metric(
        "PHV 1",
        "fidelity",
        "lower",
        "ResNet-50 (ImageNet V1) layer1, share of channels whose spatial means differ by > 0.01, ASP's normalisation ((x + 1) / 2 on [0, 1]), full size",
    ),
    "phv_2": Metric("PHV 2", "fidelity", "lower", "as PHV 1, layer2"),
    "phv_3": Metric("PHV 3", "fidelity", "lower", "as PHV 1, layer3"),
    "phv_4": Metric("PHV 4", "fidelity", "lower", "as PHV 1, layer4"),
    "phv_avg": Metric("PHV avg", "fidelity", "lower", "mean of PHV 1 to 4"),
    "fid": Metric(
        "FID",
        "distribution",
        "lower",
        "pytorch-fid's Inception weights, 2048 pooled features, [0, 1] resized to 299 bilinear, covariances with n - 1; biased upward for few pictures, compare only at equal n",
        2,
    ),
    "kid_asp": Metric(
        "KID x1000 (ASP)",
        "distribution",
        "lower",
        "torchvision's ImageNet Inception-v3, whole batches of 50, cubic kernel, unbiased, 100 subsets of at most 100",
        2,
    ),
    "kid": Metric(
        "KID x1000",
        "distribution",
        "lower",
        "pytorch-fid's Inception weights, cubic kernel, unbiased, 100 subsets of at most 1000 (torch-fidelity)",
        2,
    ),
    "iod": Metric(
        "IoD",
        "pathology",
        "lower",
        "|sum virtual - sum real| x 1e-7 of integrated DAB density over the whole set; Fiji Colour Deconvolution H DAB, 8 bit, uncalibrated OD, no threshold (USIGAN eq. 20)",
    ),
    "iod_signed": Metric(
        "IoD signed", "pathology", "zero", "as IoD without the absolute value: below 0 is understained"
    ),
    "iod_cells": Metric(
        "IOD cells",
        "pathology",
        "zero",
        "(sum virtual - sum real) x 1e-7 of the same density inside segmented cells of each picture (MIU-Diff): nuclei by Otsu's cut of the blurred gray, at least 10 um2, and 2 um round them; the paper does not name its segmenter",
    ),
    "r_c": Metric(
        "R_c %",
        "pathology",
        "higher",
        "Pearson of 8-bit gray (BT.601) of virtual IHC and its H&E over pixels, mean of pictures; in percent; of the real IHC it is USIGAN's paired rate (Table I)",
        2,
        100.0,
    ),
    "r_p": Metric(
        "R_p %",
        "pathology",
        "higher",
        "Pearson over pictures of integrated density, virtual and real; in percent",
        2,
        100.0,
    ),
    "r_avg": Metric("R_avg %", "pathology", "higher", "mean of R_c and R_p; in percent", 2, 100.0),
    "area_r": Metric(
        "Area r",
        "pathology",
        "higher",
        "Pearson over pictures of positive area (stain density at least the marker's 1+ cut-off), virtual and real",
    ),
    "positive_fraction": Metric(
        "Positive",
        "pathology",
        "none",
        "share of pixels whose stain density is at least the marker's 1+ cut-off, virtual",
    ),
    "positive_error": Metric(
        "Positive error", "pathology", "lower", "mean absolute difference of positive fraction, virtual and real"
    ),
    "h_score": Metric("H-score", "pathology", "none", "per pixel, at the marker's cut-offs, virtual", 1),
    "h_score_error": Metric(
        "H-score error", "pathology", "lower", "mean absolute difference of the pixel H-score, virtual and real", 1
    ),
    "dice": Metric(
        "Dice",
        "pathology",
        "higher",
        "masks (4 x 4 px means of stain density at least the marker's 1+ cut-off), virtual and real, mean of pictures",
    ),
    "iou": Metric("IoU", "pathology", "higher", "as Dice"),
    "hausdorff": Metric(
        "Hausdorff px",
        "pathology",
        "lower",
        "masks as Dice, picture px; pictures in which one mask is empty are left out",
        1,
    ),
    "sensitivity": Metric(
        "Sensitivity", "pathology", "higher", "masks as Dice; pictures without real stain are left out"
    ),
    "specificity": Metric("Specificity", "pathology", "higher", "masks as Dice"),
    "cell_auc": Metric(
        "Cell AUC",
        "truth",
        "higher",
        "positive against negative tumour cells of section A, by mean stain density in a disc of 1.5 um "
        "(nuclear) or a ring of 3.5 to 6.5 um (membranous; cytoplasmic 3.0 to 5.5) at their place; all pictures pooled",
    ),
    "cell_auc_all": Metric("Cell AUC (all types)", "truth", "higher", "as Cell AUC over cells of every type"),
    "cell_precision": Metric(
        "Cell precision", "truth", "higher", "cells called positive at the marker's cut-off that are"
    ),
    "cell_recall": Metric("Cell recall", "truth", "higher", "positive cells that are called"),
    "cell_h_error": Metric(
        "Cell H-score error", "truth", "lower", "mean over pictures of |H-score of cells, virtual - aligned truth|", 1
    ),
    "information_od": Metric(
        "Information (picture)",
        "truth",
        "higher",
        "bits a tumour cell that its stain tells over the share of positive cells: a rising step function of the density, fitted on "
        "other slides (isotonic, 8 folds), turns it into a probability",
    ),
    "information": Metric(
        "Information (probability)",
        "truth",
        "higher",
        "bits a tumour cell that the system's own probability tells over the share of positive cells, kept 1e-4 from 0 and 1",
    ),
    "calibration_error": Metric(
        "Calibration error",
        "truth",
        "lower",
        "expected calibration error of the system's probability at tumour cells, ten bins of equal width",
    ),
    "error_at_100": Metric(
        "Error, all cells",
        "truth",
        "lower",
        "share of tumour cells called wrongly (probability from 0.5 on; else the marker's cut-off)",
    ),
    "error_at_80": Metric(
        "Error, 80 % kept", "truth", "lower", "the same among the 80 % of cells that are trusted most"
    ),
    "error_at_50": Metric("Error, 50 % kept", "truth", "lower", "the same among the half that is trusted most"),
    "area_r_truth": Metric(
        "Area r (truth)", "truth", "higher", "Pearson over pictures of positive area, virtual and aligned truth"
    ),
    "dice_truth": Metric("Dice (truth)", "truth", "higher", "masks as Dice, virtual and aligned truth"),
    "ssim_truth": Metric("SSIM (truth)", "truth", "higher", "as SSIM, virtual and aligned truth"),
}

PAPER_COLUMNS: tuple[str, ...] = (
    "ssim",
    "ssim_float",
    "psnr",
    "css",
    "lpips_alex",
    "vif",
    "hist_corr",
    "phv_1",
    "phv_2",
    "phv_3",
    "phv_4",
    "phv_avg",
    "fid",
    "kid_asp",
    "iod",
    "iod_cells",
    "r_c",
    "r_p",
    "r_avg",
    "area_r",
)
"""Columns of the published tables, in the order most of them use."""

LONG_NAMES = {
    "identity": "Identity (H&E)",
    "mean_colour": "Mean-colour transfer",
    "real": "Real IHC (against the H&E)",
}
