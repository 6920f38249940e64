"""Seam score: do the borders of tiles show in a stained slide? Numpy only, streamed over windows of bounded size."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BAND_PX = 512
WINDOW_PX = 8192
ON, OFF, BESIDE = "on borders", "elsewhere", "beside borders"
BESIDE_PX = (-32, -16, 16, 32)


def _step(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """|a - b| of unsigned bytes without leaving bytes."""
    return np.maximum(a, b) - np.minimum(a, b)


def _column_sums(step: NDArray[np.uint8], pixels: int) -> NDArray[np.int64]:
    """Sum over rows and channels of steps uint8 (h, w * 3), int64 (w,)."""
    sums: NDArray[np.int64] = step.sum(axis=0, dtype=np.uint32).reshape(pixels, 3).sum(axis=1, dtype=np.int64)
    return sums


class SeamCounter:
    """Sums of gradients on tile borders and elsewhere, fed band after band from the top.

    width  : width of the image, px.
    stride : distance of tile borders, px, at least 2.
    offset : position of a border, px (any border of the grid will do), or several where each tile has two edges.

    Holds one row of the image and six sums, whatever the size.
    """

    def __init__(self, width: int, stride: int, offset: int | Sequence[int] = 0) -> None:
        if stride < 2:
            raise ValueError(f"tile borders are at least 2 px apart; found a stride of {stride}")
        if width < 1:
            raise ValueError(f"an image is at least 1 px wide; found {width}")
        self._width, self._stride = width, stride
        self._offsets = (offset,) if isinstance(offset, int) else tuple(offset)
        self._above: NDArray[np.uint8] | None = None
        self._row = 0
        self._sum = {ON: 0, OFF: 0, BESIDE: 0}
        self._count = {ON: 0, OFF: 0, BESIDE: 0}
        borders = {o % stride for o in self._offsets}
        beside = {(o + d) % stride for o in self._offsets for d in BESIDE_PX} - borders
        self._places = {ON: sorted(borders), BESIDE: sorted(beside)}

    def _book(self, sums: NDArray[np.int64], counts: NDArray[np.int64], first: int) -> None:
        """Add sums and counts of steps whose second pixels lie at first, first + 1, ..."""
        place = np.arange(first, first + len(sums)) % self._stride
        on, beside = (np.isin(place, self._places[kind]) for kind in (ON, BESIDE))
        for kind, lines in ((ON, on), (OFF, ~on), (BESIDE, beside)):
            self._sum[kind] += int(sums[lines].sum())
            self._count[kind] += 3 * int(counts[lines].sum())

    def _window(self, pixels: NDArray[np.uint8], above: NDArray[np.uint8] | None, x: int, first_x: int) -> None:
        """Count the steps inside `pixels` (rows, n, 3), whose column 0 lies at `x`; `above` is the row over it.

        Steps down are counted for columns from `first_x` on: the column before it belongs to the last window.
        """
        rows, n = pixels.shape[:2]
        flat = pixels.reshape(rows, n * 3)
        drawn = (flat[:, 0::3] & flat[:, 1::3] & flat[:, 2::3]) != 255
        if n > 1:
            seen = (drawn[:, 1:] | drawn[:, :-1]).sum(axis=0, dtype=np.int64)
            self._book(_column_sums(_step(flat[:, 3:], flat[:, :-3]), n - 1), seen, x + 1)
        skip = first_x - x
        flat, drawn, first = flat[:, 3 * skip :], drawn[:, skip:], self._row
        if above is not None:
            top = above[skip:].reshape(1, -1)
            flat = np.concatenate([top, flat])
            drawn = np.concatenate([(top[:, 0::3] & top[:, 1::3] & top[:, 2::3]) != 255, drawn])
            first -= 1
        if len(flat) > 1:
            sums = _step(flat[1:], flat[:-1]).sum(axis=1, dtype=np.int64)
            seen = (drawn[1:] | drawn[:-1]).sum(axis=1, dtype=np.int64)
            self._book(sums, seen, first + 1)

    def add(self, band: NDArray[np.uint8]) -> None:
        """Take the next band of rows, uint8 (rows, width, 3)."""
        if band.ndim != 3 or band.shape[1:] != (self._width, 3) or band.dtype != np.uint8:
            raise ValueError(f"wanted a band uint8 (rows, {self._width}, 3); found {band.dtype} {band.shape}")
        if not len(band):
            return
        for x in range(0, self._width, WINDOW_PX):
            left, right = max(x - 1, 0), min(x + WINDOW_PX, self._width)
            above = None if self._above is None else self._above[left:right]
            self._window(np.ascontiguousarray(band[:, left:right]), above, left, x)
        self._above = band[-1].copy()
        self._row += len(band)

    @property
    def score(self) -> float:
        """Mean absolute gradient on borders over that elsewhere.

        NaN where either was never seen or both are 0; infinity where only borders have a gradient.
        """
        return self._ratio(OFF)

    @property
    def local_score(self) -> float:
        """The same over lines 16 and 32 px beside the borders instead of everywhere else.

        A slide of few tiles, or one that was a JPEG, has more or less gradient on some lines for reasons of its own
        (content, 8 px blocks); lines beside a border share them, so this ratio is nearer to 1 without seams.
        """
        return self._ratio(BESIDE)

    def _ratio(self, other: str) -> float:
        if not self._count[ON] or not self._count[other]:
            return float("nan")
        on, off = (self._sum[kind] / self._count[kind] for kind in (ON, other))
        if off == 0:
            return float("nan") if on == 0 else float("inf")
        return on / off


def seam_score(level0: Any, stride: int, offset: int | Sequence[int] = 0) -> float:
    """Mean absolute gradient on tile borders over that elsewhere: 1.00 is perfect, more means visible tiles.

    level0 : uint8 (h, w, 3) or (3, h, w), a numpy, zarr or memory-mapped array, read in bands of 512 rows; or an
             iterable of bands uint8 (rows, w, 3) from the top.
    stride : distance of tile borders, px.
    offset : y and x of one border, px: borders lie at offset + k * stride, between the pixels b - 1 and b. Several
             where tiles overlap: 0, where a tile begins, and the overlap, where the one before it ends.

    Gradients are steps between neighbours in y and in x, over all channels. A step between two blank pixels (255
    in every channel) is not counted, so that glass does not dilute the score. Memory is one band. NaN where the
    image shows no border, nothing but borders, or is flat; infinity where only borders have a gradient.

    >>> ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    >>> seam_score(np.stack([ramp] * 3, axis=2), stride=16)
    1.0
    """
    counter: SeamCounter | None = None
    for band in _bands(level0):
        if counter is None:
            counter = SeamCounter(band.shape[1], stride, offset)
        counter.add(band)
    return float("nan") if counter is None else counter.score


def _bands(level0: Any) -> Iterable[NDArray[np.uint8]]:
    shape = getattr(level0, "shape", None)
    if shape is None:
        yield from level0
        return
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise ValueError(f"wanted an RGB image (h, w, 3) or (3, h, w); found shape {tuple(shape)}")
    if shape[2] == 3:
        for y in range(0, shape[0], BAND_PX):
            yield np.asarray(level0[y : y + BAND_PX])
    else:
        for y in range(0, shape[1], BAND_PX):
            yield np.moveaxis(np.asarray(level0[:, y : y + BAND_PX]), 0, 2)
