"""The same page without a server of ours: a folder of Deep Zoom tiles, cells and the page, for any web server."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsistain.errors import OutputError
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.runtime.files import local_path, part_of, reporting
from wsistain.viewing.app import THUMBNAIL_PX, page_files
from wsistain.viewing.gallery import Gallery
from wsistain.viewing.pictures import Picture, thumbnail
from wsistain.viewing.tiles import encode

MARK = "wsistain-view.json"
"""A folder that holds this file was written here, and may be replaced."""

THREADS = 2

Progress = Callable[[str, int, int], None]


@dataclass
class Written:
    """How many files were written, and their bytes."""

    files: int = 0
    size: int = 0


def write_static(
    gallery: Gallery, folder: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Written:
    """Write everything finished in the gallery to `folder`, in one move.

    OutputError where the folder exists and was not written by this, or `overwrite` is not given, or nothing is finished.
    """
    folder = local_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise OutputError(f"{folder} exists; pass --overwrite to replace it, or choose another folder")
        if not (folder / MARK).is_file():
            raise OutputError(f"{folder} exists and was not written by wsistain view; choose another folder")
    listing = gallery.listing()
    listing["results"] = [r for r in listing["results"] if r["state"] == "finished"]
    if not listing["results"]:
        raise OutputError("none of the results is finished, so there is nothing to write; finish the run first")
    listing |= {"static": True, "is_live": False}
    part = part_of(folder.absolute())
    with reporting(folder, retry="run again"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            done = _write(gallery, listing, part, progress)
            if folder.exists():
                shutil.rmtree(folder)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return done


def _write(gallery: Gallery, listing: dict[str, Any], folder: Path, progress: Progress | None) -> Written:
    done = Written()

    def put(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        done.files, done.size = done.files + 1, done.size + len(data)

    def put_json(name: str, values: Any) -> None:
        put(name, json.dumps(values, separators=(",", ":"), allow_nan=False).encode())

    # The page, told that nobody answers behind it.
    for name, data in page_files().items():
        if name == "index.html":
            put(name, data.replace(b'content="server"', b'content="static"'))
        else:
            put(f"page/{name}", data)
    kept = {r["sample"] for r in listing["results"]}
    listing["samples"] = [s for s in listing["samples"] if s["id"] in kept]

    # Pictures, cells and areas, each under the address that a server has for it.
    names = _pictures(listing)
    total = sum(_known(gallery, name).frame.n_tiles for name in names)
    count = 0
    for name in names:
        picture = _known(gallery, name)
        put(f"tiles/{name}.dzi", picture.frame.descriptor(picture.form).encode())
        put_json(f"frames/{name}.json", picture.frame.facts())
        for place, data in _tiles(picture):
            put(f"tiles/{name}_files/{place}.{picture.form}", data)
            count += 1
            if progress is not None:
                progress("tiles", count, total)
        if picture.form == "jpg":
            put(f"thumbnails/{name}.jpg", encode(thumbnail(picture, THUMBNAIL_PX), "jpg"))
    for result in listing["results"]:
        result["path"] = Path(result["path"]).name  # where it lay is nobody's business
        cells = gallery.cells(result["id"]) if result.get("cells") else None
        if cells is not None:
            put_json(f"cells/{result['id']}/index.json", cells.index())
            for row, col in cells.squares:
                put_json(f"cells/{result['id']}/{row}_{col}.json", cells.square(row, col))
    for sample in listing["samples"]:
        put_json(f"shapes/{sample['id']}.json", gallery.shapes(sample["id"]))
    put_json("api/results.json", listing)
    put_json(MARK, {"wsistain": listing["wsistain"], "statement": listing["statement"]})
    return done


def _pictures(listing: dict[str, Any]) -> list[str]:
    """Names of all pictures that the page may ask for."""
    names = []
    for sample in listing["samples"]:
        if "picture" in sample:
            names += [sample["picture"]["name"], f"{sample['picture']['name']}.tissue"]
    for result in listing["results"]:
        told = [result.get("picture"), result.get("real"), *result.get("layers", {}).values()]
        names += [picture["name"] for picture in told if picture]
    return names


def _known(gallery: Gallery, name: str) -> Picture:
    picture = gallery.picture(name)
    if picture is None:
        raise OutputError(f"the picture {name} is gone; run again")
    return picture


def _tiles(picture: Picture) -> Any:
    """(place, bytes) of every tile, the smallest level first."""
    frame = picture.frame
    places = [
        (k, row, col)
        for k in range(frame.halvings, -1, -1)
        for row in range(frame.grid(k)[0])
        for col in range(frame.grid(k)[1])
    ]

    def make(place: tuple[int, int, int]) -> tuple[str, bytes]:
        k, row, col = place
        return f"{frame.halvings - k}/{col}_{row}", encode(picture.tile(k, row, col), picture.form)

    with thread_pool(THREADS, "tiles") as pool:
        yield from in_order(pool, make, places, 2 * THREADS)
