"""Do the user's own nuclei lie on the nuclei of this slide? Their size, and where they fit the haematoxylin best."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from wsistain.errors import ConfigError
from wsistain.reading.cells import I32
from wsistain.reading.grid import FINE, Box, Grid
from wsistain.reading.nuclei import haematoxylin
from wsistain.slide.base import Slide
from wsistain.slide.resample import read_window

WINDOW_PX, MOST_WINDOWS = 512, 6
"""Windows that are looked at, grid px (about um), spread over the slide."""

SHIFT_PX = 100
"""Furthest shift that is looked for, grid px."""

LOCAL_PX = 41
"""Haematoxylin is taken against its mean over so many grid px: that cells lie in tissue and not on glass tells nothing."""

LEAST_SHIFT_UM = 3.0
"""Less is the detector's own manner: outlines of half a um more to one side."""

AGREE = 0.1
"""Correlation of nuclei and haematoxylin below which the two have nothing to do with each other. On a small phantom slide it was 0.52
for its own nuclei, and 0.03 or less for those of the slide turned round or shrunk.
"""

SIZES_UM = (2.0, 40.0)
F64 = NDArray[np.float64]


class Given(Protocol):
    """Nuclei from elsewhere as labels of any window."""

    def labels(self, box: Box) -> I32:
        """int32 (2h, 2w), a number on each nucleus."""
        ...


def check_fit(source: Given, told: str, slide: Slide, grid: Grid, blocks: list[Box]) -> list[str]:
    """Sentences for the user about how `source` (named `told`) fits the slide, none where it fits.

    Nuclei of no size that nuclei have, and such that fit the slide far better elsewhere, are a ConfigError: their scale or
    their origin is wrong. Where nothing fits anywhere it is said, since a pale H&E would show the same.
    """
    sums, areas = np.zeros((2 * SHIFT_PX + 1, 2 * SHIFT_PX + 1)), []
    n_px, seen = 0, 0
    moments = np.zeros(4)
    for box in _windows(blocks):
        labels = source.labels(box)
        count = np.bincount(labels.ravel())[1:]
        if not count.any():
            continue
        seen += 1
        areas.append(count[count > 0])
        is_nucleus = (labels > 0).reshape(box.height, FINE, box.width, FINE).mean(axis=(1, 3))
        rgb = read_window(slide, grid.sampling, box.y, box.x, box.height, box.width)
        dye = np.minimum(haematoxylin(rgb), 1.0).astype(np.float64)
        dye -= ndimage.uniform_filter(dye, LOCAL_PX, mode="nearest")
        sums = sums + _by_shift(is_nucleus, dye)
        n_px += is_nucleus.size
        moments += [is_nucleus.sum(), (is_nucleus**2).sum(), dye.sum(), (dye**2).sum()]
    if not seen:
        return []
    edge_um = 2 * np.sqrt(np.median(np.concatenate(areas)) / np.pi) * grid.label_mpp
    if not SIZES_UM[0] <= edge_um <= SIZES_UM[1]:
        raise ConfigError(
            f"{told}: the cells are {edge_um:.1f} um across (median), wanted {SIZES_UM[0]:g} to {SIZES_UM[1]:g}; "
            "are they at the scale of this slide?"
        )
    fits = _correlation(sums, n_px, moments)
    return _judged(fits, told, grid.mpp)


def _judged(fits: F64, told: str, mpp: float) -> list[str]:
    """What the correlations at every shift, (2 k + 1, 2 k + 1), say; see `check_fit`."""
    k = fits.shape[0] // 2
    best = np.array(np.unravel_index(int(fits.argmax()), fits.shape)) - k
    here, there = float(fits[k, k]), float(fits.max())
    um = float(np.hypot(*best)) * mpp
    where = f"{_way(best[0] * mpp, 'down', 'up')} and {_way(best[1] * mpp, 'right', 'left')}"
    if um >= LEAST_SHIFT_UM and there >= 2.5 * AGREE and here < there / 2:
        raise ConfigError(
            f"{told} does not lie on the nuclei of this slide, but would if it were moved {where}; give level-0 px from the "
            "slide's own corner"
        )
    if here < AGREE:
        return [f"{told}: these cells are hardly darker than what lies round them; are they of this slide and scale?"]
    if um >= LEAST_SHIFT_UM and there > 1.1 * here:
        return [f"{told} would fit the nuclei of this slide better if it were moved {where}"]
    return []


def _way(um: float, forth: str, back: str) -> str:
    return f"{abs(um):.0f} um {forth if um >= 0 else back}"


def _windows(blocks: list[Box]) -> Iterator[Box]:
    """Windows in the middle of blocks spread over the slide."""
    for k in np.unique(np.linspace(0, len(blocks) - 1, MOST_WINDOWS).round().astype(int)) if blocks else ():
        box = blocks[k]
        height, width = min(WINDOW_PX, box.height), min(WINDOW_PX, box.width)
        yield Box(box.y + (box.height - height) // 2, box.x + (box.width - width) // 2, height, width)


def _by_shift(nuclei: F64, dye: F64) -> F64:
    """Sums of nuclei x dye with the nuclei moved by each (dy, dx), float (2 SHIFT_PX + 1, 2 SHIFT_PX + 1); what is moved out
    comes in again on the other side."""
    most = SHIFT_PX
    k = min(most, *((n - 1) // 2 for n in nuclei.shape))
    product = fft.irfft2(fft.rfft2(dye) * np.conj(fft.rfft2(nuclei)), s=nuclei.shape)
    sums = np.full((2 * most + 1, 2 * most + 1), nuclei.sum() * dye.mean())  # further than the window is wide: nothing
    at = np.arange(-k, k + 1)
    sums[most - k : most + k + 1, most - k : most + k + 1] = product[np.ix_(at, at)]
    return sums


def _correlation(sums: F64, n_px: int, moments: F64) -> F64:
    """Pearson's correlation from sums of products and (sum, sum of squares) of both."""
    a, aa, b, bb = moments / n_px
    spread = np.sqrt(max(aa - a**2, 0) * max(bb - b**2, 0))
    fits: F64 = (sums / n_px - a * b) / max(spread, 1e-12)
    return fits
