"""How far a stain is trusted at a place and at a cell: the formulas, and the map that they make.

Trust is 0 to 1. Every part says how much of it is left (NaN where it says nothing):

    features, looks : 1 / (1 + 4 (d - 1)^2), d the distance from training, 1 where its furthest hundredth lies and less
        taken for 1: inside of what training shows, what is rare there is not wrong more often; asked in some windows, and
        between them what those round a place say
    clear : 1 less the doubt of its stained nuclei; the doubt of a density x is exp(-|ln(x / c)| / 0.45), c the marker's cut-off
    steady : 1 less how far a generator's answers to the same tissue differ (reading.steady); only where it was asked
    focus : detail below 1 um against that of 1 to 4 um in the 96 um round the cell: 0 at 0.15, 1 from 0.35 on
    ink, fold : 1 less twice the share of the cell that they cover, 0 from half on
    tissue : twice the share of the cell that is tissue, 1 from half on

    trust of a place : features (or looks, of weights without) x clear x least of focus, ink, fold and tissue
    trust of a cell  : the same with the clearness of its own density in place of that of its place

Why a product, the edge, the square and 0.45, and why looks do not count beside features: docs/reading.md, measured. A map is stored as
1 + 254 x trust, and 0 where nothing is known: where nothing was stained, where there is no tissue; and, where the weights do
not say what they were trained on, wherever the picture is good enough for a stain to be right: a good picture is no reason to
believe it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

TRUSTED = 128
"""Value from which a cell is trusted."""

TRUSTED_FROM = (TRUSTED - 1) / 254
"""The same of 0..1."""

FAMILIAR = ("features", "looks")
"""Parts that say how like training a place is; the first that there is counts."""

SPOILING = ("focus", "ink", "fold", "tissue")
"""Parts that say how good the picture is."""

CLEAR, STEADY = "clear", "steady"
DOUBT_WIDTH, LEAST_DENSITY = 0.45, 0.01

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


def trust_of_distance(distance: NDArray[np.floating]) -> F32:
    """Trust that is left at a distance from training: 1 up to the edge of training, 0.5 at one and a half times that, 0.2 at
    twice."""
    beyond = np.clip(distance, 1, 1e3) - 1
    return np.asarray(1 / (1 + 4 * beyond**2), np.float32)


def clearness(od: NDArray[np.floating], cut: float) -> F32:
    """How far a density lies from the cut-off between negative and positive, 0 (on it) to 1; NaN where it is NaN."""
    doubt = np.exp(-np.abs(np.log(np.maximum(od, LEAST_DENSITY) / cut)) / DOUBT_WIDTH)
    return np.asarray(1 - doubt, np.float32)


def as_stored(trust: NDArray[np.floating]) -> U8:
    """Trust 0..1 as 1..255, and NaN as 0."""
    stored: U8 = np.where(np.isfinite(trust), np.rint(1 + 254 * np.nan_to_num(trust)), 0).astype(np.uint8)
    return stored


def as_share(stored: U8) -> F32:
    """The same back: 0..1, and NaN where 0."""
    return np.where(stored > 0, (stored.astype(np.float32) - 1) / 254, np.nan).astype(np.float32)


def spread(known: F32, wanted: NDArray[np.bool_], reach: float) -> F32:
    """`known` (h, w), and at `wanted` what lies round it says: the mean of what is known, weighted by a Gaussian of `reach` / 4 squares.

    What is known stays; NaN where it is neither known nor wanted, or nothing at all is known.
    """
    is_known = np.isfinite(known)
    wanted = wanted & ~is_known
    if not (is_known.any() and wanted.any()):
        return known
    nearest = distance_transform_edt(~is_known, return_distances=False, return_indices=True)
    weight, total = (
        gaussian_filter(v.astype(np.float64), reach / 4, mode="constant", truncate=4)
        for v in (is_known, np.nan_to_num(known))
    )
    near = weight > 1e-6  # further off the nearest one speaks alone
    means = np.where(near, total / np.maximum(weight, 1e-6), known[tuple(nearest)])
    return np.where(wanted, means, known).astype(np.float32)


def combine(parts: Mapping[str, U8], never: bool) -> tuple[F32, F32]:
    """(trust, trust but for `clear`) of each place, 0..1, NaN where nothing is known.

    parts : as they are stored, 0 where a part says nothing. never : the weights can be believed on no place of this slide.
    """
    share = {name: as_share(values) for name, values in parts.items()}
    stained = np.any([values > 0 for values in parts.values()], axis=0)
    picture = np.nan_to_num(np.stack([share[name] for name in SPOILING]), nan=1.0).min(axis=0)
    familiar = next((share[name] for name in FAMILIAR if name in share), np.full(picture.shape, np.nan, np.float32))
    # Where it is not known how familiar a place is (pale, or weights that do not say), only what is spoiled is known.
    told = stained & (np.isfinite(familiar) | (picture < TRUSTED_FROM))
    place = picture * np.nan_to_num(familiar, nan=1.0)
    clear = np.nan_to_num(share[CLEAR], nan=1.0) if CLEAR in share else np.float32(1)

    def known(trust: F32) -> F32:
        return np.where(told, 0.0 if never else trust, np.nan).astype(np.float32)

    return known(np.asarray(place * clear, np.float32)), known(np.asarray(place, np.float32))


@dataclass(frozen=True, eq=False)
class TrustMap:
    """Where a stain can be believed.

    values  : uint8 (h, w), 1 (no trust) to 255 (full), 0 where nothing is known.
    parts   : what they are combined of, uint8 (h, w) each, in the same unit.
    cell_um : edge of a cell. corner_um : (y, x) of the map from the corner of the slide.
    never   : why nothing is to be believed, whatever the slide looks like; "" otherwise.
    why     : why something is not known, or nothing is to be believed; "" otherwise.
    """

    values: U8
    parts: dict[str, U8]
    cell_um: float
    corner_um: tuple[float, float]
    never: str = ""
    why: str = ""

    @property
    def trusted(self) -> float | None:
        """The slide's number: share of the cells of which something is known that are trusted; None where nothing is."""
        known = self.values > 0
        return float((self.values[known] >= TRUSTED).mean()) if known.any() else None

    def at(self, y_um: NDArray[np.floating], x_um: NDArray[np.floating]) -> F32:
        """Trust 0..1 of places, um from the corner of the slide, float32 (n,); NaN where nothing is known."""
        return self.pick(as_share(self.values), y_um, x_um)

    def of_cells(
        self, y_um: NDArray[np.floating], x_um: NDArray[np.floating], od: NDArray[np.floating], cut: float
    ) -> F32:
        """Trust 0..1 of cells with a density `od` (NaN: not read) under a cut-off; NaN where nothing is known."""
        place = self.pick(self.place, y_um, x_um)
        return np.asarray(place * clearness(od, cut), np.float32)

    @cached_property
    def place(self) -> F32:
        """Trust of places but for `clear`."""
        return combine(self.parts, bool(self.never))[1]

    def pick(self, share: F32, y_um: NDArray[np.floating], x_um: NDArray[np.floating]) -> F32:
        """The values of the squares of `share` (h, w) at places, float32 (n,); NaN outside."""
        row = np.floor((y_um - self.corner_um[0]) / self.cell_um).astype(np.int64)
        col = np.floor((x_um - self.corner_um[1]) / self.cell_um).astype(np.int64)
        inside = (row >= 0) & (row < share.shape[0]) & (col >= 0) & (col < share.shape[1])
        found = share[row.clip(0, share.shape[0] - 1), col.clip(0, share.shape[1] - 1)]
        return np.where(inside, found, np.nan).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        trusted = self.trusted
        return {
            "trusted": None if trusted is None else round(trusted, 4),
            "cells": int((self.values > 0).sum()),
            "cell_um": self.cell_um,
            "parts": list(self.parts),
            "never": self.never,
            "why": self.why,
        }
