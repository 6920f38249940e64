"""A bank of numbers as weights keep it in their header: plain values, checked as they are read."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from wsistain.config import Strict
from wsistain.optics.bank import Bank

MOST_NUMBERS, DIRECTIONS, MOST_ROWS = 512, 16, 256
"""Most numbers that a square is told by, directions along which they are compared, and rows of a bank."""


class StoredBank(Strict):
    """What training pictures are like, in numbers of their squares.

    mean, spread : by which numbers are brought to one scale, n each.
    directions   : rows of n numbers: the directions along which squares are compared, to unit variance.
    bank         : squares along them.
    far          : distance at which the furthest hundredth of the squares of other training pictures lie.
    """

    mean: tuple[float, ...] = Field(min_length=1, max_length=MOST_NUMBERS)
    spread: tuple[float, ...] = Field(min_length=1, max_length=MOST_NUMBERS)
    directions: tuple[tuple[float, ...], ...] = Field(min_length=1, max_length=DIRECTIONS)
    bank: tuple[tuple[float, ...], ...] = Field(min_length=8, max_length=MOST_ROWS)
    far: float = Field(gt=0)

    @field_validator("spread")
    @classmethod
    def _positive(cls, spread: tuple[float, ...]) -> tuple[float, ...]:
        if min(spread) <= 0:
            raise ValueError("wanted spreads above 0")
        return spread

    @model_validator(mode="after")
    def _fit(self) -> Self:
        n = len(self.mean)
        if len(self.spread) != n or any(len(row) != n for row in self.directions):
            raise ValueError(f"wanted spreads and directions of {n} numbers, as the mean")
        if any(len(row) != len(self.directions) for row in self.bank):
            raise ValueError(f"wanted squares of {len(self.directions)} numbers, one a direction")
        if not all(np.isfinite(row).all() for row in (self.mean, self.spread, *self.directions, *self.bank)):
            raise ValueError("wanted numbers that are finite")
        return self

    def distance(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Distance of numbers (..., n) to the nearest of the bank, 1 at `far`; NaN where one is not finite."""
        mean, spread, directions, rows = (
            np.array(v, np.float64) for v in (self.mean, self.spread, self.directions, self.bank)
        )
        return Bank(mean, spread, directions, rows, self.far).distance(values)


def as_values(found: Bank) -> dict[str, Any]:
    """The fields of a `StoredBank` of a bank, rounded to what matters."""

    def rounded(values: NDArray[np.floating], digits: int = 4) -> tuple[float, ...]:
        return tuple(round(float(v), digits) for v in values)

    return {
        "mean": rounded(found.mean, 6),
        "spread": rounded(found.spread, 6),
        "directions": tuple(map(rounded, found.directions)),
        "bank": tuple(rounded(row, 3) for row in found.rows),
        "far": round(found.far, 5),
    }
