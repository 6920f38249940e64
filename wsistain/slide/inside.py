"""What the file of a picture says of itself inside: the description of a TIFF, the comments of a JPEG or PNG.

A fact that stands beside a file is lost when the file is copied, and passes to another file that is put in its place; a fact
inside goes along. So what decides whether a picture may be believed stands inside, and is read here: whether it is a virtual
stain of ours (`wsistain.output.recognise`), and whether the phantom painted it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image

from wsistain.slide.picture import own_bound
from wsistain.slide.place import local_place

KEY = "wsistain"
"""Under this key the metadata of every form holds what is ours."""

IMAGE_DESCRIPTION, SOFTWARE = 270, 305  # Exif and TIFF tags
MOST_BYTES = 16 << 20
DAMAGED = (
    ImportError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    SyntaxError,
)
"""What reading a damaged file may raise."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURE = (b"\xff\xd8\xff", b"\x89PNG")


def texts_of_file(path: Path, head: bytes) -> list[str]:
    """The texts inside a local TIFF, JPEG or PNG whose first bytes are `head`, none of another file; only headers are read.

    Raises any of `DAMAGED`.
    """
    if head[:4] in _TIFF:
        with tifffile.TiffFile(path) as tiff:
            return [str(tiff.pages.first.description)]
    if not head.startswith(_PICTURE):
        return []
    with own_bound():
        opened = Image.open(path, formats=["JPEG", "PNG"])
    with opened as picture:
        texts = [picture.info.get("comment"), picture.info.get(KEY), picture.getexif().get(IMAGE_DESCRIPTION)]
    words = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts)
    return [text for text in words if isinstance(text, str)]


def texts_of_url(url: str) -> list[str]:
    """The description of a TIFF behind a URL; nothing else is read from there. Raises any of `DAMAGED`, SlideError where
    the server is silent."""
    import fsspec

    from wsistain.slide.tiffslide_reader import silent_server, storage_options

    try:
        with fsspec.open(url, **storage_options(url)) as file:
            if file.read(4) not in _TIFF:
                return []
            file.seek(0)
            with tifffile.TiffFile(file, name="remote") as tiff:
                return [str(tiff.pages.first.description)]
    except OSError as error:  # a reader would wait for as long once more
        silent = silent_server(url, error)
        if silent is not None:
            raise silent from None
        raise


def ours(values: Any) -> dict[str, Any] | None:
    """What is ours of metadata, None where nothing is."""
    found = values.get(KEY) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else None


def phantom_text(parameters: dict[str, Any]) -> str:
    """What the phantom writes into each of its pictures: plain JSON with the parameters that decide the pixels."""
    return json.dumps({KEY: {"phantom": parameters}}, sort_keys=True)


def phantom_of(place: Path | str) -> dict[str, Any] | None:
    """The parameters of the phantom that painted a picture; None where nothing says that it did.

    place : a local path or the URL of a TIFF; None for what is missing or damaged: to refuse those is the readers' work.

    Asked is the file itself; of a slide that says nothing, as older versions wrote it, a finished manifest beside it that
    holds the SHA-256 of its bytes. A manifest alone says nothing: another slide may have been put beside it.
    """
    place = local_place(str(place))
    try:
        if "://" in place:
            return _painted(texts_of_url(place))
        path = Path(place)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(8)
        return _painted(texts_of_file(path, head)) or _by_manifest(path)
    except DAMAGED:
        return None


def _painted(texts: list[str]) -> dict[str, Any] | None:
    for text in texts:
        if KEY in text and text.lstrip().startswith("{") and len(text) <= MOST_BYTES:
            parameters = (ours(json.loads(text)) or {}).get("phantom")
            if isinstance(parameters, dict):
                return parameters
    return None


def _by_manifest(path: Path) -> dict[str, Any] | None:
    manifest = path.with_name("manifest.json")
    if not manifest.is_file():
        return None
    told = json.loads(manifest.read_text(encoding="utf-8"))
    parameters, wanted = told["parameters"], told["files"][path.name]
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == wanted
    return dict(parameters) if same and parameters["kind"] == "slide" else None
