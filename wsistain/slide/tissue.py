"""Where there is tissue on a slide: a mask from a thumbnail of about 8 um per px.

Brightness does not tell tissue from glass: fat is nearly white, dust, coverslip edges and shadows are dark. Colour does:
dyes absorb unevenly over red, green and blue, glass and dirt do not, and inks absorb unevenly in ways that no dye of
pathology has. So the slide's own glass colour is found first, and everything is judged by its optical density
against that glass.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.slide.base import RGB, Slide, SlideInfo
from wsistain.slide.resample import choose_sampling, read_window

THUMBNAIL_MPP = 8.0
"""um per px of the thumbnail: a cell is one pixel, a fat cell six to twelve."""

MAX_THUMBNAIL_PX = 12_000_000
"""The thumbnail is coarser than 8 um on slides over 770 mm2, so that it never has more pixels than this."""

_BAND_ROWS, _HALO_ROWS = 512, 4  # rows worked on in floating point at once, and what smoothing reaches beyond them

_GLASS_CHROMA = 0.08  # (max - min) / max of a colour that may be glass; scanners tint it by up to 0.04
_GLASS_STEP = 8.0  # grey levels within 3 x 3 px on flat glass
_GLASS_SHARE = 0.004  # less flat neutral area than this is not taken for glass
_WHITE = 240.0  # glass where a picture shows none

_DYE = 0.022  # spread of OD over the channels that a dye makes; scanner noise on glass is near 0.004
_DENSE, _DENSE_DYE = 0.07, 0.012  # OD above which a smaller spread counts
_COLOURED = 0.15  # spread per OD of the palest dye; shadows and glass edges have less
_FAINT = 0.010  # OD and spread of the walls of fat cells and of very pale tissue
_FAINT_UM, _FAINT_SHARE = 150.0, 0.15  # faint pixels make tissue where they cover this share of such a window
_FAINT_ROOM = 0.05  # share of the window that must be free of solid tissue to judge by

_MIN_AREA_UM2 = 3000.0  # smaller islands are dust or single stray cells
_MAX_HOLE_UM2 = 500_000.0  # larger holes enclosed by tissue are left glass,
_SPRINKLED = 0.06  # unless this share of them is faint
_CLOSE_UM = 32.0
_EDGE_UM, _BORDER_EDGE_UM, _EDGE_LENGTH_UM = 48.0, 160.0, 1500.0  # thinner (at the border) and longer: edges of glass
_PEN_FRINGE_UM = 32.0  # ink thins out at its edge and tints the glass
_PEN_WINDOW_UM, _PEN_ON_TISSUE = 300.0, 0.7  # ink lies on tissue where this share of what is near it is dyed

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TissueMask:
    """Tissue as a mask over the whole slide.

    mask       : bool (h, w), True where there is tissue.
    downsample : level-0 px per mask px; mask px (i, j) covers level-0 rows i * downsample .. (i + 1) * downsample.
    """

    mask: NDArray[np.bool_]
    downsample: float

    @cached_property
    def _integral(self) -> NDArray[np.int64]:
        table = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(np.cumsum(self.mask, axis=0), axis=1, out=table[1:, 1:])
        return table

    @property
    def share(self) -> float:
        """Part of the slide that is tissue, 0..1."""
        return float(self.mask.mean()) if self.mask.size else 0.0

    def covers(self, y0: float, x0: float, height: float, width: float) -> bool:
        """Whether any tissue pixel touches a window in level-0 px; what lies outside the slide is glass."""
        h, w = self.mask.shape
        top, left = (max(0, int(np.floor(v / self.downsample))) for v in (y0, x0))
        bottom = min(h, int(np.ceil((y0 + height) / self.downsample)))
        right = min(w, int(np.ceil((x0 + width) / self.downsample)))
        if bottom <= top or right <= left:
            return False
        t = self._integral
        return bool(t[bottom, right] - t[top, right] - t[bottom, left] + t[top, left] > 0)

    def window(self, y: int, x: int, height: int, width: int, *, px_l0: float = 1.0) -> NDArray[np.bool_]:
        """The mask at every pixel of a window, bool (height, width); `px_l0`: level-0 px of a pixel of the window's frame."""
        h, w = self.mask.shape
        rows = np.minimum(((np.arange(y, y + height) + 0.5) * px_l0 / self.downsample).astype(int), h - 1)
        cols = np.minimum(((np.arange(x, x + width) + 0.5) * px_l0 / self.downsample).astype(int), w - 1)
        return self.mask[np.ix_(rows, cols)]

    def dilated(self, px_l0: float) -> "TissueMask":
        """The mask grown by `px_l0` level-0 px in every direction (rounded up to whole mask px)."""
        n = int(np.ceil(px_l0 / self.downsample))
        if n <= 0:
            return self
        return TissueMask(ndimage.maximum_filter(self.mask, size=2 * n + 1, mode="constant", cval=0), self.downsample)

    @classmethod
    def everywhere(cls, info: SlideInfo) -> "TissueMask":
        """A mask that takes the whole slide for tissue (`--all-tiles`)."""
        downsample = max(1.0, THUMBNAIL_MPP / info.mpp)
        height, width = (int(np.ceil(n / downsample)) for n in info.size_l0)
        return cls(np.ones((height, width), bool), downsample)


def find_tissue(slide: Slide) -> TissueMask:
    """Where a slide has tissue, at about 8 um per px; pen, dust, coverslip edges and empty glass are left out.

    Fat, very pale tissue and holes below 0.5 mm2 enclosed by tissue count as tissue. Slides coarser than 8 um are judged
    at their own mpp. Memory is bounded by a thumbnail of at most 12 MP. Nothing is learned; every threshold is
    stated in this module.
    """
    info = slide.info
    area_um2 = float(info.size_l0[0]) * info.size_l0[1] * info.mpp**2
    mpp = max(THUMBNAIL_MPP, info.mpp, float(np.sqrt(area_um2 / MAX_THUMBNAIL_PX)))
    sampling = choose_sampling(info, mpp)
    thumbnail = read_window(slide, sampling, 0, 0, *sampling.shape)
    return TissueMask(segment(thumbnail, sampling.mpp), sampling.mpp / info.mpp)


def segment(rgb: RGB, mpp: float) -> Mask:
    """bool (h, w): tissue in a thumbnail uint8 (h, w, 3) of `mpp` um per px."""
    glass = glass_colour(rgb)
    dyed, faint_light, faint_dye, pen = (np.zeros(rgb.shape[:2], bool) for _ in range(4))
    for top in range(0, rgb.shape[0], _BAND_ROWS):
        start, stop = max(top - _HALO_ROWS, 0), top + _BAND_ROWS
        maps = _colour_maps(optical_density(rgb[start : stop + _HALO_ROWS], glass))
        for whole, part in zip((dyed, faint_light, faint_dye, pen), maps, strict=True):
            whole[top:stop] = part[top - start : top - start + _BAND_ROWS]
    pen = ndimage.binary_dilation(ndimage.binary_opening(pen), iterations=2)
    dyed &= ~pen
    on_tissue = _pen_on_tissue(pen, dyed, mpp)
    dyed, pen = dyed | on_tissue, pen & ~on_tissue
    clear = ~ndimage.binary_dilation(pen, iterations=max(1, round(_PEN_FRINGE_UM / mpp)))
    return _solid(dyed, faint_light & clear, faint_dye & clear, pen, mpp)


def glass_colour(rgb: RGB) -> F32:
    """float (3,): the colour of empty glass, the brightest frequent colour that is flat and nearly neutral.

    Unscanned white (255) is glass only where there is no other. Where a picture shows no glass, 240 in every channel.
    """
    light = rgb.mean(axis=2, dtype=np.float32)
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    flat = ndimage.maximum_filter(light, 3) - ndimage.minimum_filter(light, 3) < _GLASS_STEP
    neutral = (high - low) < _GLASS_CHROMA * high
    maybe = flat & neutral & (low < 255)
    scanned = int(np.count_nonzero(low < 255))
    if np.count_nonzero(maybe) < max(_GLASS_SHARE * scanned, 4):
        return np.full(3, 255.0 if scanned < (1 - _GLASS_SHARE) * low.size else _WHITE, np.float32)
    counts = np.convolve(np.bincount(light[maybe].astype(np.intp), minlength=256), np.ones(5), "same")
    brightest = int(np.flatnonzero(counts > 0.2 * counts.max())[-1])
    start = max(brightest - 4, 0)
    peak = start + int(np.argmax(counts[start : brightest + 1]))
    near = maybe & (np.abs(light - peak) < 5)
    colour: F32 = rgb[near].mean(axis=0, dtype=np.float64).astype(np.float32)
    return colour


def optical_density(rgb: RGB, glass: F32) -> F32:
    """float32 (h, w, 3): -log10(light / glass) of a lightly smoothed thumbnail; 0 on glass."""
    od: F32 = ndimage.gaussian_filter(rgb.astype(np.float32), (0.7, 0.7, 0), mode="nearest", truncate=4)
    np.log10(np.maximum(od, 1) / glass, out=od)
    np.negative(od, out=od)
    return od


def _colour_maps(od: F32) -> tuple[Mask, Mask, Mask, Mask]:
    """Where a dye is; where light is faintly absorbed; where it is faintly coloured; where felt-tip ink is.

    Haematoxylin, eosin and DAB absorb green about as much as red or more, and some blue. Green and blue inks do not;
    red ink absorbs blue like green but hardly red; black ink is dark in every channel.
    """
    mean = od.mean(axis=2)
    spread = od.max(axis=2) - od.min(axis=2)
    coloured = spread > _COLOURED * mean
    dyed = coloured & (mean > 0.01) & ((spread > _DYE) | ((mean > _DENSE) & (spread > _DENSE_DYE)))
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    green_ink = (red > 0.15) & (green < 0.62 * red)
    blue_ink = (red > 0.3) & (blue < 0.2 * red)
    red_ink = (green > 0.35) & (red < 0.3 * green) & (blue > 0.65 * green)
    black_ink = (mean > 0.5) & (spread < 0.18 * mean)
    return dyed, mean > _FAINT, spread > _FAINT, green_ink | blue_ink | red_ink | black_ink


def _pen_on_tissue(pen: Mask, dyed: Mask, mpp: float) -> Mask:
    """Where ink lies on tissue: what is not ink around it is mostly dyed. An outline has glass on one side."""
    window = max(3, int(_PEN_WINDOW_UM / mpp) | 1)
    free, on_dye = (ndimage.uniform_filter(part.astype(np.float32), window, mode="nearest") for part in (~pen, dyed))
    return pen & (on_dye > _PEN_ON_TISSUE * free) & (free > 0)


def _solid(dyed: Mask, faint_light: Mask, faint_dye: Mask, pen: Mask, mpp: float) -> Mask:
    """Dyed pixels closed over fat and lumens, and the faint tissue between, without specks and edges of glass."""
    radius = _CLOSE_UM / mpp
    tissue = dyed
    if radius >= 1:
        tissue = _closed(tissue, _disc(radius)) & ~pen
    tissue |= _faint(faint_light, faint_dye, tissue, mpp) & ~pen
    tissue &= ~_specks_and_edges(tissue, dyed, mpp)
    return tissue | _holes(tissue, _MAX_HOLE_UM2 / mpp**2, faint_light)


def _specks_and_edges(tissue: Mask, dyed: Mask, mpp: float) -> Mask:
    """The islands that are too small, hardly dyed, or long and thin like the edge of a coverslip."""
    labels, n = ndimage.label(tissue, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=n + 1) * mpp**2
    sure = np.bincount(labels.ravel(), weights=dyed.ravel(), minlength=n + 1) * mpp**2
    unwanted = (areas < _MIN_AREA_UM2) | (sure < _MIN_AREA_UM2 / 4)
    long = np.zeros(n + 1, bool)
    for i, box in enumerate(ndimage.find_objects(labels), 1):
        long[i] = max(part.stop - part.start for part in box) * mpp > _EDGE_LENGTH_UM
    at_border = np.isin(np.arange(n + 1), _border(labels))
    for thickness, asked in ((_EDGE_UM, long), (_BORDER_EDGE_UM, long & at_border)):
        core = ndimage.binary_erosion(tissue, iterations=max(1, round(thickness / mpp / 2)))
        unwanted |= asked & (np.bincount(labels[core], minlength=n + 1) == 0)
    unwanted[0] = False
    return unwanted[labels]


def _faint(light: Mask, dye: Mask, tissue: Mask, mpp: float) -> Mask:
    """Where faint pixels are dense outside solid tissue, as in fat; shrunk by what the window reaches beyond it.

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
    dense |= tissue
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
