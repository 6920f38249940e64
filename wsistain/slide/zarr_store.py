"""A folder of Zarr from which only whole, ordinary files are read, so that a pipe, a device or a wild offset ends at once."""

import os
import stat
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import RangeByteRequest
from zarr.storage import LocalStore

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
    """A read-only store of a local folder that refuses whatever is no ordinary file, with a ValueError."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """The bytes of a file as `LocalStore` gives them; None where there is none."""
        self._check(key, byte_range)
        return await super().get(key, prototype, byte_range)

    def _check(self, key: str, byte_range: Any) -> None:
        try:
            found = os.stat(self.root / key)  # noqa: PTH116 - once a chunk
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISDIR(found.st_mode):
            return
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{key} is no file but a device, pipe or socket")
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


def open_zarr(path: Path | str) -> zarr.Group:
    """The root group of a local folder, for reading. Raises one of ZARR_ERRORS."""
    return zarr.open_group(OrdinaryFiles(Path(path), read_only=True), mode="r", use_consolidated=False)
