"""Where the tiles of a TIFF-family slide lie in the file: levels, offsets, codec and mpp; no pixel is read here.

tifffile parses the file; this module picks the pages that form the pyramid and refuses what is not 8-bit RGB.
"""

import logging
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsistain.errors import SlideError
from wsistain.slide.mpp import Found

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # we say it in one sentence; no second voice on stderr

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF, little and big endian."""

PARSE_ERRORS = (
    tifffile.TiffFileError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, MemoryError, OSError, EOFError,
    struct.error,
)  # fmt: skip
"""What tifffile raises on damaged files."""

_NONE, _LZW, _JPEG, _DEFLATE, _JP2K_YCBCR, _DEFLATE_OLD, _JP2K_RGB, _JP2K, _ZSTD = (
    1, 5, 7, 8, 33003, 32946, 33005, 34712, 50000,
)  # fmt: skip
COMPRESSIONS = frozenset({_NONE, _LZW, _JPEG, _DEFLATE, _JP2K_YCBCR, _DEFLATE_OLD, _JP2K_RGB, _JP2K, _ZSTD})
"""TIFF compression codes that the tile decoder knows."""

RGB_PHOTOMETRIC, YCBCR_PHOTOMETRIC = 2, 6
_UM_PER_UNIT = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}  # ResolutionUnit: inch, cm; beyond the standard mm, um
_UM_PER_OME_UNIT = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9]+(?:[.,][0-9]+)?)")
_APERIO_SHAPE_TOLERANCE = 0.05


class UnsupportedTiffError(SlideError):
    """A sound TIFF that this reader does not decode; another reader may."""


@dataclass(frozen=True)
class TiffLevel:
    """One level: its size, its tile grid and where each tile's bytes are.

    `offsets` and `counts` are int64 (planes, rows * cols), row-major; count 0 is a tile that was never written.
    `planes` is 1 for interleaved RGB and 3 for one plane a channel.
    """

    height: int
    width: int
    tile_h: int
    tile_w: int
    planes: int
    compression: int
    photometric: int
    predictor: int
    jpeg_tables: bytes | None
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class TiffStructure:
    """The pyramid of a TIFF-family slide as stored (before its Orientation tag), finest level first."""

    levels: tuple[TiffLevel, ...]
    vendor: str
    orientation: int
    mpp_reader: Found | None
    mpp_tags: Found | None

    @property
    def has_missing_tiles(self) -> bool:
        """Whether some tiles were never written."""
        return any(bool((level.counts == 0).any()) for level in self.levels)


def is_tiff(path: Path) -> bool:
    """Whether a file begins like a TIFF; DICOM may wear a TIFF header in its free first 128 bytes and is none."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[:4] in MAGIC and head[128:] != b"DICM"


def read_structure(path: Path) -> TiffStructure:
    """The pyramid in a TIFF file.

    SlideError for a file that is damaged, truncated or not 8-bit RGB; its child UnsupportedTiffError for a sound
    file (strips, other codecs, several files) that another reader may be able to open.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            return _structure(tif, path)
    except PARSE_ERRORS as error:
        said = str(error).strip().splitlines() if isinstance(error, tifffile.TiffFileError | OSError) else []
        reason = said[0] if said else "its page directory makes no sense"
        raise SlideError(f"{path} is a damaged or truncated TIFF ({reason}); copy or export it again") from None
    except ElementTree.ParseError as error:
        raise SlideError(f"{path} is an OME-TIFF whose OME-XML cannot be read ({error}); export it again") from None


def resolution_tags(page: tifffile.TiffPage) -> Found | None:
    """(y, x) um per px from XResolution, YResolution and ResolutionUnit, or ImageJ's unit; None where not stated."""
    try:
        x, y = (_ratio(page.tags[name].value) for name in ("XResolution", "YResolution"))
        unit = int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 2
    except (KeyError, TypeError, ValueError):
        return None
    if x <= 0 or y <= 0:
        return None
    um = _UM_PER_UNIT.get(unit)
    if um is None:
        match = re.search(r"^unit=(micron|um|µm|\\u00B5m)\s*$", str(page.description), re.MULTILINE)
        um = 1.0 if match and str(page.description).startswith("ImageJ=") else None
    return None if um is None else (um / y, um / x)


def _ratio(value: tuple[int, int]) -> float:
    return value[0] / value[1] if value[1] else 0.0


def _structure(tif: tifffile.TiffFile, path: Path) -> TiffStructure:
    if len(tif.pages) == 0:
        raise SlideError(f"{path} is a truncated TIFF (its page directory lies past the end); copy or export it again")
    first = tif.pages.first
    description = str(first.description)
    aperio = description.startswith("Aperio")
    if tif.is_ome:
        groups, mpp_reader, first = _ome_pages(tif, path)
    else:
        groups = [[page] for page in (_aperio_pages(tif) if aperio else _generic_pages(tif))]
        mpp_reader = _aperio_mpp(description) if aperio else None
    _refuse_other_pixels(first, groups[0] if groups else [first], path)
    if not groups:
        raise UnsupportedTiffError(f"{path} stores its picture in strips, not in tiles")
    levels = tuple(_level(group, path) for group in groups)
    size = path.stat().st_size
    for number, level in enumerate(levels):
        stored = level.counts > 0
        if bool(np.any((level.offsets + level.counts)[stored] > size)):
            raise SlideError(
                f"{path} is truncated: tiles of level {number} lie past its end at byte {size}; copy or export it again"
            )
    orientation = int(first.tags["Orientation"].value) if "Orientation" in first.tags else 1
    return TiffStructure(
        levels=levels,
        vendor="aperio" if aperio else "ome-tiff" if tif.is_ome else "generic-tiff",
        orientation=orientation if 1 <= orientation <= 8 else 1,
        mpp_reader=mpp_reader,
        mpp_tags=resolution_tags(first),
    )


def _aperio_pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The tiled pages of an SVS are its levels; label, macro and thumbnail are in strips."""
    pages = [page.aspage() for page in tif.pages]
    tiled = [page for page in pages if page.is_tiled]
    if not tiled:
        return []
    aspect = tiled[0].imagelength / tiled[0].imagewidth
    near = [p for p in tiled if abs(p.imagelength / p.imagewidth / aspect - 1) <= _APERIO_SHAPE_TOLERANCE]
    return sorted(near, key=lambda page: -page.imagewidth)


def _generic_pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The first page, and tiled pages or sub-IFDs that say that they are reduced copies (as OpenSlide picks them)."""
    first = tif.pages.first
    if not first.is_tiled:
        return []
    others = [page.aspage() for page in tif.pages][1:]
    if first.subifds:
        others += [page.aspage() for page in first.pages or ()]
    reduced = [page for page in others if page.is_tiled and page.subfiletype & 1 and page.imagewidth < first.imagewidth]
    return [first, *sorted(reduced, key=lambda page: -page.imagewidth)]


def _ome_pages(
    tif: tifffile.TiffFile, path: Path
) -> tuple[list[list[tifffile.TiffPage]], Found | None, tifffile.TiffPage]:
    """The page or three planes of each level of the largest picture, its mpp, and its first page."""
    number, series = max(enumerate(tif.series), key=lambda s: s[1].keyframe.imagelength * s[1].keyframe.imagewidth)
    first = series.keyframe
    if any(page is None or page.parent is not tif for page in series.pages):
        raise UnsupportedTiffError(
            f"{path} is one of several files of an OME-TIFF or lacks planes; export it as one file"
        )
    if len(series.pages) not in (1, 3) or (len(series.pages) == 3 and first.samplesperpixel != 1):
        raise SlideError(
            f"{path} is an OME-TIFF of {len(series.pages)} planes ({series.axes}), not one RGB picture; "
            "wsistain stains brightfield RGB slides"
        )
    root = ElementTree.fromstring(tif.ome_metadata or "")
    images = [element for element in root if element.tag.rpartition("}")[2] == "Image"]
    image = images[number] if number < len(images) else None
    if len(series.pages) == 3:
        _refuse_other_channels(image, path)
    groups = [[page.aspage() for page in level.pages if page is not None] for level in series.levels]
    return [group for group in groups if group[0].is_tiled], _ome_mpp(image), first


def _children(element: ElementTree.Element | None, name: str) -> list[ElementTree.Element]:
    return [] if element is None else [child for child in element.iter() if child.tag.rpartition("}")[2] == name]


def _refuse_other_channels(image: ElementTree.Element | None, path: Path) -> None:
    """Three planes are R, G, B when named or coloured so, or when they carry neither name nor colour."""
    channels = _children(image, "Channel")
    names = [channel.get("Name", "").strip().lower() for channel in channels]
    colours = [int(channel.get("Color", "0")) & 0xFFFFFFFF for channel in channels]
    by_name = all(
        name in words for name, words in zip(names, (("r", "red"), ("g", "green"), ("b", "blue")), strict=False)
    )
    by_colour = [colour >> 8 for colour in colours] == [0xFF0000, 0x00FF00, 0x0000FF]
    plain = not any(names) and all("Color" not in channel.attrib for channel in channels)
    if not (by_colour or plain or (len(names) == 3 and by_name)):
        raise SlideError(
            f"{path} has the channels {', '.join(name or '?' for name in names)}, not red, green and blue; "
            "wsistain stains brightfield RGB slides"
        )


def _ome_mpp(image: ElementTree.Element | None) -> Found | None:
    for pixels in _children(image, "Pixels"):
        try:
            x, y = float(pixels.attrib["PhysicalSizeX"]), float(pixels.attrib["PhysicalSizeY"])
            return (
                y * _UM_PER_OME_UNIT[pixels.get("PhysicalSizeYUnit", "µm")],
                x * _UM_PER_OME_UNIT[pixels.get("PhysicalSizeXUnit", "µm")],
            )
        except (KeyError, ValueError):
            return None
    return None


def _aperio_mpp(description: str) -> Found | None:
    match = _APERIO_MPP.search(description)
    if match is None:
        return None
    mpp = float(match.group(1).replace(",", "."))
    return mpp, mpp


def _refuse_other_pixels(first: tifffile.TiffPage, planes: list[tifffile.TiffPage], path: Path) -> None:
    if min(first.imagelength, first.imagewidth) < 1:
        raise SlideError(f"{path} is a damaged TIFF (a picture of {first.imagewidth} x {first.imagelength} px)")
    if first.dtype is None or first.dtype != np.uint8 or first.bitspersample != 8:
        kind = first.dtype if first.dtype is not None else f"{first.bitspersample}-bit"
        raise SlideError(f"{path} has {kind} pixels; wanted 8-bit RGB (uint8); convert it to 8-bit RGB")
    channels = first.samplesperpixel * len(planes)
    photometric = int(first.photometric)
    colour = photometric in (RGB_PHOTOMETRIC, YCBCR_PHOTOMETRIC) or len(planes) == 3
    if channels == 4 and colour:
        raise UnsupportedTiffError(f"{path} has an alpha channel beside RGB; convert it to RGB")
    if channels != 3 or not colour:
        name = getattr(first.photometric, "name", photometric)
        raise SlideError(
            f"{path} has {channels} channel{'s' if channels > 1 else ''} ({name}), not RGB; "
            "wsistain stains brightfield RGB slides"
        )


def _level(group: list[tifffile.TiffPage], path: Path) -> TiffLevel:
    page = group[0]
    compression = int(page.compression)
    if compression not in COMPRESSIONS:
        raise UnsupportedTiffError(
            f"{path} is compressed in a way that cannot be read (TIFF compression {compression})"
        )
    if page.fillorder != 1 or page.imagedepth != 1 or page.tiledepth != 1:
        raise UnsupportedTiffError(f"{path} has an unusual TIFF layout (fill order or depth)")
    if int(page.predictor) not in (1, 2):
        raise UnsupportedTiffError(f"{path} uses TIFF predictor {int(page.predictor)}")
    separate = len(group) == 1 and int(page.planarconfig) == 2
    planes = 3 if separate or len(group) == 3 else 1
    rows, cols = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    offsets = np.array([p.dataoffsets for p in group], np.int64).reshape(-1)
    counts = np.array([p.databytecounts for p in group], np.int64).reshape(-1)
    if offsets.size != planes * rows * cols or counts.size != offsets.size:
        raise SlideError(
            f"{path} is damaged: its tile list holds {offsets.size} of {planes * rows * cols} tiles; export it again"
        )
    return TiffLevel(
        height=page.imagelength,
        width=page.imagewidth,
        tile_h=page.tilelength,
        tile_w=page.tilewidth,
        planes=planes,
        compression=compression,
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        jpeg_tables=page.jpegtables,
        offsets=offsets.reshape(planes, rows * cols),
        counts=counts.reshape(planes, rows * cols),
    )
