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
from pydantic import Field, field_validator, model_validator

from wsistain.config import Strict
from wsistain.markers import EOSIN, HAEMATOXYLIN
from wsistain.optics.bank import Bank, make_bank

CELL_UM = 32.0
DETAIL_UM = (0.5, 1.0, 2.0, 4.0, 8.0)
N_LOOKS = 6 + 4 * len(DETAIL_UM)
"""Mean and spread of red, green and blue, then strength and skew of each size of detail in each dye."""

DIRECTIONS = 16
MOST_LOOKS = 256
LEAST_OD = 0.06
"""Squares with less optical density are glass and have no look."""

UNLIKE, PARTLY = 0.5, 0.1
"""Share of unfamiliar squares from which a slide is unlike training, and partly so; in training itself it is 0.01."""

F64 = NDArray[np.float64]
_LIGHT = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_DYES = np.linalg.pinv(np.array([HAEMATOXYLIN, EOSIN]).T).astype(np.float32)


class Familiar(Strict):
    """The looks that weights know.

    mean, spread : by which looks are brought to one scale, `N_LOOKS` numbers each.
    directions   : rows of `N_LOOKS` numbers: the directions along which looks are compared, to unit variance.
    bank         : looks along them.
    far          : distance at which the furthest hundredth of the squares of other training pictures lie.
    """

    mean: tuple[float, ...] = Field(min_length=N_LOOKS, max_length=N_LOOKS)
    spread: tuple[float, ...] = Field(min_length=N_LOOKS, max_length=N_LOOKS)
    directions: tuple[tuple[float, ...], ...] = Field(min_length=1, max_length=DIRECTIONS)
    bank: tuple[tuple[float, ...], ...] = Field(min_length=8, max_length=MOST_LOOKS)
    far: float = Field(gt=0)

    @field_validator("spread")
    @classmethod
    def _positive(cls, spread: tuple[float, ...]) -> tuple[float, ...]:
        if min(spread) <= 0:
            raise ValueError("wanted spreads above 0")
        return spread

    @model_validator(mode="after")
    def _fit(self) -> "Familiar":
        if any(len(row) != N_LOOKS for row in self.directions):
            raise ValueError(f"wanted directions of {N_LOOKS} numbers")
        if any(len(look) != len(self.directions) for look in self.bank):
            raise ValueError(f"wanted looks of {len(self.directions)} numbers, one a direction")
        numbers = (self.mean, self.spread, *self.directions, *self.bank)
        if not all(np.isfinite(row).all() for row in numbers):
            raise ValueError("wanted numbers that are finite")
        return self

    def distance(self, looks: F64) -> F64:
        """Distance of looks (..., N_LOOKS) to the nearest of the bank, 1 at `far`; NaN where there is no look."""
        mean, spread, directions, rows = (
            np.array(v, np.float64) for v in (self.mean, self.spread, self.directions, self.bank)
        )
        bank = Bank(mean, spread, directions, rows, self.far)
        return bank.distance(looks)


def looks_of(rgb: NDArray[np.uint8], mpp: float) -> F64:
    """The looks of the squares of `CELL_UM` of an H&E, float (h', w', N_LOOKS); NaN for glass.

    What is left at the right and lower edge has none.
    """
    from scipy.ndimage import gaussian_filter

    px = max(2, round(CELL_UM / mpp))
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


def make_familiar(pictures: Sequence[NDArray[np.uint8]], mpp: float, *, seed: int = 0) -> Familiar | None:
    """What `pictures` of the training H&E look like; None where they hold too little tissue to say.

    Half of the pictures make the bank; `far` is measured on the other half.
    """
    looks = [looks_of(p, mpp).reshape(-1, N_LOOKS) for p in pictures]
    looks = [part[np.isfinite(part).all(axis=1)] for part in looks]
    banked, other = (np.concatenate([*looks[k::2], np.zeros((0, N_LOOKS))]) for k in (0, 1))
    if len(banked) < 2 * N_LOOKS or len(other) < N_LOOKS:
        return None
    found = make_bank(banked, other, directions=DIRECTIONS, most=MOST_LOOKS, seed=seed)

    def rounded(values: F64, digits: int = 4) -> tuple[float, ...]:
        return tuple(round(float(v), digits) for v in values)

    return Familiar(
        mean=rounded(found.mean, 6),
        spread=rounded(found.spread, 6),
        directions=tuple(map(rounded, found.directions)),
        bank=tuple(rounded(look, 3) for look in found.rows),
        far=round(found.far, 5),
    )


def verdict(share: float) -> str:
    """What the share of unfamiliar squares comes to, in words."""
    return "unlike training" if share >= UNLIKE else "partly unlike training" if share >= PARTLY else "like training"
