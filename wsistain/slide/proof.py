"""Whether two levels show the same picture: what their shapes and tags say is believed only if their pixels agree."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsistain.slide.base import RGB

Read = Callable[[int, int, int, int], RGB]
"""(y, x, height, width) -> pixels of a window of one level."""

_WINDOW = 64  # px of the coarser level that are compared at one place
_BLOCK = 8  # px of the coarser level whose mean is compared
_PLACES = 3  # looked at along each side
_COMPARED = 4  # of these, the ones richest in contrast
_FINE_PX = 1024  # widest window read of the finer level
_ALIKE, _CLOSE = 6.0, 30.0  # mean difference in grey levels that proves; that does not refute
_CORRELATED = 0.5


def show_the_same(fine: Read, fine_size: tuple[int, int], coarse: Read, coarse_size: tuple[int, int]) -> bool:
    """Whether a coarse level is a reduced copy of a fine one, judged on a few places where it has most contrast.

    Sizes are (height, width). Means of small squares are compared, so that it does not matter how the copy was made or
    compressed. True also where nothing tells (both are flat and alike).
    """
    # Places to look at: windows of the coarse level, as large as the fine one can be read for.
    height, width = coarse_size
    step_y, step_x = fine_size[0] / height, fine_size[1] / width
    edge = max(_BLOCK, min(_WINDOW, int(_FINE_PX / max(step_y, step_x)) // _BLOCK * _BLOCK))
    edge_y, edge_x = min(edge, height), min(edge, width)
    places = [
        (int(a * (height - edge_y)), int(b * (width - edge_x)))
        for a in np.linspace(0, 1, _PLACES)
        for b in np.linspace(0, 1, _PLACES)
    ]

    # The few with most contrast: flat ones look alike on any two levels.
    windows = {place: coarse(*place, edge_y, edge_x) for place in dict.fromkeys(places)}
    richest = sorted(windows, key=lambda place: -float(windows[place].std()))[:_COMPARED]
    ours, theirs = [], []
    for y, x in richest:
        top, left = round(y * step_y), round(x * step_x)
        size = max(1, round((y + edge_y) * step_y) - top), max(1, round((x + edge_x) * step_x) - left)
        grid = max(1, edge_y // _BLOCK), max(1, edge_x // _BLOCK)
        ours.append(_means(windows[y, x], grid))
        theirs.append(_means(fine(top, left, *size), grid))
    return _agree(np.concatenate([m.ravel() for m in ours]), np.concatenate([m.ravel() for m in theirs]))


def _means(pixels: RGB, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Mean colour of the cells of a (rows, cols) grid laid over a window."""
    rows, cols = (np.linspace(0, n, k + 1).astype(int)[:-1] for n, k in zip(pixels.shape[:2], grid, strict=True))
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float64), rows, axis=0), cols, axis=1)
    heights, widths = np.diff([*rows, pixels.shape[0]]), np.diff([*cols, pixels.shape[1]])
    return sums / (heights[:, None] * widths)[..., None]


def _agree(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    difference = float(np.abs(a - b).mean())
    if difference <= _ALIKE:
        return True
    if difference > _CLOSE or min(a.std(), b.std()) == 0:
        return False
    return float(np.corrcoef(a, b)[0, 1]) >= _CORRELATED
