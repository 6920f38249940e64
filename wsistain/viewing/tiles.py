"""Tiles as they are sent: encoded once, kept in memory, named by an ETag."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import imagecodecs
import numpy as np

from wsistain.runtime.jpeg import encode_jpeg
from wsistain.viewing.pictures import Picture, Pixels

CACHE_BYTES = 256 << 20
MEDIA = {"jpg": "image/jpeg", "png": "image/png"}


def encode(pixels: Pixels, form: str) -> bytes:
    """A JPEG or PNG of pixels, uint8 (h, w, 3) or, PNG alone, (h, w, 4)."""
    if form == "png":
        return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1))
    return encode_jpeg(pixels)


@dataclass(frozen=True)
class Tile:
    """An encoded tile, and the name under which a browser knows that it has it."""

    data: bytes
    media: str
    etag: str


class TileCache:
    """Encoded tiles by picture, place and version; the least recently used go first."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._tiles: OrderedDict[tuple[str, int, int, int, str], Tile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, picture: Picture, k: int, row: int, col: int) -> Tile:
        """The tile of a picture, made where it is not kept. Errors of reading pass through."""
        version = picture.version(k, row, col)
        key = (name, k, row, col, version)
        with self._lock:
            found = self._tiles.get(key)
            if found is not None:
                self._tiles.move_to_end(key)
                return found
        data = encode(picture.tile(k, row, col), picture.form)
        tile = Tile(data, MEDIA[picture.form], etag_of(*map(str, key)))
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._bytes += len(data)
            while self._bytes > self._most and len(self._tiles) > 1:
                self._bytes -= len(self._tiles.popitem(last=False)[1].data)
        return tile


def etag_of(*parts: str) -> str:
    """A strong ETag of everything that decides the bytes."""
    return f'"{hashlib.blake2b(chr(0).join(parts).encode(), digest_size=10).hexdigest()}"'
