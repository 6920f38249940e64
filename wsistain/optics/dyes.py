"""The dyes of a laboratory, measured from its pictures: colours, ground, and which amounts mean what.

A stained section lets light = 10^-(sum of amount x colour + ground) pass (Beer-Lambert), so what a picture holds is two
amounts a pixel, in optical density: numbers with a unit, which can be added, averaged and compared. Numpy only.

Sources: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009 (colours); Otsu,
A threshold selection method from gray-level histograms, 1979 (nuclei against their ground).
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import uniform_filter

from wsistain.config import Strict
from wsistain.errors import DataError
from wsistain.markers import Compartment
from wsistain.optics.scoring import GRAY_709, stain_od

F64 = NDArray[np.float64]
RGB = NDArray[np.uint8]
Colour = Annotated[tuple[float, float, float], Field(description="optical density of red, green, blue")]

N_QUANTILES = 33
_PER_PATCH = 20_000
_WINDOW_UM = 32.0
RING_UM = {"membranous": 9.0, "cytoplasmic": 15.0}
"""Edge of the square whose nuclei tell that one is near enough for a membrane, or its cell's body, to lie here."""

CELL_UM: dict[Compartment, float] = {"nuclear": 5.0, "membranous": 13.0, "cytoplasmic": 11.0}
"""Edge of the square over which a cell's DAB is averaged: a nucleus without its rim, or twice the outer radius of the ring
that `read` and `evaluate` read."""

_OF_CELL: dict[Compartment, float] = {"nuclear": 0.9, "membranous": 1.0, "cytoplasmic": 1.0}
"""What the mean over that square is of what they read: they read a nucleus in its middle, and its rim is pale."""

CELL_WIDTH = 0.6
"""How wide the step between a negative and a positive cell is, in parts of the cut: a cell's mean is less noisy than a pixel."""

FILL_UM = 3.0
"""Holes in nuclei up to this size, vesicular chromatin, are filled."""

NUCLEUS_BLUR_UM = 3.0
"""Edge of the square over which haematoxylin is averaged where nuclei are told from their ground: chromatin is not even."""

_LEAST_STAINED = 100


class Dyes(Strict):
    """What a marker's pictures of one laboratory say of its dyes; amounts in optical density (length of the colour 1).

    haematoxylin, dab, ground       : unit colours and clear ground of the IHC.
    he_haematoxylin, he_eosin, he_ground : the same of the H&E.
    nucleus    : amount of haematoxylin of the IHC at which a nucleus begins (Otsu).
    dark       : amount of haematoxylin of the darkest places of a usual picture (97th percentile of means over 4 px).
    positive   : amount of DAB at which the marker counts as positive.
    cell       : mean amount of DAB over a cell's nucleus, ring or body at which the cell counts as positive; None in weights
                 of before it was measured, which stain but cannot be trained on.
    amplitude  : mean amount of DAB where it is positive: of the pixels of nuclei, or what the rings
                 of positive cells hold, over the area of those rings.
    share      : positive share of the compartment over all pictures, 0..1.
    match      : (amount in the H&E, amount in the IHC) of haematoxylin at equal quantiles, rising.
    """

    haematoxylin: Colour
    dab: Colour
    ground: Colour
    he_haematoxylin: Colour
    he_eosin: Colour
    he_ground: Colour
    nucleus: float = Field(gt=0)
    dark: float = Field(gt=0)
    positive: float = Field(gt=0)
    amplitude: float = Field(gt=0)
    share: float = Field(gt=0, lt=1)
    cell: float | None = Field(None, gt=0)
    match: tuple[tuple[float, float], ...] = Field(min_length=2)

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_weights(cls, values: Any) -> Any:
        """Weights of before `cell` hold how much of its ring a membrane fills, which staining does not need."""
        return {k: v for k, v in values.items() if k != "fill"} if isinstance(values, dict) else values


def macenko(od: F64, *, beta: float = 0.15 * math.log10(math.e), alpha: float = 1.0) -> F64:
    """Unit colours (2, 3) of the two dyes in optical densities (n, 3); haematoxylin, the one with more red, comes first.

    beta  : least density, in every colour, of a pixel that counts. alpha : percentile of the extreme angles.

    The two extreme directions in the plane of the two largest singular values. Raises ValueError where fewer than 100 pixels
    are stained.
    """
    od = od[(od > beta).all(axis=1)]
    if len(od) < _LEAST_STAINED:
        raise ValueError(f"only {len(od)} stained pixels; wanted at least {_LEAST_STAINED}")
    _, plane = np.linalg.eigh(od.T @ od)  # not centred: the plane of the dyes holds the origin
    plane = plane[:, [2, 1]] * np.where(plane[:, [2, 1]].sum(0) < 0, -1, 1)
    flat = od @ plane
    angle = np.arctan2(flat[:, 1], flat[:, 0])
    ends = np.percentile(angle, [alpha, 100 - alpha])
    vectors = np.stack([plane @ np.array([np.cos(a), np.sin(a)]) for a in ends])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors if vectors[0, 0] > vectors[1, 0] else vectors[::-1]


def density(rgb: RGB) -> F64:
    """Optical density (..., 3) of uint8 (..., 3); black counts as one grey level."""
    table = -np.log10(np.maximum(np.arange(256), 1) / 255)
    return np.asarray(table[rgb])


def otsu(values: F64) -> float:
    """The cut that parts `values` into two groups of least variance."""
    counts, edges = np.histogram(values, 256)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    mass = np.cumsum(counts * middle)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    best = np.flatnonzero(
        between >= np.nanmax(between) * (1 - 1e-9)
    )  # a gap between the groups is parted in its middle
    return float(middle[[best[0], best[-1]]].mean())


def gray_to_amount(od: float, colour: F64) -> float:
    """The amount of a dye whose gray light has the optical density `od`, as `optics.scoring` measures it."""
    amounts = np.linspace(0, 6, 6001)
    gray = -np.log10((10 ** (-amounts[:, None] * colour)) @ np.array(GRAY_709) / sum(GRAY_709))
    return float(np.interp(od, gray, amounts))


def ramp(amount: Any, cut: float, width: float = 1.0) -> Any:
    """How surely an amount passes `cut`: 0 below, 1 above, straight over `width` x cut, half at the cut itself."""
    return ((amount - cut) / (width * cut) + 0.5).clip(0, 1)


def measure_dyes(
    pictures: Iterable[tuple[RGB, RGB]], *, mpp: float, positive_od: float, cell_od: float, compartment: Compartment
) -> Dyes:
    """The dyes of `pictures`: pairs of H&E and IHC, uint8 (h, w, 3), that need not show the same place.

    mpp         : um per px.
    positive_od : gray DAB optical density (`stain_od`) of a positive pixel.
    cell_od     : the same of the mean over the nucleus or ring of a positive cell.
    compartment : where in the cell the marker lies.

    Raises DataError where the pictures hold too little stain to be measured.
    """
    # Always the same pixels: a resumed run measures again, and must find the options that it began with.
    rng = np.random.default_rng(0)
    kept = list(pictures)

    def pixels(side: int) -> F64:
        parts = []
        for pair in kept:
            flat = pair[side].reshape(-1, 3)
            parts.append(density(flat[rng.integers(0, len(flat), min(len(flat), _PER_PATCH))]))
        return np.concatenate(parts)

    # The colours of glass and dyes in both stains, and how much of each the pixels hold.
    try:
        (ground, colours), (he_ground, he_colours) = (_colours(pixels(side)) for side in (1, 0))
    except ValueError as error:
        raise DataError(f"the dyes of the training pictures cannot be measured: {error}") from None
    ihc = (pixels(1) - ground) @ np.linalg.pinv(colours)
    he = (pixels(0) - he_ground) @ np.linalg.pinv(he_colours)

    # Where a nucleus begins, where the marker is positive, and how dark it is there.
    # Amounts are counted from the ground up, densities from clear light.
    clear = gray_to_amount(_gray_dab(ground), colours[1])
    positive = max(gray_to_amount(positive_od, colours[1]) - clear, 1e-3)
    cell = max(gray_to_amount(cell_od, colours[1]) - clear, 1e-3) * _OF_CELL[compartment]
    h, d = np.maximum(ihc[:, 0], 0), np.maximum(ihc[:, 1], 0)
    nucleus = max(otsu(h[d < positive]), 1e-3)
    brown = d[d > positive]
    amplitude = float(np.mean(brown)) if len(brown) >= _LEAST_STAINED else 3 * positive
    pale = h[(d < 0.5 * positive) & (h > nucleus)]
    if len(pale):  # brown hides the blue below it: such pixels are given the blue of nuclei that are not brown
        h = np.where(d > positive, rng.choice(pale, len(h)), h)

    # Haematoxylin of the H&E against that of the IHC, quantile by quantile: a table, whose places have to rise.
    levels = np.linspace(0, 1, N_QUANTILES)
    steps = np.stack([np.quantile(np.maximum(v, 0), levels) for v in (he[:, 0], h)], axis=1)
    rising = np.maximum.accumulate(steps, axis=0)
    rising = rising[np.append(True, np.diff(rising[:, 0]) > 1e-6)]
    if len(rising) < 2:
        raise DataError("the H&E training pictures hold no haematoxylin that varies")

    # How dark nuclei are in whole pictures, and which share of them is positive, window by window.
    maps = [np.moveaxis((density(ihc) - ground) @ np.linalg.pinv(colours), -1, 0) for _, ihc in kept]
    dark = max(float(np.median([_dark(np.maximum(h, 0)) for h, _ in maps])), nucleus)
    shares, weights, held = _window_shares(maps, nucleus, positive, cell, mpp, compartment)
    if not len(shares):
        raise DataError("the training pictures hold no nuclei that could be measured")
    mean = float(np.average(shares, weights=weights))
    if compartment in RING_UM:
        amplitude = held or 3 * cell

    def colour(v: F64) -> tuple[float, float, float]:
        return tuple(round(float(x), 5) for x in v)  # type: ignore[return-value]

    return Dyes(
        haematoxylin=colour(colours[0]),
        dab=colour(colours[1]),
        ground=colour(ground),
        he_haematoxylin=colour(he_colours[0]),
        he_eosin=colour(he_colours[1]),
        he_ground=colour(he_ground),
        nucleus=round(nucleus, 5),
        dark=round(dark, 5),
        positive=round(positive, 5),
        cell=round(cell, 5),
        amplitude=round(amplitude, 5),
        share=round(min(max(mean, 0.005), 0.995), 5),
        match=tuple((round(float(a), 5), round(float(b), 5)) for a, b in rising),
    )


def _gray_dab(ground: F64) -> float:
    """What clear ground of density (3,) reads as DAB."""
    return float(stain_od(np.rint(255 * 10**-ground).astype(np.uint8)[None, None])[0, 0])


def _colours(od: F64) -> tuple[F64, F64]:
    """Ground (3,) and unit colours (2, 3) of pixels; the ground is the second percentile of density of each colour."""
    ground = np.quantile(od, 0.02, axis=0)
    return ground, macenko(od - ground)


def _dark(h: F64) -> float:
    rows, cols = (max(4, n // 4 * 4) for n in h.shape)
    return float(np.quantile(h[:rows, :cols].reshape(rows // 4, 4, cols // 4, 4).mean(axis=(1, 3)), 0.97))


def ring_of(nuclei: F64, mpp: float, compartment: Compartment) -> F64:
    """Where a marker round nuclei may lie, 0..1: near nuclei but not in them."""
    edge = max(1, round(RING_UM[compartment] / mpp)) | 1
    near = uniform_filter(nuclei, edge, mode="reflect")
    return np.asarray((1 - nuclei) * np.clip(3 * near, 0, 1))


def _window_shares(
    maps: list[NDArray[Any]], nucleus: float, positive: float, cell: float, mpp: float, compartment: Compartment
) -> tuple[F64, F64, float]:
    """Positive share of the compartment in windows of 32 um that hold some of it, how much they hold, and the DAB of
    positive cells over the area of their rings (0 without any, or for nuclei).

    maps : amounts (2, h, w) of haematoxylin and DAB, one a picture.
    """
    shares, weights = [], []
    dab = area = 0.0
    px = max(4, round(_WINDOW_UM / mpp))
    blur = max(1, round(NUCLEUS_BLUR_UM / mpp)) | 1
    edge = max(1, round(CELL_UM[compartment] / mpp)) | 1
    for h, d in maps:
        rows, cols = (n // px * px for n in h.shape)
        if not rows or not cols:
            continue
        nuclei = np.asarray(ramp(uniform_filter(h, blur), nucleus))
        if compartment in RING_UM:
            place = ring_of(nuclei, mpp, compartment)
            near = uniform_filter(np.maximum(d, 0) * place, edge) / np.maximum(uniform_filter(place, edge), 0.05)
            sure = np.asarray(ramp(near, cell, CELL_WIDTH))
            brown = place * sure
            dab, area = dab + float((sure * np.maximum(d, 0)).sum()), area + float(brown.sum())
        else:
            brown = np.asarray(ramp(d, positive))
            place = np.maximum(nuclei, brown)
        a, b = (
            v[:rows, :cols].reshape(rows // px, px, cols // px, px).mean(axis=(1, 3)).ravel() for v in (brown, place)
        )
        there = b > 0.05
        shares.append(np.minimum(a[there] / b[there], 1))
        weights.append(b[there])
    mean = dab / area if area >= _LEAST_STAINED else 0.0
    return (np.concatenate(shares), np.concatenate(weights), mean) if shares else (np.zeros(0), np.zeros(0), 0.0)
