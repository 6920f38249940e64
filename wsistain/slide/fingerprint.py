"""A short name for the bytes of a slide: the same file anywhere has the same one, other bytes another."""

import hashlib
import os
import stat
from pathlib import Path

FULL_BYTES = 64 * 2**20
"""Files up to this size are hashed whole."""

PIECE_BYTES = 64 * 2**10
N_PIECES = 256
"""Larger files: head and tail of 1 MiB each and this many pieces evenly spread, about 18 MiB in all."""

_EDGE_BYTES = 2**20
_FOLDER_FILES = 64


def fingerprint(path: Path) -> str:
    """Hex digest (32 digits, BLAKE2b-128) of the content of a file or folder; names and dates of the file play no part.

    A file up to 64 MiB is hashed whole. Of a larger one the size, the first and last MiB and 256 pieces of 64 KiB at
    even spacing are hashed: a truncated, re-encoded or re-scanned slide changes nearly all of them, while an edit of a
    few bytes between the pieces is not seen. Of a DICOM series the named file alone counts. Of a folder (OME-Zarr, the data of an MRXS) the relative names and sizes
    of all files are hashed, and the content, by the same rule, of the metadata files and of 64 others evenly spread.
    """
    digest = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        _add_folder(digest, path)
    else:
        _add_file(digest, path)
        companion = path.with_suffix("")  # MIRAX keeps its pixels in a folder of the same name
        if path.suffix.lower() == ".mrxs" and companion.is_dir():
            _add_folder(digest, companion)
    return digest.hexdigest()


def _add_file(digest: "hashlib.blake2b", path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"size {size};".encode())
    with path.open("rb") as file:
        if size <= FULL_BYTES:
            while block := file.read(2**20):
                digest.update(block)
            return
        digest.update(file.read(_EDGE_BYTES))
        for i in range(N_PIECES):
            file.seek(_EDGE_BYTES + (size - 2 * _EDGE_BYTES - PIECE_BYTES) * i // (N_PIECES - 1))
            digest.update(file.read(PIECE_BYTES))
        file.seek(size - _EDGE_BYTES)
        digest.update(file.read(_EDGE_BYTES))


def _add_folder(digest: "hashlib.blake2b", folder: Path) -> None:
    files: list[tuple[str, Path]] = []
    for root, _, names in os.walk(folder):
        for name in names:
            file = Path(root) / name
            files.append((file.relative_to(folder).as_posix(), file))
    # The order in which a file system lists them says nothing.
    files.sort()
    metadata: list[Path] = []
    others: list[Path] = []
    for name, file in files:
        try:
            found = file.stat()
        except OSError:  # a link that leads nowhere
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            digest.update(f"{name} no file;".encode("utf-8", "surrogateescape"))
            continue
        digest.update(f"{name} {found.st_size};".encode("utf-8", "surrogateescape"))
        (metadata if file.suffix in {".json", ".ini"} or file.name.startswith(".z") else others).append(file)
    # All metadata, and some of the others spread evenly.
    step = max(1, -(-len(others) // _FOLDER_FILES))
    for file in [*metadata, *others[::step]]:
        _add_file(digest, file)
