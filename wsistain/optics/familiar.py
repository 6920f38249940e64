"""How familiar an H&E looks to weights: the colours, contrast and sharpness of small squares against those trained on.

A square of `CELL_UM` has a look: eight numbers. Weights keep a bank of looks from their training pictures in the header; a
square's distance is that to the nearest few of them, and 1 means as far as the furthest hundredth of training squares of
pictures that the bank does not hold. Nothing is asked of the generator, so this costs no second pass and tells nothing of
what it has learnt to do there. Numpy only.

Source: k-nearest-neighbour distance as a test of novelty (Sun et al., Out-of-distribution detection with deep nearest
neighbors, ICML 2022), on looks in place of deep features.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from scipy import ndimage

from wsistain.config import Strict

CELL_UM = 32.0
LOOKS = ("red", "green", "blue", "red_spread", "green_spread", "blue_spread", "fine", "coarse")
"""Mean optical density of each colour and its spread, detail below 1 um, and of 1 to 4 um; spreads as logarithms."""

MOST_LOOKS = 256
NEAREST = 3
LEAST_OD = 0.06
"""Squares with less optical density are glass and have no look."""

F64 = NDArray[np.float64]
_LIGHT = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


class Familiar(Strict):
    """The looks that weights know. mean, spread: by which looks are brought to one scale, in the order of `LOOKS`; bank: looks on
    that scale; far: distance at which a hundredth of the squares of other training pictures lies."""

    mean: tuple[float, ...] = Field(min_length=8, max_length=8)
    spread: tuple[float, ...] = Field(min_length=8, max_length=8)
    bank: tuple[tuple[float, ...], ...] = Field(min_length=8, max_length=MOST_LOOKS)
    far: float = Field(gt=0)

    @field_validator("spread")
    @classmethod
    def _positive(cls, spread: tuple[float, ...]) -> tuple[float, ...]:
        if min(spread) <= 0:
            raise ValueError("wanted spreads above 0")
        return spread

    @field_validator("bank")
    @classmethod
    def _whole(cls, bank: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        if any(len(look) != len(LOOKS) for look in bank) or not np.isfinite(np.array(bank)).all():
            raise ValueError(f"wanted looks of {len(LOOKS)} numbers")
        return bank

    def distance(self, looks: F64) -> F64:
        """Distance of looks (..., 8) to the nearest of the bank, 1 at `far`; NaN where there is no look."""
        flat = (looks.reshape(-1, len(LOOKS)) - self.mean) / self.spread
        out = np.full(len(flat), np.nan)
        known = np.isfinite(flat).all(axis=1)
        out[known] = _nearest(flat[known], np.array(self.bank)) / self.far
        return out.reshape(looks.shape[:-1])


def _nearest(looks: F64, bank: F64) -> F64:
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(bank).query(looks, k=min(NEAREST, len(bank)))
    mean: F64 = distance.reshape(len(looks), -1).mean(axis=1)
    return mean


def looks_of(rgb: NDArray[np.uint8], mpp: float) -> F64:
    """The looks of the squares of `CELL_UM` of an H&E, float (h', w', 8); NaN for glass. What is left at the edges has none."""
    px = max(2, round(CELL_UM / mpp))
    rows, cols = rgb.shape[0] // px, rgb.shape[1] // px
    od = _LIGHT[rgb]
    gray = od.mean(axis=2)
    smooth, smoother = (ndimage.gaussian_filter(gray, um / mpp, mode="nearest", truncate=3) for um in (1.0, 4.0))

    def squares(values: NDArray[np.float32]) -> NDArray[np.float32]:
        cut = values[: rows * px, : cols * px].reshape(rows, px, cols, px, *values.shape[2:])
        return np.moveaxis(cut, 2, 1).reshape(rows, cols, px * px, *values.shape[2:])

    def spread(values: NDArray[np.float32]) -> F64:
        logs: F64 = np.log10(squares(values).std(axis=2, dtype=np.float64) + 1e-3)
        return logs

    mean = squares(od).mean(axis=2, dtype=np.float64)
    detail = np.stack([spread(gray - smooth), spread(smooth - smoother)], axis=-1)
    looks: F64 = np.concatenate([mean, spread(od), detail], axis=-1)
    looks[mean.mean(axis=-1) < LEAST_OD] = np.nan
    return looks


def make_familiar(pictures: Sequence[NDArray[np.uint8]], mpp: float, *, seed: int = 0) -> Familiar | None:
    """What `pictures` of the training H&E look like; None where they hold too little tissue to say.

    Half of the pictures make the bank; `far` is measured on the other half.
    """
    looks = [looks_of(p, mpp).reshape(-1, len(LOOKS)) for p in pictures]
    looks = [part[np.isfinite(part).all(axis=1)] for part in looks]
    banked, other = (np.concatenate([*looks[k::2], np.zeros((0, len(LOOKS)))]) for k in (0, 1))
    if len(banked) < 32 or len(other) < 32:
        return None
    mean, spread = banked.mean(axis=0), np.maximum(banked.std(axis=0), 1e-3)
    rng = np.random.default_rng(seed)
    chosen = _spread_out((banked - mean) / spread, MOST_LOOKS, rng)
    far = float(np.percentile(_nearest((other - mean) / spread, chosen), 99))
    return Familiar(
        mean=tuple(round(float(v), 5) for v in mean),
        spread=tuple(round(float(v), 5) for v in spread),
        bank=tuple(tuple(round(float(v), 3) for v in look) for look in chosen),
        far=round(max(far, 1e-3), 5),
    )


def _spread_out(looks: F64, most: int, rng: np.random.Generator) -> F64:
    """Up to `most` of the looks: half drawn at random, half each furthest from those chosen before."""
    if len(looks) <= most:
        return looks
    first = rng.choice(len(looks), most // 2, replace=False)
    chosen = list(first)
    distance = np.min([((looks - looks[k]) ** 2).sum(axis=1) for k in first], axis=0)
    while len(chosen) < most:
        k = int(distance.argmax())
        chosen.append(k)
        distance = np.minimum(distance, ((looks - looks[k]) ** 2).sum(axis=1))
    return looks[np.array(chosen)]


UNLIKE, PARTLY = 0.5, 0.1
"""Share of the squares further off than `far` from which a slide is unlike training, and partly so; training itself: 0.01."""


def verdict(share: float) -> str:
    """What the share of unfamiliar squares comes to, in words."""
    return "unlike training" if share >= UNLIKE else "partly unlike training" if share >= PARTLY else "like training"
