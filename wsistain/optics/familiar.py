"""How familiar an H&E looks to weights: the colours and textures of small squares against those that were trained on.

A square of `CELL_UM` has a look: colours, and the strength and skew of detail of five sizes in haematoxylin and eosin.
Weights keep a bank of looks of their training pictures in the header, along the directions in which those differ. A
square's distance is that to the nearest few of the bank; 1 is where the furthest hundredth of the squares of other training
pictures lie. Focus and scale show in the detail; the generator itself is not asked, so this costs no second pass. Numpy only.

Source: that of `optics.bank`, on looks in place of deep features.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsistain.markers import EOSIN, HAEMATOXYLIN
from wsistain.optics.bank import make_bank
from wsistain.optics.stored_bank import DIRECTIONS, MOST_ROWS, StoredBank, as_values

CELL_UM = 32.0
DETAIL_UM = (0.5, 1.0, 2.0, 4.0, 8.0)
N_LOOKS = 6 + 4 * len(DETAIL_UM)
"""Mean and spread of red, green and blue, then strength and skew of each size of detail in each dye."""

LEAST_OD = 0.06
"""Squares with less optical density are glass and have no look."""

UNLIKE, PARTLY = 0.5, 0.1
"""Share of unfamiliar squares from which a slide is unlike training, and partly so; in training itself it is 0.01."""

F64 = NDArray[np.float64]
_LIGHT = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_DYES = np.linalg.pinv(np.array([HAEMATOXYLIN, EOSIN]).T).astype(np.float32)


class Familiar(StoredBank):
    """The looks that weights know: a bank of `N_LOOKS` numbers a square."""

    mean: tuple[float, ...] = Field(min_length=N_LOOKS, max_length=N_LOOKS)


def cell_px(mpp: float) -> int:
    """Edge of a cell of about 32 um in whole px, 2 or more."""
    return max(2, round(CELL_UM / mpp))


def looks_of(rgb: NDArray[np.uint8], mpp: float) -> F64:
    """The looks of the squares of `CELL_UM` of an H&E, float (h', w', N_LOOKS); NaN for glass.

    What is left at the right and lower edge has none.
    """
    from scipy.ndimage import gaussian_filter

    px = cell_px(mpp)
    rows, cols = rgb.shape[0] // px, rgb.shape[1] // px
    od = _LIGHT[rgb]

    def squares(values: NDArray[np.float32]) -> F64:
        cut = values[: rows * px, : cols * px].reshape(rows, px, cols, px).astype(np.float64)
        return np.moveaxis(cut, 2, 1).reshape(rows, cols, px * px)

    def spread(values: F64) -> F64:
        logs: F64 = np.log10(values.std(axis=2) + 1e-3)
        return logs

    colours = [squares(od[..., c]) for c in range(3)]
    found = [c.mean(axis=2) for c in colours] + [spread(c) for c in colours]
    for dye in _DYES:
        before = od @ dye
        for um in DETAIL_UM:
            after = gaussian_filter(before, um / mpp, mode="nearest", truncate=3)
            detail = squares(before - after)
            detail -= detail.mean(axis=2, keepdims=True)
            skew = (detail**3).mean(axis=2) / (detail.std(axis=2) ** 3 + 1e-6)
            found += [spread(detail), skew / 10]
            before = after
    looks: F64 = np.stack(found, axis=-1)
    looks[looks[..., :3].mean(axis=-1) < LEAST_OD] = np.nan
    return looks


def has_tissue(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Which of the squares of `CELL_UM` of an H&E have a look, bool (h', w')."""
    px = cell_px(mpp)
    rows, cols = rgb.shape[0] // px, rgb.shape[1] // px
    od = _LIGHT[rgb[: rows * px, : cols * px]].reshape(rows, px, cols, px, 3)
    found: NDArray[np.bool_] = od.mean(axis=(1, 3, 4)) >= LEAST_OD
    return found


def make_familiar(pictures: Sequence[NDArray[np.uint8]], mpp: float, *, seed: int = 0) -> Familiar | None:
    """What `pictures` of the training H&E look like; None where they hold too little tissue to say.

    Half of the pictures make the bank; `far` is measured on the other half.
    """
    looks = [looks_of(p, mpp).reshape(-1, N_LOOKS) for p in pictures]
    looks = [part[np.isfinite(part).all(axis=1)] for part in looks]
    banked, other = (np.concatenate([*looks[k::2], np.zeros((0, N_LOOKS))]) for k in (0, 1))
    if len(banked) < 2 * N_LOOKS or len(other) < N_LOOKS:
        return None
    return Familiar(**as_values(make_bank(banked, other, directions=DIRECTIONS, most=MOST_ROWS, seed=seed)))


def verdict(share: float) -> str:
    """What the share of unfamiliar squares comes to, in words."""
    return "unlike training" if share >= UNLIKE else "partly unlike training" if share >= PARTLY else "like training"
