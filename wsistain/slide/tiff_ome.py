"""Which picture, channels, plane and time of an OME-TIFF are the slide."""

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import tifffile

from wsistain.errors import SlideError
from wsistain.slide.base import Part
from wsistain.slide.pyramid import agrees, finest
from wsistain.slide.tiff_codes import COLOUR
from wsistain.slide.tiff_pages import (
    Choice,
    UnsupportedTiffError,
    cut_notes,
    no_such_series,
    refuse_other_depth,
    refuse_other_pixels,
)
from wsistain.slide.tiff_scale import described_mpp, ome_mpp

NO_SLIDE = re.compile(r"\b(label|macro|overview|thumbnail|localizer|mask)\b", re.IGNORECASE)
"""Words in the name of a picture of an OME file that say that it is not the slide itself."""

_COLOURS = (("r", "red"), ("g", "green"), ("b", "blue"))


@dataclass(frozen=True)
class _Image:
    """One Image of the OME-XML and the pages that hold it."""

    number: int
    name: str
    series: tifffile.TiffPageSeries
    element: ElementTree.Element | None

    @property
    def size(self) -> tuple[int, int]:
        return int(self.series.keyframe.imagelength), int(self.series.keyframe.imagewidth)

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes beside those within a page."""
        own = len(self.series.keyframe.shape)
        axes, shape = self.series.axes, self.series.shape
        kept = [(a, int(n)) for a, n in zip(axes, shape, strict=False)]
        return dict(kept[: len(kept) - own] if len(kept) >= own else [])


def choose_ome_pages(tif: tifffile.TiffFile, name: str, series: int | None = None, *, alpha: bool = False) -> Choice:
    """The finest RGB picture of an OME-TIFF, or the one with the number `series`; of a stack one plane.

    SlideError when what is chosen is not one RGB picture, or there is no such number.
    """
    # The pictures of the file, and which of them is the slide.
    root = ElementTree.fromstring(tif.ome_metadata or "")
    elements = [element for element in root if element.tag.rpartition("}")[2] == "Image"]
    images = [
        _Image(
            n, elements[n].get("Name", "") if n < len(elements) else "", s, elements[n] if n < len(elements) else None
        )
        for n, s in enumerate(tif.series)
    ]
    if series is not None and series >= len(images):
        raise no_such_series(name, series, len(images))
    if series is None:
        pictures = [i for i in images if not NO_SLIDE.search(i.name) and _can_be_rgb(i)]
        pictures = pictures or [i for i in images if not NO_SLIDE.search(i.name)] or images
        best, note = finest([(i.size, ome_mpp(i.element)) for i in pictures])
        image, notes = pictures[best], [note] if note else []
    else:
        image, notes = images[series], []
    refuse_other_depth(image.series.keyframe, name)
    larger = [i for i in images if not _can_be_rgb(i) and not NO_SLIDE.search(i.name) and min(i.size) > max(image.size)]
    if larger:
        notes.append(f"the file holds {len(larger)} larger picture{'s' if len(larger) > 1 else ''} that are not RGB")

    # Its pages, of one focal plane and time, and what the file states of their scale.
    groups, told = _pages_of(image, name)
    first = groups[0][0]
    refuse_other_pixels(first, len(groups[0]), name, alpha=alpha)
    own = ome_mpp(image.element)
    stated = [*([("its OME-XML", own)] if own is not None else []), *described_mpp(first)]
    pages = [page for one in images for level in one.series.levels for page in level.pages if page is not None]
    return Choice(
        groups=tuple(group for group in groups if group[0].is_tiled) if first.is_tiled else (groups[0],),
        first=first,
        series=image.number,
        vendor="ome-tiff",
        stated=tuple(stated),
        is_tiled=first.is_tiled,
        is_first=first.index == 0,
        parts=_parts(images, image, len(groups)),
        notes=(*notes, *told, *cut_notes(tif, [page.aspage() for page in pages], [p for g in groups for p in g])),
    )


def _can_be_rgb(image: _Image) -> bool:
    page = image.series.keyframe
    if page.samplesperpixel in (3, 4):
        return int(page.photometric) in COLOUR
    return page.samplesperpixel == 1 and image.axes.get("C") == 3


def _pages_of(image: _Image, name: str) -> tuple[list[tuple[tifffile.TiffPage, ...]], list[str]]:
    """The page or three planes of each level, of one focal plane and time, and what was chosen among those."""
    series, first = image.series, image.series.keyframe
    if any(page is None or page.parent is not first.parent for page in series.pages):
        raise UnsupportedTiffError(
            f"{name} is one of several files of an OME-TIFF or lacks planes; export it as one file"
        )
    axes = image.axes
    odd = [f"{n} along {a}" for a, n in axes.items() if n > 1 and a not in "CZT"]
    if math.prod(axes.values()) != len(series.pages) or odd:
        raise SlideError(
            f"{name} is an OME-TIFF of {len(series.pages)} planes ({series.axes}), not one RGB picture; "
            "wsistain stains brightfield RGB slides"
        )
    n_channels = axes.get("C", 1)
    if (first.samplesperpixel, n_channels) not in ((3, 1), (4, 1), (1, 3)):
        raise SlideError(
            f"{name} has {n_channels} channel{'s' if n_channels > 1 else ''} of {first.samplesperpixel} "
            f"sample{'s' if first.samplesperpixel > 1 else ''} in {len(series.pages)} planes ({series.axes}), not RGB; "
            "wsistain stains brightfield RGB slides"
        )
    if n_channels == 3:
        _refuse_other_channels(image.element, name)
    z, t, notes = _plane_and_time(image)
    numbers = [_index(axes, {"C": c, "Z": z, "T": t}) for c in range(n_channels)]
    groups = []
    for level in series.levels:
        size = int(level.keyframe.imagelength), int(level.keyframe.imagewidth)
        if len(level.pages) == len(series.pages) and agrees(image.size, size):
            groups.append(tuple(page.aspage() for n in numbers if (page := level.pages[n]) is not None))
    return [group for group in groups if len(group) == n_channels], notes


def _index(axes: dict[str, int], at: dict[str, int]) -> int:
    number = 0
    for axis, n in axes.items():
        number = number * n + at.get(axis, 0)
    return number


def _plane_and_time(image: _Image) -> tuple[int, int, list[str]]:
    axes, notes = image.axes, []
    n_z, n_t = axes.get("Z", 1), axes.get("T", 1)
    z = 0
    if n_z > 1:
        z, in_focus = _focus(image.element, n_z)
        word = "the one at offset 0" if in_focus else "none is said to be in focus, so the middle one"
        notes.append(f"the picture has {n_z} focal planes; {word} (plane {z}) is taken")
    if n_t > 1:
        notes.append(f"the picture has {n_t} times; the first one is taken")
    return z, 0, notes


def _focus(element: ElementTree.Element | None, n: int) -> tuple[int, bool]:
    """The plane whose position is 0, else the middle one."""
    found = {}
    for plane in _children(element, "Plane"):
        try:
            found[int(plane.attrib["TheZ"])] = float(plane.attrib["PositionZ"])
        except (KeyError, ValueError):
            continue
    for z, position in found.items():
        if position == 0.0 and len(set(found.values())) > 1 and 0 <= z < n:
            return z, True
    return n // 2, False


def _children(element: ElementTree.Element | None, name: str) -> list[ElementTree.Element]:
    return [] if element is None else [child for child in element.iter() if child.tag.rpartition("}")[2] == name]


def _refuse_other_channels(image: ElementTree.Element | None, name: str) -> None:
    """Three planes are R, G, B only when they are named or coloured so."""
    channels = _children(image, "Channel")
    names = [channel.get("Name", "").strip().lower() for channel in channels]
    try:
        colours = [int(channel.get("Color", "-1")) & 0xFFFFFFFF for channel in channels]
    except ValueError:
        colours = []
    by_name = len(names) == 3 and all(n in words for n, words in zip(names, _COLOURS, strict=True))
    by_colour = [colour >> 8 for colour in colours] == [0xFF0000, 0x00FF00, 0x0000FF]
    if not (by_colour or by_name):
        raise SlideError(
            f"{name} has three grey planes, the channels {', '.join(n or '(unnamed)' for n in names) or '(unnamed)'}, "
            "not red, green and blue; wsistain stains brightfield RGB slides"
        )


def _parts(images: list[_Image], chosen: _Image, n_levels: int) -> tuple[Part, ...]:
    parts = []
    for image in images:
        called = f"picture {image.name!r}" if image.name else "picture"
        if image is chosen:
            parts.append(Part(f"level 0 of {called}", image.size, image.number, True))
        elif NO_SLIDE.search(image.name):
            parts.append(Part(f"{called}, by its name not the slide", image.size, image.number))
        elif not _can_be_rgb(image):
            parts.append(Part(f"{called}, not RGB", image.size, image.number))
        else:
            parts.append(Part(f"another {called}", image.size, image.number))
        for rank, level in enumerate(image.series.levels[1:], 1):
            size = int(level.keyframe.imagelength), int(level.keyframe.imagewidth)
            used = image is chosen and rank < n_levels
            parts.append(Part(f"level {rank} of series {image.number}", size, None, used))
    return tuple(parts)
