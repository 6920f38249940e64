"""The pixels of one TIFF tile from its bytes: each function takes what is stored and returns uint8 (h, w, samples)."""

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsistain.slide.base import RGB
from wsistain.slide.tiff_structure import YCBCR_PHOTOMETRIC, TiffLevel

DECODE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What codecs raise on damaged tiles (each codec's own error is a RuntimeError)."""

_JCS_GRAY, _JCS_RGB, _JCS_YCBCR = 1, 2, 3  # libjpeg's colour space numbers


def decode_plane(data: bytes, level: TiffLevel) -> NDArray[np.uint8]:
    """One stored tile as uint8 (tile_h, tile_w, samples), samples 3 or, for one plane of three, 1.

    Raises one of DECODE_ERRORS when the bytes cannot be decoded or hold another shape.
    """
    samples = 3 // level.planes
    match level.compression:
        case 7:
            _refuse_damaged_jpeg(data, level.jpeg_tables)
            space = _JCS_GRAY if samples == 1 else _JCS_YCBCR if level.photometric == YCBCR_PHOTOMETRIC else _JCS_RGB
            out = _JCS_GRAY if samples == 1 else _JCS_RGB
            tile = imagecodecs.jpeg8_decode(data, tables=level.jpeg_tables, colorspace=space, outcolorspace=out)
            return _fit(tile.reshape(*tile.shape[:2], samples), level)
        case 33003 | 33005 | 34712:
            tile = imagecodecs.jpeg2k_decode(data, numthreads=1)
            tile = _fit(tile.reshape(*tile.shape[:2], samples), level)
            return _rgb_from_ycbcr(tile) if level.compression == 33003 and samples == 3 else tile
        case 8 | 32946:
            raw = imagecodecs.zlib_decode(data, out=level.tile_h * level.tile_w * samples)
        case 5:
            raw = imagecodecs.lzw_decode(data, out=level.tile_h * level.tile_w * samples)
        case 50000:
            raw = imagecodecs.zstd_decode(data, out=level.tile_h * level.tile_w * samples)
        case _:
            raw = data
    tile = np.frombuffer(raw, np.uint8, level.tile_h * level.tile_w * samples)
    tile = tile.reshape(level.tile_h, level.tile_w, samples)
    if level.predictor == 2:
        tile = imagecodecs.delta_decode(tile, axis=-2)
    return tile


def decode_tile(parts: list[bytes], level: TiffLevel) -> RGB:
    """A tile as RGB from its one interleaved or three planar pieces; raises one of DECODE_ERRORS."""
    if level.planes == 1:
        return decode_plane(parts[0], level)
    return np.concatenate([decode_plane(part, level) for part in parts], axis=-1)


_START_OF_SCAN, _END_OF_IMAGE, _HUFFMAN_TABLES = b"\xff\xda", b"\xff\xd9", b"\xff\xc4"
_HOLE = bytes(64)


def _refuse_damaged_jpeg(data: bytes, tables: bytes | None) -> None:
    """Raise ValueError for streams that libjpeg would fill in with a mere warning: cut ones and ones with holes.

    Zeros in the scan are legal only where the all-zero Huffman codes mean "nothing changes", as optimised tables of
    flat tiles have it; elsewhere a run of 64 zero bytes is a page of the file that was never copied.
    """
    if data.rfind(_END_OF_IMAGE, -64) < 0 and data.find(_END_OF_IMAGE, max(data.find(_START_OF_SCAN), 0)) < 0:
        raise ValueError("the JPEG data end early")
    if _HOLE in data and not _zeros_are_legal(data[: data.find(_START_OF_SCAN)], tables or b""):
        raise ValueError("the JPEG data have a hole")


def _zeros_are_legal(*headers: bytes) -> bool:
    """Whether every Huffman table in JPEG headers gives its first, all-zero code to "no change" or "end of block"."""
    for header in headers:
        at = header.find(_HUFFMAN_TABLES)
        while at >= 0:
            end = min(at + 2 + int.from_bytes(header[at + 2 : at + 4]), len(header))
            table = at + 4
            while table + 17 < end:
                if header[table + 17] != 0:
                    return False
                table += 17 + sum(header[table + 1 : table + 17])
            at = header.find(_HUFFMAN_TABLES, max(end, at + 2))
    return True


def _fit(tile: NDArray[np.uint8], level: TiffLevel) -> NDArray[np.uint8]:
    """A decoded frame as a full tile: some writers store the last tiles of a row or column cut to the picture."""
    height, width = tile.shape[:2]
    if (height, width) == (level.tile_h, level.tile_w):
        return tile
    whole = np.full((level.tile_h, level.tile_w, tile.shape[2]), 255, np.uint8)
    part = tile[: level.tile_h, : level.tile_w]
    whole[: part.shape[0], : part.shape[1]] = part
    return whole


def _chroma_tables() -> tuple[NDArray[np.int32], ...]:
    """Red from Cr, blue from Cb, and the two parts of green in 16-bit fixed point (JFIF's ITU-R BT.601 numbers).

    Each entry is rounded by itself, which gives OpenSlide's bytes.
    """
    c = np.arange(-128, 128)
    red, blue = np.rint(1.402 * c), np.rint(1.772 * c)
    green_cb, green_cr = np.rint(-0.34414 * 65536 * c) + (1 << 15), np.rint(-0.71414 * 65536 * c)
    return tuple(part.astype(np.int32) for part in (red, blue, green_cb, green_cr))


_RED, _BLUE, _GREEN_CB, _GREEN_CR = _chroma_tables()


def _rgb_from_ycbcr(tile: NDArray[np.uint8]) -> RGB:
    """RGB of a tile stored as Y, Cb, Cr (Aperio's JPEG 2000 code 33003 has no transform inside the codestream)."""
    luma, cb, cr = (tile[..., i] for i in range(3))
    rgb = np.empty(tile.shape, np.int32)
    rgb[..., 0] = luma + _RED[cr]
    rgb[..., 1] = luma + ((_GREEN_CB[cb] + _GREEN_CR[cr]) >> 16)
    rgb[..., 2] = luma + _BLUE[cb]
    return np.clip(rgb, 0, 255).astype(np.uint8)
