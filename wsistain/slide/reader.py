"""`open_slide`: which reader opens which slide, and every reason to refuse one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import openslide

from wsistain.errors import SlideError
from wsistain.slide.base import Slide
from wsistain.slide.mpp import MppError
from wsistain.slide.openslide_reader import ViaOpenSlide
from wsistain.slide.picture import Picture
from wsistain.slide.place import local_place
from wsistain.slide.tiff import TiledTiff
from wsistain.slide.tiff_pages import UnsupportedTiffError
from wsistain.slide.tiff_structure import StripsError, is_tiff, read_structure

ReaderName = Literal["auto", "tiff", "openslide", "tiffslide", "zarr", "picture"]
"""Readers by name; `auto` chooses by the file."""

_OURS = (None, "aperio", "generic-tiff")
"""What OpenSlide calls the formats that our own TIFF reader takes; None: unknown to OpenSlide (most OME-TIFF)."""


@dataclass(frozen=True)
class _Asked:
    """The options that every reader takes."""

    mpp: float | None
    series: int | None
    needs_mpp: bool


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    reader: str = "auto",
    series: int | None = None,
    needs_mpp: bool = True,
) -> Slide:
    """An open slide, safe to read from several threads.

    path      : file, folder (`*.zarr`) or URL (anything with "://", through fsspec; `file://` is a path).
    mpp       : um per px of level 0, for slides that do not say; it wins over a missing or implausible one, and over a
                plausible one that differs by more than 5 % (then `info.mpp_source` is "given").
    reader    : "auto", or one of "tiff", "openslide", "tiffslide", "zarr", "picture", which is used or refused, never
                exchanged for another. `info.reader` says which one reads.
    series    : which picture of a file that holds several; None: the finest brightfield one. `info.series` and
                `info.parts` say what there is and what was taken.
    needs_mpp : refuse a slide without a usable mpp; else `info.mpp` is NaN and `info.problem` says why.

    "auto" takes OME-Zarr folders to `zarr`; URLs to `tiffslide`; SVS, tiled TIFF and OME-TIFF whose codec is known
    (JPEG, JPEG 2000, deflate, LZW, zstd, WebP, JPEG XL, LERC ...) to `tiff`; everything else that OpenSlide knows
    (DICOM, MRXS, NDPI, Ventana, Philips ...), odd TIFFs and SVS pyramids with missing tiles to `openslide`; flat PNG,
    JPEG and TIFFs in strips to `picture`.

    SlideError, in one sentence, for whatever is not a slide, is damaged, is not 8-bit RGB or has no plausible mpp.
    """
    if reader not in get_args(ReaderName):
        raise SlideError(f"there is no reader {reader!r}; wanted one of {', '.join(get_args(ReaderName))}")
    if series is not None and series < 0:
        raise SlideError(f"--series {series} is no number of a picture; wanted 0 or more")
    asked = _Asked(mpp, series, needs_mpp)
    text = local_place(str(path))
    if "://" in text:
        return _open_url(text, asked, reader)
    path = Path(text)
    try:
        if not path.exists():
            raise SlideError(f"{path} does not exist")
        if path.is_dir():
            return _open_folder(path, asked, reader)
        return _open_file(path, asked, reader)
    except PermissionError:
        raise SlideError(f"{path} may not be read by this user; change its permissions") from None
    except OSError as error:
        raise SlideError(f"{text} cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a NUL in a name
        if "\0" not in text:
            raise
        raise SlideError(f"{text!r} is no name of a file ({error})") from None


def _open_url(url: str, asked: _Asked, reader: str) -> Slide:
    if reader not in ("auto", "tiffslide"):
        raise SlideError(f"{url} is a URL, which the reader {reader!r} cannot open; pass --reader tiffslide or auto")
    from wsistain.slide.tiffslide_reader import ViaTiffSlide

    return ViaTiffSlide(url, **vars(asked))


def _open_folder(path: Path, asked: _Asked, reader: str) -> Slide:
    from wsistain.slide.zarr_reader import OmeZarr, is_zarr

    if reader not in ("auto", "zarr"):
        raise SlideError(f"{path} is a folder, which the reader {reader!r} cannot open; wanted a slide file")
    if not is_zarr(path):
        raise SlideError(
            f"{path} is a folder but no OME-Zarr; name one slide file, or a folder with zarr.json or .zgroup"
        )
    return OmeZarr(path, **vars(asked))


def _open_file(path: Path, asked: _Asked, reader: str) -> Slide:
    if not path.is_file():
        raise SlideError(f"{path} is no file but a device, pipe or socket; wanted a slide file")
    if path.stat().st_size == 0:
        raise SlideError(f"{path} is empty (0 bytes); copy it again")
    _refuse_by_name(path)
    match reader:
        case "auto":
            return _open_auto(path, asked)
        case "tiff":
            _refuse_vendor(path)
            return TiledTiff(path, **vars(asked))
        case "openslide":
            if is_tiff(path) and openslide.OpenSlide.detect_format(path) in _OURS:
                _refuse_other_choice(path, asked)
            return ViaOpenSlide(path, **vars(asked))
        case "tiffslide":
            from wsistain.slide.tiffslide_reader import ViaTiffSlide

            return ViaTiffSlide(path, **vars(asked))
        case "picture":
            return Picture(path, **vars(asked))
        case _:
            raise SlideError(f"{path} is a file, and the reader {reader!r} opens OME-Zarr folders")


def _refuse_by_name(path: Path) -> None:
    """Refuse files that are only a part of a slide, whatever picture they hold."""
    match path.suffix.lower():
        case ".vsi":
            raise SlideError(
                f"{path} is an Olympus slide, whose pixels lie in the folder _{path.stem}_ beside it in a format that is "
                "not read here (the file itself holds previews); convert it with: bioformats2raw IN.vsi OUT.zarr"
            )
        case ".mrxs" if not path.with_suffix("").is_dir():
            raise SlideError(
                f"{path} is only the head of a MIRAX slide: its folder {path.stem} is missing beside it; "
                "copy the folder too"
            )


def _refuse_vendor(path: Path) -> None:
    if not is_tiff(path):
        raise SlideError(f"{path} is not a TIFF, which the reader 'tiff' wants; pass --reader auto")
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor not in _OURS:
        raise SlideError(
            f"{path} is a TIFF of {vendor}, whose layout the reader 'tiff' does not know; pass --reader auto"
        )


def _refuse_other_choice(path: Path, asked: _Asked) -> None:
    """Refuse what OpenSlide would show without a word: 16-bit and other pixels, and a page that is not the slide."""
    try:
        is_first = read_structure(path, asked.series).is_first
    except UnsupportedTiffError as error:
        is_first = error.is_first
    if not is_first:
        raise SlideError(
            f"{path} does not begin with the slide (another page comes first), which OpenSlide does not see; "
            "pass --reader auto"
        )


def _open_auto(path: Path, asked: _Asked) -> Slide:
    # Formats that only OpenSlide knows go to it, pictures to Pillow; plain and Aperio TIFF is read here.
    vendor = openslide.OpenSlide.detect_format(path)
    if not is_tiff(path):
        return ViaOpenSlide(path, **vars(asked)) if vendor is not None else _open_picture(path, asked)
    if vendor not in _OURS:
        return ViaOpenSlide(path, **vars(asked))
    # What is not decoded here, OpenSlide may know.
    try:
        structure = read_structure(path, asked.series)
    except StripsError:
        return Picture(path, **vars(asked))
    except UnsupportedTiffError:
        if vendor is None:
            raise
        return _via_openslide(path, asked)
    if vendor == "aperio" and len(structure.levels) > 1 and structure.has_missing_tiles and structure.is_first:
        return ViaOpenSlide(path, **vars(asked))  # lower levels of such scans are wrong too; OpenSlide mends them
    return TiledTiff(path, **vars(asked), structure=structure)


def _via_openslide(path: Path, asked: _Asked) -> Slide:
    """Through OpenSlide what our reader does not decode; its refusal, which says more, where OpenSlide cannot either."""
    _refuse_other_choice(path, asked)
    try:
        return ViaOpenSlide(path, **vars(asked))
    except MppError:
        raise
    except SlideError:
        read_structure(path, asked.series)
        raise


def _open_picture(path: Path, asked: _Asked) -> Slide:
    """A PNG or JPEG under its own name; under a slide's extension it is most likely a mistake."""
    with path.open("rb") as file:
        head = file.read(132)
    kind = "PNG" if head.startswith(b"\x89PNG") else "JPEG" if head.startswith(b"\xff\xd8\xff") else None
    if kind is None:
        raise SlideError(f"{path} is not a slide: {_describe(head)}; wanted SVS, TIFF, DICOM, MRXS, NDPI, PNG or JPEG")
    if path.suffix.lower() not in {"PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif")}[kind]:
        raise SlideError(
            f"{path} is a {kind} picture, not a {path.suffix} slide; "
            f"rename it to .{kind.lower()} and pass --mpp to stain it as a picture"
        )
    return Picture(path, **vars(asked))


_OTHER_FORMATS = (
    (b"ZISRAWFILE", "it is a Zeiss CZI"),
    (b"<DataObject", "it is a Philips iSyntax"),
    (b"\xda\xce\xbe\x0a", "it is a Nikon ND2"),
    (b"\xae\xae\xae\xae", "it is a Nikon ND2"),
    (b"\xd0\xcf\x11\xe0", "it is a compound document, as Zeiss ZVI or Olympus OIB"),
    (b"SIS\0", "it is an Olympus ETS"),
)
"""First bytes of slides and microscope files that no reader here opens."""


def _describe(head: bytes) -> str:
    """What a file seems to be from its first bytes."""
    if head[128:132] == b"DICM":
        return "it is DICOM, but no whole-slide volume image (a label, a segmentation, or not microscopy)"
    for start, what in _OTHER_FORMATS:
        if head.startswith(start):
            return f"{what}, which is not read here; convert it with: bioformats2raw IN OUT.zarr"
    if head.startswith(b"%PDF"):
        return "it is a PDF"
    if head.startswith(b"PK\x03\x04"):
        return "it is a ZIP archive; unpack it first"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "it is text"
    return f"its first bytes are {head[:4].hex(' ')}, no known format"
