"""A finished stain copied to a bucket (S3, GCS, whatever fsspec writes to), so that nothing there looks finished too early.

An output with root metadata is finished, in a bucket as in a folder. So everything else goes first and is compared with what
was meant: by size and, where the store tells the MD5 of what it holds, by that; where it does not, by reading back. Only then
the root's metadata follows. Until that moment the same command goes on where it stopped; afterwards it changes nothing.
While a copy is unfinished a mark beside its files says of which stain it is, so that no other is laid over it.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wsistain.errors import OutputError
from wsistain.output.reading import read_stain
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.slide.tiffslide_reader import storage_options
from wsistain.slide.zarr_store import METADATA

_ROOT = ("zarr.json", ".zgroup", ".zattrs")
"""Metadata of the root, in the order in which it is written: the last one there makes the output a finished one."""

_MARK = ".wsistain-copy"
"""A file that an unfinished copy holds: the hash of the names and bytes of all files of its stain."""

_PIECE = 1 << 20
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True)
class PushDone:
    """What a copy did: files and bytes of the stain, and how many files were sent now (the others were there and whole)."""

    url: str
    files: int
    size: int
    sent: int


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    size: int
    md5: str
    stamp: int


def push_stain(
    zarr_path: Path | str,
    url: str,
    *,
    threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> PushDone:
    """Copies a finished stain to `url`; what was done.

    url      : of the .ome.zarr to be, as s3://bucket/results/slide.ER.ome.zarr; credentials are the store's own business
               (environment, configuration files).
    progress : called with (files there and whole, files in all).

    Nothing of others is replaced or deleted: OutputError where the place holds another stain, finished or not, or files that
    are no part of this one, where the stain is not finished or changes meanwhile, and where the store refuses or holds other bytes.
    """
    import fsspec

    if not url.rstrip("/").endswith(".zarr"):
        raise OutputError(
            f"{url} does not end in .ome.zarr; give the whole name, as s3://bucket/results/slide.ER.ome.zarr"
        )
    read_stain(zarr_path)
    with _told(url):
        store, root = fsspec.core.url_to_fs(url.rstrip("/"), **storage_options(url))
    place = _Place(url, store, root.rstrip("/"))
    files = list(_files_of(Path(zarr_path)))
    body = [file for file in files if file.name not in _ROOT]
    heads = [file for name in _ROOT for file in files if file.name == name]

    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(files))

    with _told(url), thread_pool(threads, "push") as pool:
        held = place.listing()
        _refuse_others(place, held, files, heads)
        if not held:
            place.mark(_identity(files))

        # Pixels, then what describes them: no layer of it looks finished too early either.
        sent = 0
        for is_metadata in (False, True):
            part = [file for file in body if (file.path.name in METADATA) == is_metadata]
            for was_sent in in_order(pool, partial(place.send, held), part, 2 * threads):
                sent += was_sent
                step()
            held = place.listing()
            whole = in_order(pool, partial(place.arrived, held), part, 2 * threads)
            for file, is_whole in zip(part, whole, strict=True):
                if not is_whole:
                    raise _not_arrived(url, file)
        _refuse_changed(zarr_path, files)

        # The root last: from here on it is finished.
        for file in heads:
            sent += place.send(held, file)
            if not place.reads_back(file):
                place.remove(file.name)
                raise _not_arrived(url, file)
            step()
        with suppress(OSError):  # who may write need not be allowed to delete, and beside a root the mark says nothing
            place.remove(_MARK)
    return PushDone(url, len(files), sum(file.size for file in files), sent)


def _refuse_others(
    place: "_Place", held: dict[str, dict[str, Any]], files: Sequence[_File], heads: Sequence[_File]
) -> None:
    """OutputError where a place holds what is no part of this stain. A root or a mark that is there must be that of this one."""
    foreign = sorted(held.keys() - {file.name for file in files} - {_MARK})
    if foreign:
        raise OutputError(
            f"{place.url} holds {len(foreign)} files that are no part of this stain ({foreign[0]}); choose another name"
        )
    for file in heads:
        if file.name in held and not place.is_same(file, held[file.name]):
            raise OutputError(
                f"{place.url} holds another finished stain; choose another name, or delete it there first"
            )
    is_finished = all(file.name in held for file in heads)
    if held and not is_finished and place.marked() != _identity(files):
        raise OutputError(
            f"{place.url} holds {len(held)} files of an unfinished copy of another stain; choose another name, or delete "
            "them there first"
        )


def _identity(files: Sequence[_File]) -> str:
    told = "".join(f"{file.md5} {file.name}\n" for file in files)
    return hashlib.sha256(told.encode()).hexdigest()


def _not_arrived(url: str, file: _File) -> OutputError:
    return OutputError(f"{url}/{file.name} did not arrive as it was sent; run the same command again")


@dataclass(frozen=True)
class _Place:
    """A folder in a store."""

    url: str
    store: Any
    root: str

    def listing(self) -> dict[str, dict[str, Any]]:
        """What the store tells of each file below, by its name there; asked anew."""
        self.store.invalidate_cache()
        try:
            found = self.store.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self.root) + 1
        return {path[start:]: info for path, info in found.items() if path.startswith(f"{self.root}/")}

    def send(self, held: dict[str, dict[str, Any]], file: _File) -> bool:
        """Sends a file unless the store says that it has these bytes; whether it was sent."""
        if file.name in held and _md5_of(held[file.name]) == file.md5 and held[file.name].get("size") == file.size:
            return False
        # No folders are made: object stores have none, and asked for one they would make a bucket of a misspelt name.
        self.store.put_file(str(file.path), f"{self.root}/{file.name}")
        return True

    def arrived(self, held: dict[str, dict[str, Any]], file: _File) -> bool:
        """Whether the store holds a file as it is here."""
        return file.name in held and self.is_same(file, held[file.name])

    def is_same(self, file: _File, info: dict[str, Any]) -> bool:
        """By size and the store's MD5; by reading back where it tells none, or one of other bytes (encrypted, in parts)."""
        return info.get("size") == file.size and (_md5_of(info) == file.md5 or self.reads_back(file))

    def reads_back(self, file: _File) -> bool:
        """Whether the bytes there are those here."""
        digest = hashlib.md5(usedforsecurity=False)
        with self.store.open(f"{self.root}/{file.name}", "rb") as handle:
            while piece := handle.read(_PIECE):
                digest.update(piece)
        return digest.hexdigest() == file.md5

    def mark(self, identity: str) -> None:
        """Says of which stain the copy is that begins."""
        self.store.pipe_file(f"{self.root}/{_MARK}", identity.encode())

    def marked(self) -> str | None:
        """Of which stain an unfinished copy is; None where nothing says so."""
        try:
            return bytes(self.store.cat_file(f"{self.root}/{_MARK}")).decode(errors="replace")
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Takes a file away that must not stay."""
        with suppress(FileNotFoundError):
            self.store.rm_file(f"{self.root}/{name}")


def _files_of(folder: Path) -> Iterator[_File]:
    """Every file of a stain, in order of names. OutputError for what is no ordinary file."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file():
            raise OutputError(f"{path} is no ordinary file; a finished stain has none such: look at what put it there")
        before = path.stat()
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as handle:
            while piece := handle.read(_PIECE):
                digest.update(piece)
        yield _File(path.relative_to(folder).as_posix(), path, before.st_size, digest.hexdigest(), before.st_mtime_ns)


def _refuse_changed(folder: Path | str, files: list[_File]) -> None:
    """OutputError where the stain is not what it was when the copy began."""
    now = {p.relative_to(folder).as_posix(): p.stat() for p in Path(folder).rglob("*") if p.is_file()}
    if {n: (s.st_size, s.st_mtime_ns) for n, s in now.items()} != {f.name: (f.size, f.stamp) for f in files}:
        raise OutputError(
            f"{folder} changed while it was copied, and the copy was left unfinished; run the same command again"
        )


def _md5_of(info: dict[str, Any]) -> str | None:
    """The MD5 of a file that a store tells, as hex digits: S3's ETag of what came in one part, or GCS's `md5Hash`."""
    told = info.get("md5Hash")
    if isinstance(told, str):
        try:
            return base64.b64decode(told, validate=True).hex()
        except (binascii.Error, ValueError):
            return None
    found = _MD5.fullmatch(str(info.get("ETag", "")))
    return found[1] if found else None


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What a store raises as one sentence; its libraries have errors of many families."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        if isinstance(error, ImportError):
            raise OutputError(f"{url} needs a package ({error}); pip install 'wsistain[remote]'") from None
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise OutputError(
            f"{url} cannot be written: {said}; look at the address and your credentials, then run the same command again "
            "(what arrived is kept)"
        ) from error
