"""`open_slide`: which reader opens which slide, and every reason to refuse one."""

from pathlib import Path
from typing import Literal, get_args

import openslide

from wsistain.errors import SlideError
from wsistain.slide.base import Slide
from wsistain.slide.openslide_reader import ViaOpenSlide
from wsistain.slide.picture import Picture
from wsistain.slide.place import local_place
from wsistain.slide.tiff import TiledTiff
from wsistain.slide.tiff_structure import UnsupportedTiffError, is_tiff, read_structure

ReaderName = Literal["auto", "tiff", "openslide", "tiffslide", "zarr", "picture"]
"""Readers by name; `auto` chooses by the file."""

_OURS = (None, "aperio", "generic-tiff")
"""What OpenSlide calls the formats that our own TIFF reader takes; None: unknown to OpenSlide (most OME-TIFF)."""


def open_slide(path: str | Path, *, mpp: float | None = None, reader: str = "auto") -> Slide:
    """An open slide, safe to read from several threads.

    path   : file, folder (`*.zarr`) or URL (anything with "://", through fsspec; `file://` is a path).
    mpp    : um per px of level 0, for slides that do not say; it wins over a missing or implausible one, and over a
             plausible one that differs by more than 5 % (then `info.mpp_source` is "given").
    reader : "auto", or one of "tiff", "openslide", "tiffslide", "zarr", "picture", which is used or refused, never
             exchanged for another. `info.reader` says which one reads.

    "auto" takes OME-Zarr folders to `zarr`; URLs to `tiffslide`; SVS, tiled TIFF and OME-TIFF with JPEG, JPEG 2000,
    deflate, LZW, zstd or uncompressed tiles to `tiff`; everything else that OpenSlide knows (DICOM, MRXS, NDPI,
    Ventana, Philips ...), odd TIFFs and SVS pyramids with missing tiles to `openslide`; flat PNG, JPEG and TIFFs in
    strips to `picture`.

    SlideError, in one sentence, for whatever is not a slide, is damaged, is not 8-bit RGB or has no plausible mpp.
    """
    if reader not in get_args(ReaderName):
        raise SlideError(f"there is no reader {reader!r}; wanted one of {', '.join(get_args(ReaderName))}")
    text = local_place(str(path))
    if "://" in text:
        return _open_url(text, mpp, reader)
    path = Path(text)
    if not path.exists():
        raise SlideError(f"{path} does not exist")
    try:
        if path.is_dir():
            return _open_folder(path, mpp, reader)
        return _open_file(path, mpp, reader)
    except PermissionError:
        raise SlideError(f"{path} may not be read by this user; change its permissions") from None


def _open_url(url: str, mpp: float | None, reader: str) -> Slide:
    if reader not in ("auto", "tiffslide"):
        raise SlideError(f"{url} is a URL, which the reader {reader!r} cannot open; pass --reader tiffslide or auto")
    from wsistain.slide.tiffslide_reader import ViaTiffSlide

    return ViaTiffSlide(url, mpp=mpp)


def _open_folder(path: Path, mpp: float | None, reader: str) -> Slide:
    from wsistain.slide.zarr_reader import OmeZarr, is_zarr

    if reader not in ("auto", "zarr"):
        raise SlideError(f"{path} is a folder, which the reader {reader!r} cannot open; wanted a slide file")
    if not is_zarr(path):
        raise SlideError(
            f"{path} is a folder but no OME-Zarr; name one slide file, or a folder with zarr.json or .zgroup"
        )
    return OmeZarr(path, mpp=mpp)


def _open_file(path: Path, mpp: float | None, reader: str) -> Slide:
    if path.stat().st_size == 0:
        raise SlideError(f"{path} is empty (0 bytes); copy it again")
    match reader:
        case "auto":
            return _open_auto(path, mpp)
        case "tiff":
            _refuse_vendor(path)
            return TiledTiff(path, mpp=mpp)
        case "openslide":
            if is_tiff(path) and openslide.OpenSlide.detect_format(path) in _OURS:
                _refuse_pixels(path)
            return ViaOpenSlide(path, mpp=mpp)
        case "tiffslide":
            from wsistain.slide.tiffslide_reader import ViaTiffSlide

            return ViaTiffSlide(path, mpp=mpp)
        case "picture":
            return Picture(path, mpp=mpp)
        case _:
            raise SlideError(f"{path} is a file, and the reader {reader!r} opens OME-Zarr folders")


def _refuse_vendor(path: Path) -> None:
    if not is_tiff(path):
        raise SlideError(f"{path} is not a TIFF, which the reader 'tiff' wants; pass --reader auto")
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor not in _OURS:
        raise SlideError(
            f"{path} is a TIFF of {vendor}, whose layout the reader 'tiff' does not know; pass --reader auto"
        )


def _refuse_pixels(path: Path) -> None:
    """Refuse 16-bit and non-RGB TIFFs, which OpenSlide would convert without a word."""
    try:
        read_structure(path)
    except UnsupportedTiffError:
        return


def _open_auto(path: Path, mpp: float | None) -> Slide:
    vendor = openslide.OpenSlide.detect_format(path)
    if not is_tiff(path):
        return ViaOpenSlide(path, mpp=mpp) if vendor is not None else _open_picture(path, mpp)
    if vendor not in _OURS:
        return ViaOpenSlide(path, mpp=mpp)
    try:
        structure = read_structure(path)
    except UnsupportedTiffError as error:
        if vendor is not None:
            return ViaOpenSlide(path, mpp=mpp)
        if "strips" in str(error):
            return Picture(path, mpp=mpp)
        raise
    if vendor == "aperio" and len(structure.levels) > 1 and structure.has_missing_tiles:
        return ViaOpenSlide(path, mpp=mpp)  # lower levels of such scans are wrong too; OpenSlide mends them
    return TiledTiff(path, mpp=mpp, structure=structure)


def _open_picture(path: Path, mpp: float | None) -> Slide:
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
    return Picture(path, mpp=mpp)


def _describe(head: bytes) -> str:
    """What a file seems to be from its first bytes."""
    if head[128:132] == b"DICM":
        return "it is DICOM, but no whole-slide volume image (a label, a segmentation, or not microscopy)"
    if head.startswith(b"%PDF"):
        return "it is a PDF"
    if head.startswith(b"PK\x03\x04"):
        return "it is a ZIP archive; unpack it first"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "it is text"
    return f"its first bytes are {head[:4].hex(' ')}, no known format"
