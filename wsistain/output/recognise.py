"""Is this file a virtual stain of ours? One test for every form in which a stain leaves: OME-Zarr, OME-TIFF, DICOM,
picture.

A stain stained again is the fault that nobody sees: the result looks like tissue. So every form carries where it comes
from inside, and whoever wants an H&E slide asks here. The name of a file makes it none, with one exception: previews
written before they carried anything are known by theirs alone.
"""

import io
import json
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wsistain import __version__
from wsistain.errors import SlideError
from wsistain.slide.inside import (
    DAMAGED,
    IMAGE_DESCRIPTION,
    KEY,
    MOST_BYTES,
    SOFTWARE,
    ours,
    texts_of_file,
    texts_of_url,
)
from wsistain.slide.place import local_place

DICOM_CREATOR = "wsistain virtual stain"
"""Of the private element that holds the provenance in a DICOM file."""

_PREVIEW = re.compile(r".+\.[A-Za-z0-9_-]+\.preview\.jpe?g", re.DOTALL)
_PNG_HEAD = 8 + 25  # signature and first chunk, after which text may stand


def comment_of(provenance: dict[str, Any]) -> bytes:
    """The comment by which a JPEG of a stain is known again: plain JSON with the facts that identify the stain."""
    facts = {name: provenance[name] for name in ("marker", "system", "statement", "slide") if name in provenance}
    return json.dumps({KEY: {"wsistain": __version__, **facts, "virtual": True}}, sort_keys=True).encode("ascii")


def exif_of(provenance: dict[str, Any]) -> bytes:
    """The same for programs that show Exif and drop comments."""
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = comment_of(provenance).decode("ascii")
    exif[SOFTWARE] = f"wsistain {__version__}"
    return exif.tobytes()


def png_of(pixels: NDArray[np.uint8], what: str) -> bytes:
    """A PNG of a map or picture made from a stain, known again like the stain itself; `what` says what it shows."""
    text, target = PngInfo(), io.BytesIO()
    text.add_text(KEY, comment_of({"statement": what}).decode("ascii"))
    Image.fromarray(pixels).save(target, format="PNG", pnginfo=text)
    return target.getvalue()


def virtual_png(pixels: NDArray[np.uint8], provenance: dict[str, Any]) -> bytes:
    """A PNG of a stained picture uint8 (h, w, 3), fast, known again by a text chunk as `comment_of` writes it."""
    made = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=4))
    body = b"tEXt" + KEY.encode("ascii") + b"\0" + comment_of(provenance)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return made[:_PNG_HEAD] + chunk + made[_PNG_HEAD:]


def virtual_stain(path: Path | str) -> str | None:
    """What a file or folder is, in words ("a virtual ER stain"), when wsistain made it as one; None otherwise.

    path : a local path or the URL of a TIFF; None for what is missing or damaged: to refuse those is the readers' work.
    """
    place = local_place(str(path))
    path = Path(place)
    try:
        if "://" in place:
            found = _first(texts_of_url(place))
        elif path.is_dir():
            found = _of_zarr(path)
        elif stat.S_ISREG(path.stat().st_mode):
            found = _of_file(path)
        else:
            found = None
    except DAMAGED:
        found = None
    if found is None:
        return None
    marker = found.get("marker")
    return f"a virtual {marker} stain" if isinstance(marker, str) and len(marker) <= 40 else "a virtual stain"


def refuse_virtual(path: Path | str) -> None:
    """SlideError when `path` is a virtual stain of ours, where an H&E slide is wanted."""
    what = virtual_stain(path)
    if what is not None:
        raise SlideError(
            f"{path} is {what} that wsistain made, not an H&E slide; name the H&E slide, "
            "or pass --direction ihc-to-he if it is meant as IHC"
        )


def _of_zarr(folder: Path, depth: int = 0) -> dict[str, Any] | None:
    """From the root attributes, or those of the first picture in a layout that keeps pictures one folder down."""
    for name in ("zarr.json", ".zattrs"):
        text = _small(folder / name)
        if text is not None:
            values = json.loads(text)
            attributes = values.get("attributes", {}) if name == "zarr.json" else values
            found = _ours(attributes)
            return found if found or depth or (folder / "0").is_symlink() else _of_zarr(folder / "0", depth + 1)
    return None


def _of_file(path: Path) -> dict[str, Any] | None:
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(128)
        if file.read(4) == b"DICM":
            return _of_dicom(file.read(MOST_BYTES))
    found = _first(texts_of_file(path, head))
    is_preview = head.startswith(b"\xff\xd8\xff") and _PREVIEW.fullmatch(path.name) is not None
    return {} if found is None and is_preview else found


def _of_dicom(header: bytes) -> dict[str, Any] | None:
    """From the private element of ours, whose text (explicit VR, UT) follows its creator's name."""
    place = header.find(DICOM_CREATOR.encode("ascii"))
    start = header.find(b"UT\0\0", place) + 4 if place >= 0 else 3
    if start < 4 or start + 4 > len(header):
        return None
    length = int.from_bytes(header[start : start + 4], "little")
    facts = json.loads(header[start + 4 : start + 4 + length].decode("utf-8"))
    return facts if isinstance(facts, dict) and facts.get("virtual") is True else None


def _first(texts: list[str]) -> dict[str, Any] | None:
    """What the first of the texts that is ours says."""
    return next((found for text in texts if (found := _of_text(text)) is not None), None)


def _of_text(text: str) -> dict[str, Any] | None:
    """From JSON as in our comments, or OME-XML with a map annotation of ours."""
    if KEY not in text or len(text) > MOST_BYTES:
        return None
    if text.lstrip().startswith("{"):
        return _ours(json.loads(text))
    for node in ElementTree.fromstring(text.strip("\0")).iter():
        if node.tag.rpartition("}")[2] == "MapAnnotation" and node.get("Namespace") == KEY:
            facts = {m.get("K"): m.text for m in node.iter() if m.tag.rpartition("}")[2] == "M"}
            if facts.get("virtual") == "true":
                return {str(name): value for name, value in facts.items()}
    return None


def _ours(values: Any) -> dict[str, Any] | None:
    found = ours(values)
    return found if found is not None and found.get("virtual") is True else None


def _small(path: Path) -> bytes | None:
    """The bytes of a regular file of metadata; None where it is none, or larger than metadata is."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO without a writer would wait for ever
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MOST_BYTES:
            return None
        return file.read()
