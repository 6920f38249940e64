"""A folder of Zarr from which only whole, ordinary files are read, so that a pipe, a device or a wild offset ends at once."""

import bz2
import lzma
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import zarr
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import FsspecStore, LocalStore

from wsistain.errors import SlideError
from wsistain.runtime.files import is_url, url_text

MOST_METADATA = 16 * 2**20
MOST_CHUNK = 4 * 2**30
"""Bytes of a metadata file and of any other one that are read at most; a shard is read in parts."""

METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})

ZARR_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError),
    *(AssertionError, ImportError),
)
"""What zarr and its codecs raise for metadata and chunks that were tampered with; zarr's own errors are ValueErrors."""


class OrdinaryFiles(LocalStore):
    """A read-only store of a local folder that refuses whatever is no ordinary file, with a ValueError.

    A chunk that unpacks to more than its array's chunks have (`bound`) is refused before it is unpacked.
    """

    _bounds: dict[str, int] | None = None

    def bound(self, array: str, most: int) -> None:
        """Chunks below the path `array` have at most `most` bytes when unpacked."""
        self._bounds = {**(self._bounds or {}), array.strip("/"): most}

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """The bytes of a file as `LocalStore` gives them; None where there is none."""
        self._check(key, byte_range)
        found = await super().get(key, prototype, byte_range)
        if found is None or key.rpartition("/")[2] in METADATA:
            return found
        most = next((n for array, n in (self._bounds or {}).items() if key.startswith(f"{array}/")), None)
        if most is not None and unpacks_past(found.to_bytes(), most):
            raise ValueError(f"{key} unpacks to more than the {most} bytes of a chunk")
        return found

    def _check(self, key: str, byte_range: Any) -> None:
        try:
            found = os.stat(self.root / key)  # noqa: PTH116 - once a chunk
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISDIR(found.st_mode):
            return
        if not stat.S_ISREG(found.st_mode):
            # No damage, which would count as glass: somebody put it there.
            raise SlideError(f"{self.root / key} is no file but a device, pipe or socket; copy the slide again")
        if key.rpartition("/")[2] in METADATA and found.st_size > MOST_METADATA:
            raise ValueError(
                f"{key} has {found.st_size} bytes, more than metadata can have ({MOST_METADATA >> 20} MiB)"
            )
        if isinstance(byte_range, RangeByteRequest) and byte_range.end > found.st_size:
            raise ValueError(
                f"{key} has {found.st_size} bytes, but bytes {byte_range.start} to {byte_range.end} are asked"
            )
        if byte_range is None and found.st_size > MOST_CHUNK:
            raise ValueError(f"{key} has {found.st_size} bytes, more than a chunk can have ({MOST_CHUNK >> 30} GiB)")


_PIECE = 1 << 20
_ZLIB_RATIO = 1032
"""What deflate makes of a byte at most."""

_ZSTD_RATIO = 2**17 // 4
"""What Zstandard makes of a byte at most: blocks of up to 128 KiB take four bytes or more."""


def unpacks_past(packed: bytes, most: int) -> bool:
    """Does a packed chunk unpack to more than `most` bytes? Found without holding them.

    Gzip, zlib, bz2 and xz are unpacked piece by piece and counted, where so few bytes can be so many; the headers of
    Blosc and Zstandard tell; a frame of Zstandard that does not is unpacked into `most` bytes. Anything else, and what is as long as a chunk that is not packed, is False.
    """
    if len(packed) == most:
        return False
    if packed[:2] == b"\x1f\x8b" or packed[:1] == b"\x78":
        return len(packed) * _ZLIB_RATIO > most and _deflates_past(packed, most)
    if packed[:3] == b"BZh" or packed[:6] == b"\xfd7zXZ\0":
        reader = bz2.BZ2Decompressor() if packed[:3] == b"BZh" else lzma.LZMADecompressor()
        return _streams_past(reader, packed, most)
    if packed[:4] == b"\x28\xb5\x2f\xfd":
        stated = _zstd_size(packed)
        return _zstd_unpacks_past(packed, most) if stated is None else stated > most
    is_blosc = len(packed) >= 16 and int.from_bytes(packed[12:16], "little") == len(packed)
    return is_blosc and int.from_bytes(packed[4:8], "little") > most


def _zstd_size(packed: bytes) -> int | None:
    """What the header of a Zstandard frame says that it unpacks to (RFC 8878, 3.1.1.1); None where it says nothing."""
    if len(packed) < 5 or not packed[4] & 0xE0:
        return None
    flags = packed[4]
    is_single = flags >> 5 & 1
    start = 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3]
    length = (is_single, 2, 4, 8)[flags >> 6]
    return int.from_bytes(packed[start : start + length], "little") + (256 if length == 2 else 0)


def _zstd_unpacks_past(packed: bytes, most: int) -> bool:
    """Whether a Zstandard frame of unknown size has no room in `most` bytes, by unpacking it into so many."""
    if len(packed) * _ZSTD_RATIO <= most:
        return False
    try:
        imagecodecs.zstd_decode(packed, out=most)
    except imagecodecs.ZstdError as error:
        return "too small" in str(error)  # damaged ones are left to their codec, which says so
    return False


def _deflates_past(packed: bytes, most: int) -> bool:
    reader, count = zlib.decompressobj(47), 0  # 47: gzip and zlib alike
    try:
        while packed and not reader.eof and count <= most:
            count += len(reader.decompress(packed, _PIECE))
            packed = reader.unconsumed_tail
    except zlib.error:
        return False  # damaged, or no deflate at all: its codec will say so
    return count > most


def _streams_past(reader: Any, packed: bytes, most: int) -> bool:
    count = 0
    try:
        while not reader.eof and count <= most:
            piece = len(reader.decompress(packed, _PIECE))
            packed, count = b"", count + piece
            if not piece and reader.needs_input:
                break
    except (OSError, lzma.LZMAError, EOFError):
        return False
    return count > most


def store_of(place: Path | str) -> Store:
    """The read-only store of a local folder, or behind a URL that fsspec opens (`wsistain[remote]`)."""
    if not is_url(place):
        return OrdinaryFiles(Path(place), read_only=True)
    from wsistain.slide.tiffslide_reader import storage_options

    url = url_text(place)
    return FsspecStore.from_url(url, storage_options=storage_options(url), read_only=True)


def open_zarr(place: Path | str) -> zarr.Group:
    """The root group of a local folder or URL, for reading. Raises one of ZARR_ERRORS; of a URL anything that its store does."""
    return zarr.open_group(store_of(place), mode="r", use_consolidated=False)
