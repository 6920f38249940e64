"""Felt-tip ink on a slide: where it is, and whether there is tissue beneath it.

Haematoxylin, eosin and DAB absorb green about as much as red or more, and some blue. Green and blue inks do not; red ink
absorbs blue like green but hardly red; black ink is dark in every channel. Thin ink is pale, and pale red ink is as pink
as muscle: only beside ink that is certain, pale ink is taken for ink as well.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide.base import RGB

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Colours = NDArray[np.uint8]

RED, GREEN, BLUE, BLACK = 1, 2, 4, 8
_STAIN_SHARE = 0.3  # a colour that covers more of the picture is a stain (toluidine blue, picrosirius red), not a pen

_BLACK_SPREAD = 0.33  # spread of OD per OD of black ink, on tissue too; tissue by itself has over 0.5
_GROW_UM, _CLOSE_UM = 96.0, 40.0  # pale ink reaches so far from certain ink; streaks of one stroke lie so close
_FRINGE_UM = 32.0  # ink thins out at its edge and tints the glass
_MIN_AREA_UM2 = 600.0  # less is a blood cell or a crystal
_BLOCK_UM, _FAINT, _MOST_FAINT = 24.0, 0.02, 0.12  # blocks averaged; optical density from and up to which ink is faint
_MIN_FAINT_UM2, _ALL_ROUND = 30_000.0, 0.7  # area; share of what lies round it that is glass
_AROUND_UM = 160.0  # width of the window that tells what lies beside a stroke


def ink_colours(od: F32) -> tuple[Colours, Colours]:
    """Which inks a colour certainly is, and which it may be: uint8 (h, w) of bits RED to BLACK, for OD float32 (h, w, 3)."""
    mean = od.mean(axis=2)
    spread = od.max(axis=2) - od.min(axis=2)
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    over = np.clip(blue - 0.64 * green, 0, 0.3 * green)  # the more blue ink absorbs, the less it can be eosin
    is_black = (mean > 0.45) & (spread < _BLACK_SPREAD * mean) & (od.min(axis=2) > 0.25)
    certain = (
        ((green > 0.12) & (blue > 0.63 * green) & (red < 0.12 * green + 0.6 * over), RED),
        ((green > 0.06) & (blue > 0.75 * green) & (red < 0.15 * green), RED),
        ((green > 0.25) & (blue > 0.70 * green) & (red < 0.28 * green), RED),  # over tissue
        ((red > 0.15) & (green < 0.62 * red), GREEN),
        ((red > 0.07) & (green < 0.5 * red), GREEN),
        ((red > 0.3) & (blue < 0.2 * red), BLUE),
        ((red > 0.09) & (blue < 0.2 * red) & (green < 0.75 * red), BLUE),
        (is_black, BLACK),
    )
    pale = (
        ((green > 0.025) & (blue > 0.55 * green) & (red < 0.2 * green + 0.6 * over), RED),
        ((red > 0.03) & (green < 0.7 * red), GREEN),
        ((red > 0.06) & (blue < 0.35 * red), BLUE),
        (is_black, BLACK),
    )
    return _bits(certain), _bits(pale)


def _bits(masks: Sequence[tuple[Mask, int]]) -> Colours:
    flags: Colours = np.zeros(masks[0][0].shape, np.uint8)
    for mask, bit in masks:
        flags[mask] |= bit
    return flags


def sort_out_stains(certain: Colours, pale: Colours) -> tuple[Mask, Mask]:
    """Where ink is certain and where it may be, bool (h, w) each, without colours that are the stain of the slide."""
    kept = sum(bit for bit in (RED, GREEN, BLUE, BLACK) if np.mean(certain & bit > 0) <= _STAIN_SHARE)
    return certain & kept > 0, pale & kept > 0


def faint(rgb: RGB, glass: F32, barred: Mask, mpp: float) -> Mask:
    """Pale ink without any that is certain by its px, bool (h, w): of the colour of an ink on the average of some 80 um.

    One px of pale ink is as uncertain as scanner noise makes it; of a window that is as pale, the colour is known.
    """
    step = max(1, round(_BLOCK_UM / mpp))
    h, w = (-(-n // step) for n in barred.shape)
    edges = [np.arange(0, n, step) for n in barred.shape]
    counts = np.outer(*(np.diff([*edge, n]) for edge, n in zip(edges, barred.shape, strict=True)))
    od = np.empty((h, w, 3), np.float32)
    for c in range(3):
        light = np.add.reduceat(rgb[..., c], edges[0], axis=0, dtype=np.float32)
        light = np.add.reduceat(light, edges[1], axis=1) / counts
        od[..., c] = -np.log10(np.maximum(ndimage.uniform_filter(light, 3, mode="nearest"), 1) / glass[c])
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    inked = (green > _FAINT) & (blue > 0.75 * green) & (red < 0.12 * green)
    inked |= (red > _FAINT) & (green < 0.55 * red)
    inked |= (red > _FAINT) & (blue < 0.2 * red) & (green < 0.75 * red)
    inked &= (od.mean(axis=2) < _MOST_FAINT) & (od.min(axis=2) > -_FAINT / 2)
    labels, n = ndimage.label(inked, np.ones((3, 3)))
    near, far = (ndimage.maximum_filter(labels, size) for size in (5, 11))
    around = np.where(near > 0, 0, far)  # two to five blocks away
    sides = np.bincount(around.ravel(), minlength=n + 1)
    clear = np.bincount(around.ravel(), weights=(np.abs(od).max(axis=2) < _FAINT / 2).ravel(), minlength=n + 1)
    large = np.bincount(labels.ravel(), minlength=n + 1) * (step * mpp) ** 2 >= _MIN_FAINT_UM2
    large &= clear > _ALL_ROUND * sides
    large[0] = False
    inked = ndimage.binary_dilation(large[labels], np.ones((3, 3)))
    found: Mask = (
        np.repeat(np.repeat(inked, step, axis=0), step, axis=1)[: barred.shape[0], : barred.shape[1]] & ~barred
    )
    return found if found.mean() <= _STAIN_SHARE else np.zeros_like(found)


def strokes(certain: Mask, pale: Mask, mpp: float) -> Mask:
    """the strokes of a pen, bool (h, w): certain ink but for specks, and the pale ink and the gaps beside it."""
    labels, n = ndimage.label(certain, np.ones((3, 3)))
    seeds = (np.bincount(labels.ravel(), minlength=n + 1) * mpp**2 >= _MIN_AREA_UM2)[labels] & certain
    if not seeds.any():
        return seeds
    near = ndimage.distance_transform_edt(~seeds) <= _GROW_UM / mpp
    ink = seeds | (pale & near)
    radius = max(1, round(_CLOSE_UM / mpp / 2))
    padded = np.pad(ink, radius, mode="edge")
    closed = ndimage.binary_closing(padded, np.ones((2 * radius + 1, 2 * radius + 1)))[radius:-radius, radius:-radius]
    found: Mask = ndimage.binary_dilation(closed, iterations=2)
    return found


def on_tissue(ink: Mask, dyed: Mask, mpp: float) -> Mask:
    """Where ink lies on tissue: what the ink does not tint is mostly dyed where one leaves it up, down, left and right.

    An outline drawn along the edge of tissue has glass on one side, a bar at the border of the picture nothing: both
    are not on tissue.
    """
    if not ink.any():
        return ink
    tinted = fringe(ink, mpp)
    window = max(3, int(_AROUND_UM / mpp) | 1)
    free = ndimage.uniform_filter((~tinted).astype(np.float32), window, mode="nearest")
    on_dye = ndimage.uniform_filter((dyed & ~tinted).astype(np.float32), window, mode="nearest")
    sides = np.where(tinted, 0, np.where(on_dye > 0.6 * free, 1, -2)).astype(np.int8)  # glass outweighs tissue
    votes, n_dyed = np.zeros(ink.shape, np.float32), np.zeros(ink.shape, np.int8)
    for axis in (0, 1):
        for step in (1, -1):
            seen, distance = _first_seen(sides, axis, step)
            votes += seen / distance  # a stroke across tissue has tissue near on both sides, and glass far at its ends
            n_dyed += seen > 0
    window = max(3, int(_CLOSE_UM / mpp) | 1)
    votes = ndimage.uniform_filter(votes, window, mode="nearest")
    found: Mask = ink & (votes > 0) & (n_dyed > 1)
    return found


def _first_seen(values: NDArray[np.int8], axis: int, step: int) -> tuple[NDArray[np.int8], F32]:
    """For each pixel the last value other than 0 on the way to it along `axis`, in steps of 1 or -1, and how far it is.

    0 and 1 px where there is none.
    """
    way = np.moveaxis(values, axis, 1)[:, ::step]
    here = np.arange(1, way.shape[1] + 1, dtype=np.int32)
    place = np.where(way != 0, here, 0)
    np.maximum.accumulate(place, axis=1, out=place)
    seen = np.where(place > 0, np.take_along_axis(way, np.maximum(place - 1, 0), axis=1), 0).astype(np.int8)
    distance = np.maximum(np.where(place > 0, here - place, 1), 1).astype(np.float32)
    return np.moveaxis(seen[:, ::step], 1, axis), np.moveaxis(distance[:, ::step], 1, axis)


def fringe(ink: Mask, mpp: float) -> Mask:
    """Ink and the glass that it tints."""
    found: Mask = ndimage.binary_dilation(ink, iterations=max(1, round(_FRINGE_UM / mpp)))
    return found
