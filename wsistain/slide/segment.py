"""Tissue, pen and unscanned areas in a thumbnail.

Brightness does not tell tissue from glass: fat is nearly white, dust, coverslip edges and shadows are dark. Colour does:
dyes absorb unevenly over red, green and blue, glass and dirt do not, and inks absorb unevenly in ways that no dye of
pathology has. So the slide's own glass colour is found first, and everything is judged by its optical density
against that glass. Nothing is learned; every threshold is stated here, in `glass` and in `ink`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide import ink
from wsistain.slide.base import RGB
from wsistain.slide.glass import glass_colour, optical_density, unscanned
from wsistain.slide.printed import printed_dots, straight_edges

_BAND_ROWS, _HALO_ROWS = 512, 4  # rows worked on in floating point at once, and what smoothing reaches beyond them

_DYE = 0.022  # spread of OD over the channels that a dye makes; scanner noise on glass is near 0.004
_DENSE, _DENSE_DYE = 0.07, 0.012  # OD above which a smaller spread counts
_COLOURED = 0.15  # spread per OD of the palest dye; shadows and glass edges have less
_FAINT = 0.010  # OD and spread of the walls of fat cells and of very pale tissue
_FAINT_UM, _FAINT_SHARE = 150.0, 0.15  # faint pixels make tissue where they cover this share of such a window
_FAINT_ROOM = 0.05  # share of the window that must be free of solid tissue to judge by
_HAZE, _HAZE_DYE, _HAZE_BLOCKS = 0.003, 0.0025, 5  # OD and spread of windows of very pale tissue, glass has a quarter
_GREY, _GREY_OD, _GREY_SHARE = 0.22, 0.05, 0.5  # spread per OD that no dyed island has in most of its pixels

_MIN_AREA_UM2 = 1200.0  # smaller islands are dust or single stray cells
_MIN_HAZE_UM2 = 100_000.0  # hazy islands without a dyed pixel are tissue from this area on
_MAX_HOLE_UM2 = 500_000.0  # larger holes enclosed by tissue are left glass,
_SPRINKLED = 0.06  # unless this share of them is faint
_CLOSE_UM = 32.0
_BLUR_PX = 2  # what smoothing makes of a printed mark beyond its edge
_EDGE_LENGTH_UM = 1500.0  # edges of a coverslip are longer, and straight:
_EDGE_SD_UM, _EDGE_SD_SHARE, _EDGE_MOST_SD_UM = 24.0, 0.01, 80.0  # standard deviation across, more where they are long

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Segmented:
    """What a thumbnail shows, bool (h, w) each.

    tissue    : where there is tissue.
    pen       : where ink of a felt-tip pen is, on tissue and on glass.
    inked     : tissue under ink.
    unscanned : pure black that no scanner saw.
    """

    tissue: Mask
    pen: Mask
    inked: Mask
    unscanned: Mask


def segment(rgb: RGB, mpp: float) -> Mask:
    """bool (h, w): tissue in a thumbnail uint8 (h, w, 3) of `mpp` um per px."""
    return segment_all(rgb, mpp).tissue


def segment_all(rgb: RGB, mpp: float) -> Segmented:
    """Tissue, pen and what was not scanned in a thumbnail uint8 (h, w, 3) of `mpp` um per px."""
    # Maps of dye and of pen colours, in bands, since they are worked out in floating point.
    glass, black = glass_colour(rgb), unscanned(rgb, mpp)
    maps = [np.zeros(rgb.shape[:2], bool) for _ in range(4)]
    colours = [np.zeros(rgb.shape[:2], np.uint8) for _ in range(2)]
    for top in range(0, rgb.shape[0], _BAND_ROWS):
        start, stop = max(top - _HALO_ROWS, 0), top + _BAND_ROWS
        od = optical_density(rgb[start : stop + _HALO_ROWS], glass)
        for whole, part in zip((*maps, *colours), (*_dye_maps(od), *ink.ink_colours(od)), strict=True):
            whole[top:stop] = part[top - start : top - start + _BAND_ROWS]
    # What was not scanned is black, not dark tissue.
    for whole in (*maps, *colours):
        whole[black] = 0
    dyed, faint_light, faint_dye, grey = maps
    made = _printed(dyed | grey, mpp)
    for part in maps:
        part[made] = False
    dull = _dull(grey, dyed)
    for part in (dyed, faint_light, faint_dye):
        part[dull] = False
    certain_ink, pale_ink = ink.sort_out_stains(colours[0], colours[1])
    pen = ink.strokes(certain_ink, pale_ink, mpp) | ink.faint(rgb, glass, black | made, mpp)
    on_tissue = ink.on_tissue(pen, dyed, mpp)
    on_glass = pen & ~on_tissue
    tinted = ink.fringe(on_glass, mpp) & ~on_tissue
    dyed = (dyed & ~on_glass & ~(tinted & pale_ink)) | on_tissue
    haze = _haze(rgb, glass, dyed, tinted | black | made, mpp)
    tissue = _solid(dyed, faint_light & ~tinted, faint_dye & ~tinted, haze, grey, on_glass | black, mpp)
    return Segmented(tissue, pen, on_tissue & tissue, black)


def _printed(marks: Mask, mpp: float) -> Mask:
    """Printed dots and edges of a coverslip, with the blurred px round them."""
    made = printed_dots(marks, mpp)
    made |= straight_edges(marks & ~made, mpp)
    found: Mask = ndimage.binary_dilation(made, iterations=_BLUR_PX) if made.any() else made
    return found


def _dye_maps(od: F32) -> tuple[Mask, Mask, Mask, Mask]:
    """Where a dye is; where light is faintly absorbed; where it is faintly coloured; where it is absorbed in grey."""
    mean = od.mean(axis=2)
    spread = od.max(axis=2) - od.min(axis=2)
    coloured = spread > _COLOURED * mean
    dyed = coloured & (mean > 0.01) & ((spread > _DYE) | ((mean > _DENSE) & (spread > _DENSE_DYE)))
    return dyed, mean > _FAINT, spread > _FAINT, (mean > _GREY_OD) & (spread < _GREY * mean)


def _dull(grey: Mask, dyed: Mask) -> Mask:
    """Where most of what absorbs light is grey: the edge of a coverslip where tissue touches it."""
    of_grey, of_dye = (ndimage.uniform_filter(part.astype(np.float32), 5) for part in (grey, dyed & ~grey))
    found: Mask = of_grey > 3 * of_dye
    return found


def _haze(rgb: RGB, glass: F32, dyed: Mask, barred: Mask, mpp: float) -> Mask:
    """Very pale tissue: windows of glass-like pixels that are of the colour of a dye on the whole, though none is surely.

    Averages over windows of 160 um outside dyed pixels, on a grid of about 32 um.
    """
    step = max(1, round(_CLOSE_UM / mpp))
    h, w = (-(-n // step) for n in dyed.shape)
    apart = max(1, round(_CLOSE_UM / mpp / 2))
    free = ~(ndimage.binary_dilation(dyed, np.ones((3, 3)), apart) | barred)
    padding = ((0, h * step - dyed.shape[0]), (0, w * step - dyed.shape[1]))
    blocks = np.pad(free, padding).reshape(h, step, w, step)
    weight = blocks.sum(axis=(1, 3), dtype=np.float32)
    room = ndimage.uniform_filter(weight, _HAZE_BLOCKS, mode="nearest")
    od = np.empty((h, w, 3), np.float32)
    for c in range(3):
        light = np.pad(rgb[..., c], padding).reshape(h, step, w, step)
        total = np.sum(light, axis=(1, 3), where=blocks, dtype=np.float32)
        total = ndimage.uniform_filter(total, _HAZE_BLOCKS, mode="nearest")
        od[..., c] = -np.log10(np.maximum(total, 1e-6) / np.maximum(room, 1e-6) / glass[c])
    mean, spread = od.mean(axis=2), od.max(axis=2) - od.min(axis=2)
    hazy = (mean > _HAZE) & (spread > _HAZE_DYE) & (spread > _GREY * mean) & (od[..., 2] < od[..., :2].max(axis=2))
    hazy &= room > _FAINT_ROOM * step * step
    found: Mask = np.repeat(np.repeat(hazy, step, axis=0), step, axis=1)[: dyed.shape[0], : dyed.shape[1]]
    return found


def _solid(dyed: Mask, faint_light: Mask, faint_dye: Mask, haze: Mask, grey: Mask, barred: Mask, mpp: float) -> Mask:
    """Dyed pixels closed over fat and lumens, and the faint tissue between, without specks and edges of glass.

    barred : ink on glass and what was not scanned; never tissue.
    """
    radius = _CLOSE_UM / mpp
    tissue = dyed
    if radius >= 1:
        tissue = _closed(tissue, _disc(radius)) & ~barred
    tissue |= _faint(faint_light, faint_dye, haze, tissue, mpp) & ~barred
    tissue &= ~_specks_and_edges(tissue, dyed, haze, grey, mpp)
    return (tissue | _holes(tissue, _MAX_HOLE_UM2 / mpp**2, faint_light)) & ~barred


def _specks_and_edges(tissue: Mask, dyed: Mask, haze: Mask, grey: Mask, mpp: float) -> Mask:
    """The islands that are too small, hardly dyed, or mostly grey, like the edge of a coverslip and printed marks."""
    labels, n = ndimage.label(tissue, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=n + 1) * mpp**2
    sure = np.bincount(labels.ravel(), weights=dyed.ravel(), minlength=n + 1) * mpp**2
    dull = np.bincount(labels.ravel(), weights=grey.ravel(), minlength=n + 1) * mpp**2
    either = np.bincount(labels.ravel(), weights=(dyed | grey).ravel(), minlength=n + 1) * mpp**2
    hazy = np.bincount(labels.ravel(), weights=haze.ravel(), minlength=n + 1) * mpp**2
    unsure = (sure < _MIN_AREA_UM2 / 4) & (hazy < _MIN_HAZE_UM2)
    unwanted = (areas < _MIN_AREA_UM2) | unsure | (dull > _GREY_SHARE * either)
    unwanted |= _straight_edges(labels, n, mpp)
    unwanted[0] = False
    return unwanted[labels]


def _straight_edges(labels: NDArray[np.integer], n: int, mpp: float) -> Mask:
    """bool (n + 1,): the islands that run from the border as a line, long, thin and straight: edges of a coverslip."""
    found = np.zeros(n + 1, bool)
    at_border = set(_border(labels).tolist())
    areas = np.bincount(labels.ravel(), minlength=n + 1) * mpp**2
    for i, box in enumerate(ndimage.find_objects(labels), 1):
        length = max(part.stop - part.start for part in box) * mpp
        if i not in at_border or length < _EDGE_LENGTH_UM or areas[i] > 4 * _EDGE_MOST_SD_UM * length:
            continue  # an even band is sqrt(12) standard deviations wide
        corners = np.argwhere(labels[box] == i).astype(np.float64) * mpp
        narrow = np.sqrt(max(float(np.linalg.eigvalsh(np.cov(corners.T))[0]), 0.0))
        found[i] = narrow < max(_EDGE_SD_UM, min(_EDGE_SD_SHARE * length, _EDGE_MOST_SD_UM))
    return found


def _faint(light: Mask, dye: Mask, haze: Mask, tissue: Mask, mpp: float) -> Mask:
    """Where faint pixels are dense outside solid tissue, as in fat, or all is hazy; shrunk by what the window reaches beyond it.

    Solid tissue is left out of the count, or every glass edge beside it would be taken for faint tissue.
    """
    window = max(3, int(_FAINT_UM / mpp) | 1)
    n = max(1, round(_CLOSE_UM / mpp))
    solid = ndimage.binary_erosion(tissue, iterations=n, border_value=1)
    free = ~ndimage.binary_dilation(solid, np.ones((3, 3), bool), n + 2)
    room = ndimage.uniform_filter(free.astype(np.float32), window, mode="nearest")
    dense = room > _FAINT_ROOM
    for part in (light, dye):
        share = ndimage.uniform_filter((part & free).astype(np.float32), window, mode="nearest")
        dense &= share > _FAINT_SHARE * room
    dense |= tissue | haze
    dense |= _holes(dense, _MAX_HOLE_UM2 / mpp**2, light)
    return ndimage.binary_erosion(dense, np.ones((3, 3), bool), max(1, window // 3), border_value=1)


def _disc(radius_px: float) -> Mask:
    n = int(radius_px)
    y, x = np.ogrid[-n : n + 1, -n : n + 1]
    return (y * y + x * x <= (radius_px + 0.5) ** 2).astype(bool)


def _closed(mask: Mask, element: Mask) -> Mask:
    """Closing as if the picture went on as it ends, so that tissue cut by the border stays whole."""
    n = element.shape[0] // 2
    padded = np.pad(mask, n, mode="edge")
    return ndimage.binary_closing(padded, element)[n:-n, n:-n]


def _holes(mask: Mask, max_px: float, faint: Mask) -> Mask:
    """The holes of a mask up to a size, and larger ones sprinkled with faint pixels: fat cells far apart.

    What is open to the border is no hole.
    """
    labels, n = ndimage.label(~mask)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sprinkled = np.bincount(labels.ravel(), weights=faint.ravel(), minlength=n + 1)
    inner = (sizes <= max_px) | (sprinkled > _SPRINKLED * sizes)
    inner[0] = False
    inner[_border(labels)] = False
    return inner[labels]


def _border(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
