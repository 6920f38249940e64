"""How far phantom pictures are from real ones: dyes, colours, nuclei, spatial spectrum.

Everything is measured from the pixels in the same way on both sides; no cell table is used.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, gaussian_filter, label
from skimage.filters import threshold_otsu

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """Numbers of one picture.

    hematoxylin_*, second_* : stain vectors by Macenko's method (unit OD by channel); second: eosin, or DAB on IHC.
    angle_deg              : angle between the two dyes.
    h_p99, second_p99      : 99th percentile of the amount of each dye (OD).
    mean_*, sd_*           : of the 8-bit channels over tissue.
    tissue                 : share of pixels that are not glass.
    nuclei_mm2             : nuclei per mm2 of tissue (blobs of haematoxylin; touching ones count once).
    nucleus_um             : median equivalent diameter of those blobs, um.
    slope                  : exponent of the power spectrum of luminance between 0.02 and 0.5 cycles per um.

    nuclei_mm2, nucleus_um and slope are NaN where the um per px of the picture is not known.
    """

    hematoxylin_r: float
    hematoxylin_g: float
    hematoxylin_b: float
    second_r: float
    second_g: float
    second_b: float
    angle_deg: float
    h_p99: float
    second_p99: float
    mean_r: float
    mean_g: float
    mean_b: float
    sd_r: float
    sd_g: float
    sd_b: float
    tissue: float
    nuclei_mm2: float
    nucleus_um: float
    slope: float


def macenko(rgb: RGB, *, beta: float = 0.15, alpha: float = 1.0, light: float = 240.0) -> NDArray[np.float64]:
    """(2, 3) unit vectors of haematoxylin and of eosin or DAB, OD by channel.

    rgb: uint8 (h, w, 3). beta: least OD of a pixel that counts; alpha: percentile of the extreme angles; light: of
    clear glass. The two extreme directions in the plane of the two main components; haematoxylin is the one
    with more red. Raises ValueError where fewer than 100 pixels are stained.

    Source: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009.
    """
    od = -np.log10((rgb.reshape(-1, 3).astype(np.float64) + 1) / light)
    od = od[(od > beta * np.log10(math.e)).all(axis=1)]
    if len(od) < 100:
        raise ValueError(f"only {len(od)} stained pixels; wanted at least 100")
    _, plane = np.linalg.eigh(np.cov(od.T))
    plane = plane[:, [2, 1]] * np.where(plane[:, [2, 1]].sum(0) < 0, -1, 1)
    flat = od @ plane
    angle = np.arctan2(flat[:, 1], flat[:, 0])
    ends = np.percentile(angle, [alpha, 100 - alpha])
    vectors = np.stack([plane @ np.array([np.cos(a), np.sin(a)]) for a in ends])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors if vectors[0, 0] > vectors[1, 0] else vectors[::-1]


def radial_power(
    gray: NDArray[np.float64], mpp: float, low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(frequency, power per sample) of the largest square of a picture, averaged over rings between `low` and `high` cycles per um."""
    size = min(gray.shape)
    square = gray[:size, :size] - gray[:size, :size].mean()
    window = np.hanning(size)
    power = np.abs(np.fft.rfft2(square * window[:, None] * window[None, :])) ** 2 / size**2
    f = np.hypot(np.fft.fftfreq(size, mpp)[:, None], np.fft.rfftfreq(size, mpp)[None, :])
    edges = np.geomspace(low, min(high, 0.45 / mpp), 16)
    which = np.digitize(f, edges)
    centre, mean = [], []
    for k in range(1, len(edges)):
        if (which == k).any():
            centre.append(np.sqrt(edges[k - 1] * edges[k]))
            mean.append(power[which == k].mean())
    return np.array(centre), np.array(mean)


def spectrum_slope(gray: NDArray[np.float64], mpp: float, low: float = 0.02, high: float = 0.5) -> float:
    """Exponent b of power ~ frequency^b, radially averaged, between `low` and `high` cycles per um."""
    centre, mean = radial_power(gray, mpp, low, high)
    return float(np.polyfit(np.log(centre), np.log(mean), 1)[0])


def fine_power(rgb: RGB, mpp: float) -> float:
    """log10 of the power of luminance between 0.1 and 0.5 cycles per um (lengths of 2 to 10 um), mean over rings."""
    return float(np.log10(radial_power(rgb @ np.array([0.299, 0.587, 0.114]), mpp, 0.1, 0.5)[1]).mean())


def find_nuclei(haematoxylin: NDArray[np.float64], mpp: float, tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Areas, um2, of the dark blobs of a haematoxylin map: Otsu's threshold on the smoothed map, opened, 8 um2 or more."""
    smooth = gaussian_filter(haematoxylin, 0.7 / mpp)
    mask = tissue & (smooth > threshold_otsu(smooth[tissue]))
    mask = binary_opening(mask, iterations=max(1, round(0.8 / mpp)))
    blobs, n = label(mask)
    areas = np.bincount(blobs.ravel(), minlength=n + 1)[1:] * mpp * mpp
    large: NDArray[np.float64] = areas[areas >= 8.0].astype(np.float64)
    return large


def look_at(rgb: RGB, mpp: float | None) -> Look:
    """The numbers of one H&E or IHC picture, uint8 (h, w, 3).

    mpp: um per px; None where nobody knows it, which leaves the numbers that need it NaN. Raises ValueError without
    stained tissue.
    """
    vectors = macenko(rgb)
    od = -np.log10((rgb.astype(np.float64) + 1) / 240.0)
    tissue = od.mean(axis=2) > 0.06
    amounts = np.linalg.lstsq(vectors.T, od.reshape(-1, 3).T, rcond=None)[0].reshape(2, *rgb.shape[:2])
    pixels = rgb[tissue].astype(np.float64)
    values = [*vectors[0], *vectors[1], np.degrees(np.arccos(np.clip(vectors[0] @ vectors[1], -1, 1)))]
    values += [np.percentile(amounts[0][tissue], 99), np.percentile(amounts[1][tissue], 99)]
    values += [*pixels.mean(0), *pixels.std(0), tissue.mean()]
    if mpp is None:
        values += [math.nan] * 3
    else:
        areas = find_nuclei(amounts[0], mpp, tissue)
        values += [len(areas) / (tissue.sum() * mpp * mpp * 1e-6)]
        values += [np.median(2 * np.sqrt(areas / np.pi)) if len(areas) else 0.0]
        values += [spectrum_slope(rgb @ np.array([0.299, 0.587, 0.114]), mpp)]
    return Look(*(float(v) for v in values))


def histogram_overlap(one: Iterable[RGB], other: Iterable[RGB], bins: int = 32) -> tuple[float, float, float]:
    """Shared area (0..1) of the pooled histograms of red, green and blue of two sets of pictures, glass left out."""

    def pooled(pictures: Iterable[RGB]) -> NDArray[np.float64]:
        total = np.zeros((3, bins))
        for rgb in pictures:
            pixels = rgb[rgb.mean(axis=2) < 225]
            for c in range(3):
                total[c] += np.histogram(pixels[:, c], bins=bins, range=(0, 256))[0] / max(len(pixels), 1)
        shares: NDArray[np.float64] = total / total.sum(axis=1, keepdims=True)
        return shares

    shared = np.minimum(pooled(one), pooled(other)).sum(axis=1)
    return float(shared[0]), float(shared[1]), float(shared[2])


def table_of(looks: dict[str, list[Look]]) -> str:
    """A Markdown table: a row a quantity, a column a set of pictures, each cell median (least to greatest).

    Pictures of unknown um per px are left out of the rows that need it; a "-" where none is left.
    """
    lines = ["| quantity | " + " | ".join(f"{name} (n={len(v)})" for name, v in looks.items()) + " |"]
    lines.append("| --- |" + " --- |" * len(looks))
    for f in fields(Look):
        cells = []
        for found in looks.values():
            values = np.array([asdict(v)[f.name] for v in found])
            values = values[~np.isnan(values)]
            shown = f"{np.median(values):.3g} ({values.min():.3g} to {values.max():.3g})" if len(values) else "-"
            cells.append(shown + (f", n={len(values)}" if 0 < len(values) < len(found) else ""))
        lines.append(f"| {f.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
