"""Tiled TIFFs written by hand, for what tifffile does not write: stored YCbCr with any subsampling."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_FORMS = {3: "H", 4: "I", 5: "II", 7: "B"}


def write_raw_tiff(
    path: Path,
    shape: tuple[int, int],
    tile: tuple[int, int],
    tiles: Sequence[bytes],
    *,
    compression: int = 1,
    photometric: int = 6,
    planar: int = 1,
    um: float = 0.5,
    extra: Sequence[tuple[int, int, Sequence[Any]]] = (),
) -> Path:
    """One page of 8-bit samples, three a px; `extra` holds (tag, type, values), rationals as flat pairs."""
    data, offsets = bytearray(struct.pack("<2sHI", b"II", 42, 0)), []
    for piece in tiles:
        offsets.append(len(data))
        data += piece + bytes(len(piece) % 2)
    per_cm = (round(1e4 / um), 1)
    tags: list[tuple[int, int, Sequence[Any]]] = [
        (256, 4, [shape[1]]), (257, 4, [shape[0]]), (258, 3, [8, 8, 8]), (259, 3, [compression]),
        (262, 3, [photometric]), (277, 3, [3]), (282, 5, per_cm), (283, 5, per_cm), (284, 3, [planar]), (296, 3, [3]),
        (322, 3, [tile[1]]), (323, 3, [tile[0]]), (324, 4, offsets), (325, 4, [len(t) for t in tiles]), *extra,
    ]  # fmt: skip
    entries = b""
    for tag, kind, values in sorted(tags, key=lambda t: t[0]):
        form = _FORMS[kind]
        packed = struct.pack("<" + form[0] * len(values), *values)
        n = len(values) // len(form)
        if len(packed) > 4:
            where = len(data)
            data += packed + bytes(len(packed) % 2)
            packed = struct.pack("<I", where)
        entries += struct.pack("<HHI", tag, kind, n) + packed.ljust(4, b"\0")
    struct.pack_into("<I", data, 4, len(data))
    path.write_bytes(bytes(data) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    return path


def packed(samples: bytes, compression: int) -> bytes:
    """Bytes of a tile under a lossless codec by its TIFF number."""
    encode = {
        1: bytes,
        5: imagecodecs.lzw_encode,
        8: imagecodecs.zlib_encode,
        32773: imagecodecs.packbits_encode,
        50000: imagecodecs.zstd_encode,
    }[compression]
    return bytes(encode(samples))


def units(tile: NDArray[np.uint8], across: int, down: int) -> bytes:
    """Y, Cb, Cr of a tile (h, w, 3) as TIFF stores them: down x across Y, then the Cb and Cr of the first px."""
    height, width = tile.shape[:2]
    rows, cols = height // down, width // across
    luma = tile[..., 0].reshape(rows, down, cols, across).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    chroma = tile[::down, ::across, 1:]
    return np.concatenate([luma, chroma], axis=-1).tobytes()
