"""Nuclei of v1 of the phantom: crowded here and loose there, some smudged, some pale, none drawn to one recipe.

All of it is a hash of the cell's identity and smooth noise of its place. What a nucleus shows of its cell's differentiation
(size, and chromatin where it is not smudged) stays; the tables' `score_<M>` is thereby what a reader could reach
who sees through smudges too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.kinds import FIBRO, LUMINAL, LYMPH, TUMOUR
from wsistain.phantom.noise import F32, U64, draw, fractal, normal, salt_of

Values = NDArray[Any]

SMALLER = 0.88
"""Tumour nuclei of v0 were wider than real ones."""


def crowding(seed: int, y: Values, x: Values, kind: NDArray[np.int8]) -> F32:
    """By how much of its room each cell keeps others off, float32 (n,): below 1 nuclei lie over one another."""
    field = fractal(seed, "crowded", y, x, 110.0, 2)
    share = np.clip(np.float32(0.84) - np.float32(0.10) * field, 0.70, 1.0)
    crowded: F32 = np.where(np.isin(kind, (TUMOUR, LUMINAL, LYMPH)), share, np.float32(1)).astype(np.float32)
    return crowded


def varied(
    seed: int, ids: U64, y: Values, x: Values, kind: NDArray[np.int8], a: Values, b: Values, dark: Values, coarse: Values,
    fine: Values, nucleolus: Values, rough: Values,
) -> tuple[Values, ...]:  # fmt: skip
    """(a, b, dark, coarse, fine, nucleolus, rough) of nuclei, (n,) each, from those of v0; units as in `Cells`."""
    tumour, fibro = kind == TUMOUR, kind == FIBRO
    u = [draw(ids, salt_of(1, f"vary {k}")) for k in range(3)]

    # Sizes: tumour nuclei smaller; fibroblasts slender, some of them short where the plane cuts them across.
    scale = np.where(tumour, np.float32(SMALLER), np.float32(1))
    slender = np.where(fibro, np.float32(0.72) + np.float32(0.22) * u[0], np.float32(1))
    long = np.where(fibro, np.float32(1.05) + np.float32(0.25) * normal(ids, salt_of(1, "varied")), np.float32(1))
    a = np.minimum(a * scale * np.clip(long, 0.5, 1.5), np.float32(10))
    b = b * scale * slender

    # Chromatin: less coarse, so that rims are less black, but by one rule, since it shows what a tumour cell is.
    coarse = coarse * np.where(tumour, np.float32(0.62), np.float32(1))
    dark = dark * np.where(tumour, np.float32(0.86), np.where(fibro, np.float32(1.25), np.float32(1)))

    # Smudged and crushed: dark, without structure, angular; singly, and many together where tissue was squeezed.
    crushed = fractal(seed, "crushed", y, x, 140.0, 2)
    share = np.where(
        np.isin(kind, (TUMOUR, LUMINAL, LYMPH, FIBRO)), np.clip(0.04 + 0.5 * (crushed - 1.55), 0.04, 0.8), 0
    )
    smudged = u[1] < share
    dark = np.where(smudged, np.maximum(dark, np.float32(0.15)) * (np.float32(1.1) + np.float32(0.25) * u[2]), dark)
    coarse = np.where(smudged, np.float32(0.05), coarse)
    fine = np.where(smudged, np.float32(0.12), fine)
    nucleolus = np.where(smudged, np.float32(0), nucleolus)
    rough = np.where(smudged, rough + np.float32(0.10), rough)
    b = np.where(smudged & ~fibro, b * (np.float32(0.70) + np.float32(0.2) * u[2]), b)
    return a, b, dark, coarse, fine, nucleolus, rough
