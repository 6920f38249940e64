"""What spoils tissue on a slide before any stain is computed: pen over it, folds, and parts out of focus."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide.base import RGB, Slide
from wsistain.slide.glass import glass_colour, optical_density
from wsistain.slide.resample import choose_sampling, read_window
from wsistain.slide.segment import segment_all
from wsistain.slide.tissue import TissueMask, read_thumbnail

Mask = NDArray[np.bool_]

_MIN_INK_UM2, _MIN_FOLD_UM2 = 2_500.0, 5_000.0
_FOLD = 1.6  # folded tissue absorbs so many times what three quarters of the tissue stay below, in every channel,
_FOLD_OD = 0.4  # and at least this

FOCUS_MPP, _COARSEST_MPP = 1.0, 1.5  # um per px at which focus is judged; coarser slides do not show it
_FOCUS_WINDOWS, _FOCUS_PX = 24, 128
_SHARP = (
    0.25  # detail below 1 px per detail from 1 to 4 px: sharp slides have 0.43 to 1.2, blurred by 2 um 0.15 to 0.22
)
_PLAIN = 3.0  # grey levels of such detail that there must be to judge by


@dataclass(frozen=True)
class Quality:
    """What spoils the tissue of a slide.

    pen          : share of the tissue's area under ink, 0..1; pen_mm2 the area.
    fold         : share of the tissue's area that is folded, 0..1: dark and wide folds, fine ones are not seen at 8 um.
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
    """

    tissue: TissueMask
    quality: Quality
    unscanned: TissueMask | None


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
    return Examined(mask, Quality(n_ink / area, n_ink * mpp**2 / 1e6, int(fold.sum()) / area, focus), black)


def _islands(mask: Mask, least_px: float) -> Mask:
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(labels.ravel(), minlength=n + 1) >= least_px
    large[0] = False
    return large[labels]


def folds(rgb: RGB, tissue: Mask, mpp: float) -> Mask:
    """bool (h, w): folded tissue in a thumbnail uint8 (h, w, 3): two layers absorb twice as much of every colour."""
    found = np.zeros(tissue.shape, bool)
    rows = np.flatnonzero(tissue.any(axis=1))
    if not rows.size:
        return found
    # Optical density in bands, with a few rows more for what smooths it.
    glass = glass_colour(rgb)
    mean, least = (np.empty(tissue.shape, np.float32) for _ in range(2))
    for top in range(0, tissue.shape[0], 512):
        start, stop = max(top - 4, 0), top + 512
        od = optical_density(rgb[start : stop + 4], glass)[top - start : top - start + 512]
        mean[top:stop], least[top:stop] = od.mean(axis=2), od.min(axis=2)
    # A fold is dark beside the slide's own tissue, in every channel.
    dense = tissue & (mean > 0.05)
    if not dense.any():
        return found
    high, low = (float(np.percentile(values[dense], 75)) for values in (mean, least))
    dark = dense & (mean > max(_FOLD * high, _FOLD_OD)) & (least > _FOLD * low)
    return _islands(ndimage.binary_opening(dark), _MIN_FOLD_UM2 / mpp**2)


def _out_of_focus(slide: Slide, tissue: TissueMask) -> float | None:
    """Share of windows on tissue that are not sharp, at 1 um per px; windows are spread evenly over the tissue."""
    if slide.info.mpp > _COARSEST_MPP:
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
    """Whether a window uint8 (h, w, 3) at about 1 um per px is in focus; None where it has too little detail to tell.

    Compares detail finer than 1 px (standard deviation) with detail of 1 to 4 px. Defocus takes the fine detail first.
    """
    light = rgb.mean(axis=2, dtype=np.float32)
    fine, coarse = (ndimage.gaussian_filter(light, sigma, mode="nearest") for sigma in (1, 4))
    detail = float((fine - coarse).std())
    if detail < _PLAIN:
        return None
    return bool(float((light - fine).std()) > _SHARP * detail)
