"""Slides through OpenSlide: DICOM, MRXS, NDPI, VMS, Ventana, Philips and whatever is odd about a TIFF.

Windows are cut from chunks of whole native tiles at fixed places, so a pixel has one value whatever window asks for
it, also at levels whose downsample is not a whole number.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np
import openslide

from wsistain.errors import SlideError, shown
from wsistain.slide.base import RGB, Part, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.grid import DEFAULT_CACHE_BYTES, Grid, GridSlide, TileKey, Window, without_levels
from wsistain.slide.mpp import Found, Scale, choose_mpp, stated
from wsistain.slide.power import one_power
from wsistain.slide.pyramid import agrees, downsamples
from wsistain.slide.tiff_pages import cut_notes, no_such_series
from wsistain.slide.tiff_structure import is_tiff, opened_tiff

_CHUNK_PX = 512
"""Chunks are whole native tiles up to about this edge: wide enough that OpenSlide's cost per call vanishes."""

_UNPROVED = ("generic-tiff", "aperio")
"""Vendors of whose files OpenSlide takes any page for a level that is tiled or marked as a reduced copy."""

_SLACK = 0.05
"""How far the aspect of a level may be off: some formats pad their levels to whole tiles."""


class ViaOpenSlide(GridSlide):
    """A slide read by OpenSlide, scanned bounds applied; see `Slide` for what it does."""

    def __init__(
        self,
        path: Path,
        *,
        mpp: float | None = None,
        series: int | None = None,
        needs_mpp: bool = True,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Open `path`; options as in `open_slide`. SlideError when OpenSlide cannot read it or it has no usable mpp."""
        if series:
            raise no_such_series(str(path), series, 1)
        # The file, its scale, and the part of its canvas that was scanned.
        self._path = path
        self._handle = _open(path)
        self._repair = Lock()
        properties = self._handle.properties
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        try:
            _refuse_focal_planes(path, properties)
            scale = _scale(str(path), mpp, properties, vendor, needs_mpp)
        except SlideError:
            self._handle.close()
            raise
        y, x, sizes = _bounds(self._handle)
        self._origin = (y, x)

        # The levels that are whole pictures; ours are numbered without the others.
        self._numbers = [k for k in range(len(sizes)) if k == 0 or _is_level(sizes, k)]  # ours to OpenSlide's
        sizes = tuple(sizes[k] for k in self._numbers)
        self._native = [_native_tile(self._handle, level) for level in self._numbers]
        grids = tuple(self._grid(level, size) for level, size in enumerate(sizes))
        own = tuple(self._handle.level_downsamples[k] for k in self._numbers)

        # What is known of the slide; `downsamples` are OpenSlide's own where the bounds cut the canvas.
        info = SlideInfo(
            path=str(path),
            size_l0=sizes[0],
            mpp=scale.mpp,
            mpp_source=scale.source,
            level_sizes=sizes,
            downsamples=downsamples(sizes) if (y, x) == (0, 0) else own,
            tile_px=self._native[0] or (0, 0),
            vendor=vendor,
            reader="openslide",
            fingerprint=fingerprint(path),
            parts=_parts(self._handle, self._numbers),
            notes=(*_cut(path), *scale.notes),
            problem=scale.problem,
            power=one_power(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        )

        # Tiles that cannot be read, and levels that show something else, are found now and not in the middle of a run.
        super().__init__(info, grids, cache_bytes)
        self._refuse_if_unreadable()
        if vendor in _UNPROVED:
            kept = self._proved_levels()
            self._numbers = [self._numbers[k] for k in kept]
            self._native = [self._native[k] for k in kept]
            self._grids = tuple(self._grids[k] for k in kept)
            self.info = without_levels(self.info, kept)

    def close(self) -> None:
        """Close the file and forget its chunks."""
        self._handle.close()
        self._cache.clear()

    def _grid(self, level: int, size: tuple[int, int]) -> Grid:
        tile_h, tile_w = self._native[level] or (_CHUNK_PX, _CHUNK_PX)
        return Grid(*size, tile_h * max(1, _CHUNK_PX // tile_h), tile_w * max(1, _CHUNK_PX // tile_w))

    def _decode(self, key: TileKey, out: RGB | None) -> RGB | None:
        del out
        window = self._window_of(key)
        try:
            return self._read(self._handle, window)
        except openslide.OpenSlideError:
            return self._read_around(window)

    def _read(self, handle: openslide.OpenSlide, window: Window) -> RGB:
        level, y, x, height, width = window
        level = self._numbers[level]
        downsample = handle.level_downsamples[level]
        location = (self._origin[1] + round(x * downsample), self._origin[0] + round(y * downsample))
        return rgb_on_white(np.asarray(handle.read_region(location, level, (width, height))))

    def _read_around(self, window: Window) -> RGB | None:
        """A window by native tiles. After an error OpenSlide answers nothing more, so each failure costs a new handle."""
        with self._repair:
            self._handle = _open(self._path)

            def read(piece: Window) -> RGB:
                try:
                    return self._read(self._handle, piece)
                except openslide.OpenSlideError:
                    self._handle = _open(self._path)
                    raise

            return self._piecewise(window, self._native[window[0]] or window[3:], read, (openslide.OpenSlideError,))


def rgb_on_white(rgba: np.ndarray, *, premultiplied: bool = False) -> RGB:
    """RGB of an RGBA picture laid on white glass: uint8 (h, w, 4) -> uint8 (h, w, 3).

    premultiplied : the colours are multiplied by alpha already.
    """
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    part = alpha.astype(np.uint32)
    if premultiplied:
        return np.minimum(rgba[..., :3] + (255 - part), 255).astype(np.uint8)
    return ((rgba[..., :3] * part + 255 * (255 - part) + 127) // 255).astype(np.uint8)


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideError(
            f"{path} is not a slide that OpenSlide can read; wanted SVS, TIFF, DICOM, MRXS, NDPI ..."
        ) from None
    except openslide.OpenSlideError as error:
        if "pyramid levels" in str(error):
            raise SlideError(
                f"{path} is DICOM but no whole-slide volume image (a label, an overview or another object); "
                "name an instance of the slide itself"
            ) from None
        if "FocalPlanes" in str(error) or "unexpected image" in str(error):
            raise SlideError(
                f"{path} belongs to a DICOM series that holds a level more than once (several focal planes, or two "
                f"slides under one series); leave one plane in its folder, or export one ({shown(str(error)[:120])})"
            ) from None
        raise SlideError(f"{path} cannot be opened as a slide ({error}); copy or export it again") from None
    except OSError as error:
        raise SlideError(f"{path} cannot be opened as a slide ({error}); copy or export it again") from None


def _scale(name: str, mpp: float | None, properties: Mapping[str, str], vendor: str, needed: bool) -> Scale:
    """The um per px from what OpenSlide and the properties of the format say."""
    reader = _mpp(properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y))
    from_tags = vendor == "generic-tiff"  # OpenSlide takes these from the resolution tags alone
    others = [("its DICOM attributes", found) for found in _dicom_mpp(properties)] if vendor == "dicom" else []
    if reader is None and others:
        reader = others.pop(0)[1]
    best, tags = (None, reader) if from_tags else (reader, None)
    return choose_mpp(name, mpp, best, tags, others=tuple(others), needed=needed)


def _mpp(x: str | None, y: str | None) -> Found | None:
    try:
        return None if x is None or y is None else stated(float(y), float(x))
    except ValueError:
        return None


_SPACING = re.compile(r"dicom\..*PixelSpacing\[0\]")


def _dicom_mpp(properties: Mapping[str, str]) -> list[Found]:
    """(y, x) um per px of every pixel spacing (mm, row then column) among DICOM attributes, and of the picture's size."""
    found = [
        _mpp(properties.get(f"{key[:-3]}[1]"), value)
        for key, value in sorted(properties.items())
        if _SPACING.fullmatch(key)
    ]
    if any(one is not None for one in found):
        return [(y * 1e3, x * 1e3) for y, x in (one for one in found if one is not None)]
    sides = []
    for size, px in (("Height", "Rows"), ("Width", "Columns")):
        try:
            sides.append(
                float(properties[f"dicom.ImagedVolume{size}"]) / float(properties[f"dicom.TotalPixelMatrix{px}"])
            )
        except (KeyError, ValueError, ZeroDivisionError):
            sides.append(0.0)
    whole = stated(*sides)
    return [] if whole is None else [(whole[0] * 1e3, whole[1] * 1e3)]


def _is_level(sizes: tuple[tuple[int, int], ...], level: int) -> bool:
    """Whether a level is a reduced copy of the first by its shape, and not there twice (a focal plane of its own)."""
    return agrees(sizes[0], sizes[level], slack=_SLACK) and sizes[level] not in sizes[:level]


def _parts(handle: openslide.OpenSlide, numbers: list[int]) -> tuple[Part, ...]:
    parts = []
    for level, (width, height) in enumerate(handle.level_dimensions):
        is_used = level in numbers
        what = f"level {numbers.index(level)}" if is_used else "called a level, but of another shape or there twice"
        parts.append(Part(what, (height, width), 0 if level == 0 else None, is_used))
    for name in handle.properties:
        side = re.fullmatch(r"openslide\.associated\.(.+)\.width", name)
        if side:
            high = handle.properties.get(f"openslide.associated.{side.group(1)}.height", "0")
            parts.append(Part(side.group(1), (int(high), int(handle.properties[name]))))
    return tuple(parts)


def _refuse_focal_planes(path: Path, properties: Mapping[str, str]) -> None:
    """SlideError for a DICOM slide of several focal planes: nothing tells which of them OpenSlide shows."""
    n = properties.get("dicom.TotalPixelMatrixFocalPlanes", "1")
    if n != "1":
        raise SlideError(
            f"{path} has {shown(n[:20])} focal planes, and which of them is read is not told; export one plane"
        )


def _cut(path: Path) -> tuple[str, ...]:
    """What is missing of a TIFF beside the pages that OpenSlide needs."""
    if not is_tiff(path):
        return ()
    try:
        with opened_tiff(path) as tif:
            return cut_notes(tif, [page.aspage() for page in tif.pages], [])
    except SlideError:
        return ()


def _native_tile(handle: openslide.OpenSlide, level: int) -> tuple[int, int] | None:
    """(height, width) of the stored tiles of a level, or None where OpenSlide does not say."""
    height, width = (handle.properties.get(f"openslide.level[{level}].tile-{side}") for side in ("height", "width"))
    if height is None or width is None or int(height) <= 0 or int(width) <= 0:
        return None
    return int(height), int(width)


def _bounds(handle: openslide.OpenSlide) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """(y, x) of the scanned area at level 0 and its (height, width) at every level; the whole slide without bounds."""
    names = ("bounds-y", "bounds-x", "bounds-height", "bounds-width")
    values = [handle.properties.get(f"openslide.{name}") for name in names]
    full = tuple((h, w) for w, h in handle.level_dimensions)
    if any(value is None for value in values):
        return 0, 0, full
    y, x, height, width = (int(value) for value in values if value is not None)
    if height <= 0 or width <= 0:
        return 0, 0, full
    sizes = tuple((max(1, int(height / d)), max(1, int(width / d))) for d in handle.level_downsamples)
    return y, x, sizes
