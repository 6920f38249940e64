"""What spoils tissue on a slide before any stain is computed: pen over it, folds, and parts out of focus."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide.base import RGB, Slide
from wsistain.slide.glass import WHITE, glass_colour, optical_density
from wsistain.slide.resample import choose_sampling, read_window
from wsistain.slide.segment import segment_all
from wsistain.slide.tissue import TissueMask, read_thumbnail

Mask = NDArray[np.bool_]

_MIN_INK_UM2, _MIN_FOLD_UM2 = 2_500.0, 5_000.0
_FOLD = 1.6  # folded tissue absorbs so many times what three quarters of the tissue stay below, in every channel,
_FOLD_OD = 0.4  # and at least this
_LAYERS, _LAYERS_MEAN = 1.5, 1.8  # a narrow fold absorbs so many times what lies around it: at least, on average
_SAME, _REDDER = 0.8, 1.15  # and by about the same factor in every channel; crowded nuclei by more in red than in green
_RIDGE, _RIDGE_OD = 1.4, 0.3  # narrow folds need less beside the slide as a whole
_BESIDE_UM, _AMID = 24.0, 0.75  # beside a fold this share is tissue
_LEAST_OD = 0.05  # of what lies around
_AROUND_STEP_UM, _AROUND_STEPS, _BAND_ROWS = 48.0, 9, 512
_LONG, _MIN_LENGTH_UM, _MIN_WIDTH_UM = 4.0, 150.0, 12.0

FOCUS_MPP, COARSEST_MPP = 1.0, 1.5  # um per px at which focus is judged; coarser slides do not show it
_FOCUS_WINDOWS, _FOCUS_PX = 24, 128
_MOST_PIXELS = 50_000
SHARP = 0.25
"""Detail below 1 px per detail from 1 to 4 px: sharp slides have 0.43 to 1.2, blurred by 2 um 0.15 to 0.22."""

_PLAIN = 3.0  # grey levels of such detail that there must be to judge by


@dataclass(frozen=True)
class Quality:
    """What spoils the tissue of a slide.

    pen          : share of the tissue's area under ink, 0..1; pen_mm2 the area.
    fold         : share of the tissue's area that is folded, 0..1; many folds narrower than about 40 um are not seen at 8 um.
    out_of_focus : share of up to 24 windows of 128 um that are blurred by about 2 um or more, 0..1; None where the slide
                   is too coarse, or nothing in it has enough detail to tell.
    """

    pen: float = 0.0
    pen_mm2: float = 0.0
    fold: float = 0.0
    out_of_focus: float | None = None

    def describe(self) -> dict[str, Any]:
        """Plain JSON values."""
        focus = None if self.out_of_focus is None else round(self.out_of_focus, 4)
        return {
            "pen": round(self.pen, 4),
            "pen_mm2": round(self.pen_mm2, 4),
            "fold": round(self.fold, 4),
            "out_of_focus": focus,
        }

    def warnings(self) -> tuple[str, ...]:
        """Sentences for whoever stains the slide."""
        if not self.pen_mm2:
            return ()
        return (
            f"pen lies over {self.pen:.1%} of the tissue ({self.pen_mm2:.2f} mm2); "
            "what is stained under it shows the ink, not the tissue: read nothing from it",
        )


@dataclass(frozen=True)
class Examined:
    """What a look at the whole slide shows.

    tissue    : where there is tissue, as `find_tissue` says.
    unscanned : where the picture is black because nothing was scanned; None where that is nowhere.
    ink, fold : tissue under ink, and folded tissue; None where that is nowhere.
    pixels    : up to 50,000 pixels of the tissue off the ink, uint8 (n, 3). glass : float (3,), colour of clear glass.
    """

    tissue: TissueMask
    quality: Quality
    unscanned: TissueMask | None
    ink: TissueMask | None = None
    fold: TissueMask | None = None
    pixels: RGB = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    glass: NDArray[np.float32] = field(default_factory=lambda: np.full(3, WHITE, np.float32))


def examine(slide: Slide) -> Examined:
    """Where a slide has tissue, and what spoils it. Reads 24 small windows beside the thumbnail."""
    thumbnail, mpp = read_thumbnail(slide)
    shown = segment_all(thumbnail, mpp)
    downsample = mpp / slide.info.mpp
    mask = TissueMask(shown.tissue, downsample)
    black = TissueMask(shown.unscanned, downsample) if shown.unscanned.any() else None
    area = int(shown.tissue.sum())
    if not area:
        return Examined(mask, Quality(), black)
    ink = _islands(shown.inked, _MIN_INK_UM2 / mpp**2)
    fold = folds(thumbnail, shown.tissue & ~shown.pen, mpp)
    n_ink = int(ink.sum())
    focus = _out_of_focus(slide, mask)
    quality = Quality(n_ink / area, n_ink * mpp**2 / 1e6, int(fold.sum()) / area, focus)
    inked, folded = (TissueMask(part, downsample) if part.any() else None for part in (ink, fold))
    pixels = some_of(thumbnail[shown.tissue & ~shown.pen])
    return Examined(mask, quality, black, inked, folded, pixels, glass_colour(thumbnail))


def some_of(pixels: RGB) -> RGB:
    """At most 50,000 of the pixels (n, 3), evenly spaced."""
    return pixels[:: -(-len(pixels) // _MOST_PIXELS) or 1].copy()


def _islands(mask: Mask, least_px: float) -> Mask:
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(labels.ravel(), minlength=n + 1) >= least_px
    large[0] = False
    return large[labels]


def folds(rgb: RGB, tissue: Mask, mpp: float) -> Mask:
    """bool (h, w): folded tissue in a thumbnail uint8 (h, w, 3): two layers absorb twice as much of every colour.

    Wide folds stand out from the whole slide, narrow ones from the tissue on both sides of them.
    """
    found = np.zeros(tissue.shape, bool)
    # Optical density in bands; kept are its mean, its least, and how often each colour exceeds what lies around it.
    glass = glass_colour(rgb)
    mean, least = (np.empty(tissue.shape, np.float32) for _ in range(2))
    times = np.empty(rgb.shape, np.float16)
    around = _around(rgb, tissue, glass, mpp)
    step = max(1, round(_AROUND_STEP_UM / mpp))
    cols = np.arange(tissue.shape[1]) // step
    for top in range(0, tissue.shape[0], _BAND_ROWS):
        od = _band(rgb, glass, top)
        part, rows = slice(top, top + len(od)), np.arange(top, top + len(od)) // step
        mean[part], least[part] = od.mean(axis=2), od.min(axis=2)
        times[part] = od / np.maximum(around[np.ix_(rows, cols)], _LEAST_OD)
    # A wide fold is dark beside the slide's own tissue, in every channel.
    dense = tissue & (mean > 0.05)
    if not dense.any():
        return found
    high, low = (float(np.percentile(values[dense], 75)) for values in (mean, least))
    dark = dense & (mean > max(_FOLD * high, _FOLD_OD)) & (least > _FOLD * low)
    found = _islands(ndimage.binary_opening(dark), _MIN_FOLD_UM2 / mpp**2)
    narrow = _narrow_folds(times, dense & (mean > max(_RIDGE * high, _RIDGE_OD)), mpp)
    return found | _amid(narrow, dense, mpp)


def _band(rgb: RGB, glass: NDArray[np.float32], top: int) -> NDArray[np.float32]:
    """Optical density of up to _BAND_ROWS rows from `top`, smoothed as in one piece."""
    start = max(top - 4, 0)
    return optical_density(rgb[start : top + _BAND_ROWS + 4], glass)[top - start :][:_BAND_ROWS]


def _around(rgb: RGB, tissue: Mask, glass: NDArray[np.float32], mpp: float) -> NDArray[np.float32]:
    """float32 (h / step, w / step, 3): the median optical density of the tissue within some 200 um.

    A median, since what fills less than half of its window, such as a narrow fold, does not move it, and since beside
    the border between dark and pale tissue it is that of the side one stands on.
    """
    step = max(1, round(_AROUND_STEP_UM / mpp))
    h, w = (-(-n // step) for n in tissue.shape)
    weight, total = np.zeros((h, w), np.float32), np.zeros((h, w, 3), np.float32)
    for row in range(h):
        start = max(row * step - 4, 0)
        strip = optical_density(rgb[start : (row + 1) * step + 4], glass)[row * step - start :][:step]
        here = tissue[row * step : (row + 1) * step, :, None]
        edges = np.arange(0, tissue.shape[1], step)
        total[row] = np.add.reduceat((strip * here).sum(axis=0), edges, axis=0)
        weight[row] = np.add.reduceat(here.sum(axis=(0, 2), dtype=np.float32), edges)
    held = weight > 0.3 * step * step
    if not held.any():
        return np.full((h, w, 3), np.inf, np.float32)
    od = total / np.maximum(weight, 1)[..., None]
    nearest = ndimage.distance_transform_edt(~held, return_distances=False, return_indices=True)
    filled = od[tuple(nearest)]
    found: NDArray[np.float32] = ndimage.median_filter(filled, size=(_AROUND_STEPS, _AROUND_STEPS, 1), mode="nearest")
    return found


def _narrow_folds(times: NDArray[np.float16], maybe: Mask, mpp: float) -> Mask:
    """The bands, much longer than wide, that absorb about twice what lies around them, of every colour alike.

    times : (h, w, 3), optical density by that around it. Crowded nuclei, as in an epithelium, add red above all.
    """
    ridge = maybe & (times.min(axis=2) > _LAYERS)
    labels, n = ndimage.label(ridge, np.ones((3, 3)))
    areas = np.maximum(np.bincount(labels.ravel(), minlength=n + 1), 1)
    inner = ndimage.distance_transform_edt(np.pad(ridge, 1))[1:-1, 1:-1] - 0.5
    width = 4 * np.bincount(labels.ravel(), weights=inner.ravel(), minlength=n + 1) / areas  # as of a straight band
    length = areas / np.maximum(width, 1)
    long = (length >= _LONG * width) & (length * mpp >= _MIN_LENGTH_UM) & (width * mpp >= _MIN_WIDTH_UM)
    # Two layers have the colour of one.
    red, green, blue = (
        np.bincount(labels.ravel(), weights=times[..., c].ravel(), minlength=n + 1) / areas for c in range(3)
    )
    layers = np.stack([red, green, blue])
    alike = (layers.min(axis=0) > _SAME * layers.max(axis=0)) & (red < _REDDER * green)
    fold = long & alike & (layers.mean(axis=0) > _LAYERS_MEAN)
    fold[0] = False
    return fold[labels]


def _amid(islands: Mask, tissue: Mask, mpp: float) -> Mask:
    """The islands with tissue nearly all round, not the dark rim of a surface."""
    if not islands.any():
        return islands
    labels, n = ndimage.label(islands, np.ones((3, 3)))
    reach = 2 * max(2, round(_BESIDE_UM / mpp)) + 1
    ring = np.where(islands, 0, ndimage.maximum_filter(labels, reach))
    sides = np.bincount(ring.ravel(), minlength=n + 1)
    amid = np.bincount(ring.ravel(), weights=tissue.ravel(), minlength=n + 1) >= _AMID * sides
    amid[0] = False
    return amid[labels]


def _out_of_focus(slide: Slide, tissue: TissueMask) -> float | None:
    """Share of windows on tissue that are not sharp, at 1 um per px; windows are spread evenly over the tissue."""
    if slide.info.mpp > COARSEST_MPP:
        return None
    sampling = choose_sampling(slide.info, max(FOCUS_MPP, slide.info.mpp))
    places = np.argwhere(tissue.mask)
    per_px = tissue.downsample * slide.info.mpp / sampling.mpp  # px of the windows per px of the mask
    chosen = places[np.linspace(0, len(places) - 1, min(_FOCUS_WINDOWS, len(places))).astype(int)]
    judged = []
    for row, col in chosen:
        top, left = (
            int(np.clip((n + 0.5) * per_px - _FOCUS_PX / 2, 0, max(size - _FOCUS_PX, 0)))
            for n, size in zip((row, col), sampling.shape, strict=True)
        )
        height, width = (min(_FOCUS_PX, size) for size in sampling.shape)
        sharp = is_sharp(read_window(slide, sampling, top, left, height, width))
        if sharp is not None:
            judged.append(sharp)
    return 1 - sum(judged) / len(judged) if judged else None


def is_sharp(rgb: RGB) -> bool | None:
    """Whether a window uint8 (h, w, 3) at about 1 um per px is in focus; None where it has too little detail to tell."""
    ratio = fine_detail(rgb)
    return None if ratio is None else ratio > SHARP


def fine_detail(rgb: RGB) -> float | None:
    """Detail finer than 1 px per detail of 1 to 4 px (standard deviations) of a window uint8 (h, w, 3) at about 1 um per px.

    Defocus takes the fine detail first: what is sharp has more than `SHARP`. None where there is too little to tell.
    """
    light, fine, coarse = _blurred(rgb)
    detail = float((fine - coarse).std())
    return float((light - fine).std()) / detail if detail >= _PLAIN else None


def focus_map(rgb: RGB, window: int) -> NDArray[np.float32]:
    """As `fine_detail`, float32 (h, w), of the square of `window` px round each px; NaN where it has too little to tell."""
    light, fine, coarse = _blurred(rgb)

    def spread(values: NDArray[np.float32]) -> NDArray[np.float64]:
        mean, squares = (ndimage.uniform_filter(v.astype(np.float64), window) for v in (values, values**2))
        found: NDArray[np.float64] = np.sqrt(np.maximum(squares - mean**2, 0))
        return found

    detail = spread(fine - coarse)
    return np.where(detail >= _PLAIN, spread(light - fine) / np.maximum(detail, _PLAIN), np.nan).astype(np.float32)


def _blurred(rgb: RGB) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean light of a window, and the same without detail below 1 and below 4 px."""
    light = rgb.mean(axis=2, dtype=np.float32)
    fine, coarse = (ndimage.gaussian_filter(light, sigma, mode="nearest") for sigma in (1, 4))
    return light, fine, coarse
