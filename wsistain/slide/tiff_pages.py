"""Which page of a TIFF is the slide, which are its levels, and what the others are.

A page is a level only if it is one in shape, samples, photometric interpretation and flags; that it also shows the
same picture is proved where pixels are read (see `proof`).
"""

import json
import re
import struct
from dataclasses import dataclass, field

import numpy as np
import tifffile

from wsistain.errors import SlideError
from wsistain.slide.base import Part
from wsistain.slide.mpp import Found
from wsistain.slide.pyramid import agrees
from wsistain.slide.tiff_codes import COLOUR, Extra, PageKind
from wsistain.slide.tiff_scale import described_mpp

_NAMED = re.compile(r"^\s*(label|macro|mask|thumbnail|overview|localizer)\b", re.IGNORECASE | re.MULTILINE)
_QPTIFF = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_OFFSET_Z = re.compile(r"(?:^|[|;])\s*OffsetZ\s*=\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)", re.MULTILINE)
_IMAGEJ_SLICES = re.compile(r"^slices=(\d+)\s*$", re.MULTILINE)
_SHORT = 200
"""A description up to this long that begins a line with "macro" names what the page is."""


class UnsupportedTiffError(SlideError):
    """A sound TIFF that this reader does not decode; another reader may.

    is_first : whether its slide is the file's first page, which other readers take.
    """

    is_first = True


@dataclass(frozen=True)
class Choice:
    """The pages of a TIFF that are the slide.

    groups   : of each level, finest first, the one page or the three pages of its planes.
    first    : the first page of level 0.
    series   : the number of the picture among those of the file.
    vendor   : "aperio", "ome-tiff" or "generic-tiff".
    stated   : (where, (y, x) um per px) of every statement but the resolution tags, best first.
    is_tiled : whether level 0 is; a picture in strips has no level but the first.
    is_first : whether level 0 is the first page, which other programs take.
    """

    groups: tuple[tuple[tifffile.TiffPage, ...], ...]
    first: tifffile.TiffPage
    series: int
    vendor: str
    stated: tuple[tuple[str, Found], ...]
    is_tiled: bool
    is_first: bool
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Picture:
    """A page that is a picture of its own, and the pages that may be its levels."""

    page: tifffile.TiffPage
    what: str
    z: float | None = None
    levels: list[tifffile.TiffPage] = field(default_factory=list)

    @property
    def area(self) -> int:
        return int(self.page.imagelength) * int(self.page.imagewidth)


def choose_pages(tif: tifffile.TiffFile, name: str, series: int | None = None, *, alpha: bool = False) -> Choice:
    """The finest brightfield picture of a TIFF without OME-XML, or the one with the number `series`.

    alpha : RGB with an alpha channel is fine too.

    SlideError when what is chosen is not RGB, or there is no such number.
    """
    pages = _all_pages(tif)
    is_aperio = str(pages[0].description).startswith("Aperio")
    pictures = _pictures(pages, is_aperio)
    chosen, notes = _chosen(pictures, name, series, is_aperio)
    try:
        refuse_other_pixels(chosen.page, 1, name, alpha=alpha)
    except UnsupportedTiffError as error:
        error.is_first = chosen.page is pages[0]
        raise
    groups = [chosen.page, *sorted(chosen.levels, key=lambda page: -page.imagewidth)]
    return Choice(
        groups=tuple((page,) for page in groups),
        first=chosen.page,
        series=pictures.index(chosen),
        vendor="aperio" if is_aperio else "generic-tiff",
        stated=tuple(described_mpp(chosen.page) or described_mpp(pages[0])),
        is_tiled=chosen.page.is_tiled,
        is_first=chosen.page is pages[0],
        parts=_parts(pictures, chosen),
        notes=(*notes, *cut_notes(tif, pages, groups)),
    )


def _all_pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Every page, each followed by its sub-IFDs."""
    pages: list[tifffile.TiffPage] = []
    for page in tif.pages:
        whole = page.aspage()
        pages.append(whole)
        if whole.subifds:
            pages += [sub.aspage() for sub in whole.pages or ()]
    return pages


def _role(page: tifffile.TiffPage, is_aperio: bool) -> str:
    """What a page says that it is: "picture", "reduced", "mask", "label", "macro" ..."""
    kind, text = int(page.subfiletype), str(page.description)
    if kind & PageKind.MASK:
        return "mask"
    typed = _QPTIFF.search(text)
    if typed:
        return {"fullresolution": "picture", "reducedresolution": "reduced"}.get(
            typed.group(1).lower(), typed.group(1).lower()
        )
    named = _NAMED.search(text) if is_aperio or len(text) <= _SHORT else None
    if named:
        return named.group(1).lower()
    if kind & PageKind.APERIO_MACRO:
        return "macro"
    if is_aperio:
        return ("label" if kind & PageKind.REDUCED else "picture") if page.is_tiled else "thumbnail"
    return "reduced" if kind & PageKind.REDUCED else "picture"


def _focus(page: tifffile.TiffPage) -> float | None:
    match = _OFFSET_Z.search(str(page.description))
    try:
        return float(match.group(1)) if match else None
    except ValueError:
        return None


def _pictures(pages: list[tifffile.TiffPage], is_aperio: bool) -> list[_Picture]:
    """Every page that is no level of a larger one, in the order of the file, with its levels."""
    # What each page says of itself, and which focal plane it is.
    roles = [_role(page, is_aperio) for page in pages]
    z = [_focus(page) for page in pages]
    if any(value is not None for value in z):
        z = [0.0 if value is None else value for value in z]
    # Larger pages first, so that a level finds its picture placed.
    order = sorted(range(len(pages)), key=lambda i: (roles[i] not in ("picture", "reduced"), -_area(pages[i]), i))
    placed: dict[int, _Picture] = {}
    for i in order:
        page, role = pages[i], roles[i]
        owner = None
        if role == "reduced" or (is_aperio and role == "picture"):
            owner = _owner(i, page, z[i], placed)
        if owner is not None:
            owner.levels.append(page)
        else:
            placed[i] = _Picture(page, role, z[i])
    return [placed[i] for i in sorted(placed)]


def _area(page: tifffile.TiffPage) -> int:
    return int(page.imagelength) * int(page.imagewidth)


def _owner(i: int, page: tifffile.TiffPage, z: float | None, placed: dict[int, _Picture]) -> _Picture | None:
    """The picture of which a page is a level: the nearest before it, else after it, that lacks a level of this size."""
    fitting = [
        (n > i, abs(n - i), picture)
        for n, picture in placed.items()
        if picture.what in ("picture", "reduced") and picture.z == z and _is_level(page, picture)
    ]
    return min(fitting, key=lambda item: item[:2])[2] if fitting else None


def _is_level(page: tifffile.TiffPage, picture: _Picture) -> bool:
    whole = picture.page
    return (
        page.is_tiled
        and whole.is_tiled
        and page.imagewidth < whole.imagewidth
        and agrees((whole.imagelength, whole.imagewidth), (page.imagelength, page.imagewidth))
        and all(level.shape != page.shape for level in picture.levels)
        and page.samplesperpixel == whole.samplesperpixel
        and page.photometric == whole.photometric
        and page.dtype == whole.dtype
        and not int(page.subfiletype) & ~(PageKind.REDUCED | PageKind.PAGE)
    )


def _chosen(
    pictures: list[_Picture], name: str, series: int | None, is_aperio: bool
) -> tuple[_Picture, tuple[str, ...]]:
    if series is not None:
        if series >= len(pictures):
            raise no_such_series(name, series, len(pictures))
        return pictures[series], ()
    # The largest that calls itself a picture; where none does, the largest.
    plain = [p for p in pictures if p.what == "picture"] or [p for p in pictures if p.what == "reduced"] or pictures
    if is_aperio:
        plain = [p for p in plain if p.page.is_tiled] or plain
    best = max(plain, key=lambda p: (p.area, int(p.page.photometric) in COLOUR, -pictures.index(p)))
    # Several of that size: focal planes, or pictures among which only the user can choose.
    alike = [p for p in plain if p.page.shape == best.page.shape and p.page.photometric == best.page.photometric]
    if len(alike) == 1:
        return best, ()
    number = pictures.index
    if _is_stack(alike):
        plane, note = _plane_in_focus(alike)
        return plane, (note,)
    return best, (
        f"the file holds {len(alike)} pictures of this size; the first (series {number(best)}) is taken, "
        f"--series {' or '.join(str(number(p)) for p in alike[1:4])} chooses another",
    )


def _is_stack(alike: list[_Picture]) -> bool:
    """Whether pages of one size are said to be planes of one focus stack."""
    if len({p.z for p in alike}) > 1:
        return True
    text = str(alike[0].page.description)
    slices = _IMAGEJ_SLICES.search(text) if text.startswith("ImageJ=") else None
    if slices is not None:
        return int(slices.group(1)) == len(alike)
    try:
        shaped = json.loads(text) if text.startswith("{") else {}
        return "Z" in str(shaped.get("axes", "")) and len(shaped["shape"]) == len(str(shaped["axes"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _plane_in_focus(alike: list[_Picture]) -> tuple[_Picture, str]:
    """The plane at focus offset 0, else the middle one, and what to say of it."""
    planes = sorted(alike, key=lambda p: p.z or 0.0)
    for plane in planes:
        if plane.z == 0.0 and len({p.z for p in planes}) > 1:
            return (
                plane,
                f"the file holds {len(planes)} focal planes; the one at offset 0 is taken, --series chooses another",
            )
    middle = planes[len(planes) // 2]
    return middle, (
        f"the file holds {len(planes)} focal planes and none is said to be in focus; "
        f"the middle one (plane {len(planes) // 2}) is taken, --series chooses another"
    )


def no_such_series(name: str, series: int, n: int) -> SlideError:
    """The refusal of a number that names no picture."""
    held = "one picture, number 0" if n == 1 else f"{n} pictures, numbers 0 to {n - 1}"
    return SlideError(f"{name} has no series {series}; it holds {held}, which `wsistain info` lists")


_WHY = {
    "picture": "another picture",
    "reduced": "marked as a reduced copy, but no level of the slide by its shape, colours or tiles",
}


def _parts(pictures: list[_Picture], chosen: _Picture) -> tuple[Part, ...]:
    parts = []
    for number, picture in enumerate(pictures):
        used = picture is chosen
        what = "level 0" if used else _WHY.get(picture.what, picture.what)
        if picture.z is not None and picture.what == "picture":
            what += f" at focus offset {picture.z:g}"
        parts.append(Part(what, (picture.page.imagelength, picture.page.imagewidth), number, used))
        for rank, level in enumerate(sorted(picture.levels, key=lambda page: -page.imagewidth), 1):
            parts.append(Part(f"level {rank} of series {number}", (level.imagelength, level.imagewidth), None, used))
    return tuple(parts)


def cut_notes(tif: tifffile.TiffFile, pages: list[tifffile.TiffPage], used: list[tifffile.TiffPage]) -> tuple[str, ...]:
    """What is missing of a file whose slide itself is whole: pages that are not read."""
    notes = []
    size = int(tif.filehandle.size)
    own = {id(page) for page in used}
    cut = [
        page for page in pages
        if id(page) not in own and any(o + n > size for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
    ]  # fmt: skip
    if cut:
        notes.append(
            f"the file is cut at byte {size}: {len(cut)} of its {len(pages)} pages, which the stain does not need, "
            "are incomplete; copy it again to be sure"
        )
    if _next_page(tif) != 0:
        notes.append(
            f"the file is cut or damaged: its list of pages breaks off after page {len(tif.pages) - 1}, so that levels "
            "may be missing; copy it again to be sure"
        )
    return tuple(notes)


def _next_page(tif: tifffile.TiffFile) -> int:
    """Where the page after the last readable one is said to be; 0 where the list ends as it should."""
    form, file = tif.tiff, tif.filehandle
    try:
        file.seek(tif.pages[len(tif.pages) - 1].offset)
        n_tags = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
        file.seek(n_tags * form.tagsize, 1)
        return int(struct.unpack(form.offsetformat, file.read(form.offsetsize))[0])
    except (struct.error, OSError, ValueError, IndexError):
        return -1


def refuse_other_depth(first: tifffile.TiffPage, name: str) -> None:
    """SlideError for a picture without pixels, or whose samples are not 8-bit."""
    if min(first.imagelength, first.imagewidth) < 1:
        raise SlideError(f"{name} is a damaged TIFF (a picture of {first.imagewidth} x {first.imagelength} px)")
    if first.dtype is None or first.dtype != np.uint8 or first.bitspersample != 8:
        kind = first.dtype if first.dtype is not None else f"{first.bitspersample}-bit"
        raise SlideError(f"{name} has {kind} pixels; wanted 8-bit RGB (uint8); convert it to 8-bit RGB")


def refuse_other_pixels(first: tifffile.TiffPage, n_planes: int, name: str, *, alpha: bool = False) -> None:
    """SlideError for a picture that is not 8-bit RGB; its child UnsupportedTiffError for RGB with alpha.

    A fourth sample of which the file does not say that it is alpha is refused: libtiff, and OpenSlide with it, would
    take it for alpha, by which the colours are already multiplied.
    """
    refuse_other_depth(first, name)
    channels = first.samplesperpixel * n_planes
    colour = int(first.photometric) in COLOUR or n_planes == 3
    if channels == 4 and colour and tuple(first.extrasamples) not in ((Extra.PREMULTIPLIED,), (Extra.ALPHA,)):
        raise SlideError(
            f"{name} has a fourth channel beside RGB and does not say that it is alpha (ExtraSamples); "
            "leave it out with: vips extract_band IN OUT.tif[tile,pyramid] 0 --n 3"
        )
    if channels == 4 and colour and alpha:
        return
    if channels == 4 and colour:
        raise UnsupportedTiffError(f"{name} has an alpha channel beside RGB; convert it to RGB")
    if channels != 3 or not colour:
        kind = getattr(first.photometric, "name", int(first.photometric))
        raise SlideError(
            f"{name} has {channels} channel{'s' if channels > 1 else ''} ({kind}), not RGB; "
            "wsistain stains brightfield RGB slides"
        )
