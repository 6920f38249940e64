"""Where the tiles of a TIFF-family slide lie in the file: levels, offsets, codec and mpp; no pixel is read here.

tifffile parses the file, `tiff_pages` and `tiff_ome` pick the pages that form the pyramid.
"""

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsistain.errors import SlideError
from wsistain.slide.base import Part
from wsistain.slide.mpp import Found
from wsistain.slide.power import power_in
from wsistain.slide.tiff_codes import BYTE_CODECS, LERC_PACKING, LERC_PARAMETERS, Codec, Photometric, Planar, Predictor
from wsistain.slide.tiff_colour import Chroma, chroma_of, subsampling
from wsistain.slide.tiff_ome import choose_ome_pages
from wsistain.slide.tiff_pages import Choice, UnsupportedTiffError, choose_pages
from wsistain.slide.tiff_scale import resolution_tags

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # we say it in one sentence; no second voice on stderr

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF, little and big endian."""

PARSE_ERRORS = (
    tifffile.TiffFileError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, MemoryError, OSError, EOFError,
    struct.error,
)  # fmt: skip
"""What tifffile raises on damaged files."""

CONVERT = "vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90"
"""What messages advise for TIFFs that cannot be read."""


@dataclass(frozen=True)
class TiffLevel:
    """One level: its size, its tile grid and where each tile's bytes are.

    `offsets` and `counts` are int64 (planes, rows * cols), row-major; count 0 is a tile that was never written.
    `planes` is 1 for interleaved RGB and 3 for one plane a channel. `chroma` says how samples stored as YCbCr become
    RGB, None where they are RGB or the codec sees to it. `packing` is the codec within LERC tiles.
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
    chroma: Chroma | None
    packing: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class TiffStructure:
    """The pyramid of a TIFF-family slide as stored (before its Orientation tag), finest level first.

    stated   : (where, (y, x) um per px) of every statement of the file but its resolution tags, best first.
    is_first : whether level 0 is the file's first page, which other programs take.
    power    : magnification of the objective, where level 0 or the first page states one.
    """

    levels: tuple[TiffLevel, ...]
    vendor: str
    orientation: int
    stated: tuple[tuple[str, Found], ...]
    mpp_tags: Found | None
    series: int
    is_first: bool
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    power: float | None

    @property
    def has_missing_tiles(self) -> bool:
        """Whether some tiles were never written."""
        return any(bool((level.counts == 0).any()) for level in self.levels)


class StripsError(UnsupportedTiffError):
    """A TIFF whose slide is a picture in strips."""


def is_tiff(path: Path) -> bool:
    """Whether a file begins like a TIFF; DICOM may wear a TIFF header in its free first 128 bytes and is none."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[:4] in MAGIC and head[128:] != b"DICM"


def read_structure(path: Path, series: int | None = None) -> TiffStructure:
    """The pyramid in a TIFF file: of its finest brightfield picture, or of the one with the number `series`.

    SlideError for a file that is damaged, truncated or not 8-bit RGB; its child UnsupportedTiffError for a sound
    file (strips, other codecs, several files) that another reader may be able to open.
    """
    with opened_tiff(path) as tif:
        return _structure(tif, path, series)


@contextmanager
def opened_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """A TIFF file for reading; whatever tifffile raises on a damaged one becomes a SlideError."""
    try:
        with tifffile.TiffFile(path) as tif:
            yield tif
    except PARSE_ERRORS as error:
        said = str(error).strip().splitlines() if isinstance(error, tifffile.TiffFileError | OSError) else []
        reason = said[0] if said else "its page directory makes no sense"
        raise SlideError(f"{path} is a damaged or truncated TIFF ({reason}); copy or export it again") from None
    except ElementTree.ParseError as error:
        raise SlideError(f"{path} is an OME-TIFF whose OME-XML cannot be read ({error}); export it again") from None


def choose(tif: tifffile.TiffFile, name: str, series: int | None, *, alpha: bool = False) -> Choice:
    """The pages of the slide in an open TIFF, which `name` stands for in messages; SlideError when it is not RGB.

    alpha : RGB with an alpha channel is fine too.
    """
    if len(tif.pages) == 0:
        raise SlideError(f"{name} is a truncated TIFF (its page directory lies past the end); copy or export it again")
    return (choose_ome_pages if tif.is_ome else choose_pages)(tif, name, series, alpha=alpha)


def _structure(tif: tifffile.TiffFile, path: Path, series: int | None) -> TiffStructure:
    choice = choose(tif, str(path), series)
    first = choice.first
    if not choice.is_tiled:
        raise StripsError(f"{path} stores its picture in strips, not in tiles")
    try:
        levels = tuple(_level(group, path) for group in choice.groups)
    except UnsupportedTiffError as error:
        error.is_first = choice.is_first
        raise
    # A copy that was cut off opens like a whole one: only the list of its tiles tells.
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
        vendor=choice.vendor,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        stated=choice.stated,
        mpp_tags=resolution_tags(first),
        series=choice.series,
        is_first=choice.is_first,
        parts=choice.parts,
        notes=choice.notes,
        power=power_in(str(first.description)) or power_in(str(tif.pages.first.description)),
    )


def _level(group: Sequence[tifffile.TiffPage], path: Path) -> TiffLevel:
    page = group[0]
    separate = len(group) == 1 and int(page.planarconfig) == Planar.SEPARATE
    planes = 3 if separate or len(group) == 3 else 1
    _refuse_other_layout(page, planes, path)
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
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        jpeg_tables=page.jpegtables,
        chroma=chroma_of(page, planes),
        packing=_packing(page, path),
        offsets=offsets.reshape(planes, rows * cols),
        counts=counts.reshape(planes, rows * cols),
    )


def _refuse_other_layout(page: tifffile.TiffPage, planes: int, path: Path) -> None:
    """UnsupportedTiffError for tiles that are not decoded here."""
    compression, convert = int(page.compression), f"convert it with: {CONVERT}"
    if compression not in frozenset(Codec):
        name = getattr(page.compression, "name", "unknown")
        raise UnsupportedTiffError(
            f"{path} is compressed in a way that cannot be read (TIFF compression {compression}, {name}); {convert}"
        )
    if page.fillorder != 1 or page.imagedepth != 1 or page.tiledepth != 1:
        raise UnsupportedTiffError(f"{path} has an unusual TIFF layout (fill order or depth); {convert}")
    if int(page.predictor) not in frozenset(Predictor):
        raise UnsupportedTiffError(f"{path} uses TIFF predictor {int(page.predictor)}; {convert}")
    if int(page.photometric) != Photometric.YCBCR:
        return
    is_subsampled = subsampling(page) != (1, 1)
    if compression in (Codec.WEBP, Codec.WEBP_OLD, Codec.JPEGXL, Codec.JPEGXL_DNG):
        raise UnsupportedTiffError(
            f"{path} calls its {Codec(compression).name} tiles YCbCr, which they cannot be; {convert}"
        )
    if is_subsampled and (planes == 3 or (compression in BYTE_CODECS and int(page.predictor) != Predictor.NONE)):
        raise UnsupportedTiffError(f"{path} stores subsampled YCbCr in separate planes or with a predictor; {convert}")


def _packing(page: tifffile.TiffPage, path: Path) -> int:
    """The codec within LERC tiles."""
    if int(page.compression) != Codec.LERC or LERC_PARAMETERS not in page.tags:
        return Codec.NONE
    value = page.tags[LERC_PARAMETERS].value
    packing = int(value[1]) if isinstance(value, tuple | list) and len(value) > 1 else 0
    if packing not in LERC_PACKING:
        raise UnsupportedTiffError(
            f"{path} packs its LERC tiles in an unknown way ({packing}); convert it with: {CONVERT}"
        )
    return LERC_PACKING[packing]
