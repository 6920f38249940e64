"""Which DICOM files of a folder make one slide: by what they say of themselves, never by their names.

A whole slide is a series of instances, a level each; labels, overviews and other objects lie among them. The elements
are read up to the one that is wanted, with explicit value representation, as every file that OpenSlide can read has.

Source: DICOM PS3.5, chapter 7 (data elements), PS3.3, C.8.12.4 (whole slide microscopy image).
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

IMAGE_TYPE, MODALITY, SERIES = 0x00080008, 0x00080060, 0x0020000E
COLUMNS, ROWS = 0x00480006, 0x00480007
_LAST = ROWS
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNKNOWN = 0xFFFFFFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_MOST_VALUE = 4096
_MOST_ELEMENTS = 20_000


@dataclass(frozen=True)
class Instance:
    """What a DICOM file is.

    series : UID of the series that it belongs to; "" where it has none.
    kind   : third word of its image type: VOLUME, LABEL, OVERVIEW, THUMBNAIL ...; "" where it has none.
    modality : SM for slide microscopy.
    pixels : of the whole picture whose level this is.
    """

    series: str
    kind: str
    modality: str
    pixels: int

    @property
    def is_volume(self) -> bool:
        """Is it a level of a whole slide?"""
        return self.modality == "SM" and self.kind == "VOLUME"


def is_dicom(path: Path) -> bool:
    """Does the file begin as DICOM files do?"""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_instance(path: Path) -> Instance | None:
    """What a DICOM file says of itself; None where it cannot be told (damaged, or another encoding). OSError passes."""
    found: dict[int, bytes] = {}
    with path.open("rb") as file:
        # Behind the preamble and its four letters.
        file.seek(132)
        end = os.fstat(file.fileno()).st_size
        try:
            for _ in range(_MOST_ELEMENTS):
                tag, length = _element(file)
                if tag > _LAST:
                    break
                if length == _UNKNOWN:
                    _skip(file, 0)
                elif tag in (IMAGE_TYPE, MODALITY, SERIES, COLUMNS, ROWS) and length <= _MOST_VALUE:
                    found[tag] = file.read(length)
                else:
                    file.seek(length, os.SEEK_CUR)
                if file.tell() > end:
                    return None
        except (struct.error, ValueError, RecursionError):
            return None
    words = found.get(IMAGE_TYPE, b"").decode("ascii", "replace").split("\\")
    sizes = [int.from_bytes(found.get(tag, b"")[:4], "little") for tag in (COLUMNS, ROWS)]
    return Instance(
        series=_text(found.get(SERIES, b"")),
        kind=words[2].strip(" \0") if len(words) > 2 else "",
        modality=_text(found.get(MODALITY, b"")),
        pixels=sizes[0] * sizes[1],
    )


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _element(file: BinaryIO) -> tuple[int, int]:
    """Tag and length of the next element; the file then stands at its value. struct.error at the end of the file."""
    group, number = struct.unpack("<HH", file.read(4))
    tag = group << 16 | number
    if group == 0xFFFE:
        return tag, struct.unpack("<I", file.read(4))[0]
    kind = file.read(2)
    if not kind.isalpha() or not kind.isupper():
        raise ValueError("no explicit value representation")
    if kind in _LONG:
        return tag, struct.unpack("<2xI", file.read(6))[0]
    return tag, struct.unpack("<H", file.read(2))[0]


def _skip(file: BinaryIO, depth: int) -> None:
    """Stand behind a sequence of unknown length, whose items may be of unknown length as well."""
    if depth > 40:
        raise ValueError("nested too deep")
    for _ in range(_MOST_ELEMENTS):
        tag, length = _element(file)
        if tag in (_SEQUENCE_END, _ITEM_END):
            return
        if length == _UNKNOWN:
            _skip(file, depth + 1)
        else:
            file.seek(length, os.SEEK_CUR)
    raise ValueError("no end of a sequence")
