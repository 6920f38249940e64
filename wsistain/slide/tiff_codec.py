"""The pixels of one TIFF tile from its bytes: each function takes what is stored and returns uint8 (h, w, samples)."""

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsistain.slide.base import RGB
from wsistain.slide.tiff_codes import BYTE_CODECS, JP2K_CODECS, Codec, Photometric, Predictor
from wsistain.slide.tiff_colour import n_bytes, to_rgb, unpacked
from wsistain.slide.tiff_structure import TiffLevel

DECODE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What codecs raise on damaged tiles (each codec's own error is a RuntimeError)."""

_JP2K_STYLE = b"\xff\x52"

_JCS_GRAY, _JCS_RGB, _JCS_YCBCR = 1, 2, 3  # libjpeg's colour space numbers


def decode_tile(parts: list[bytes], level: TiffLevel, out: RGB | None = None) -> RGB:
    """A tile as uint8 (tile_h, tile_w, 3) from its one interleaved or three planar pieces.

    out : C-contiguous memory of that shape to decode into; the result is then `out` itself.
    Raises one of DECODE_ERRORS when the bytes cannot be decoded or hold another shape.
    """
    if level.planes == 1:
        return _decode_plane(parts[0], level, out)
    tile = np.stack([_decode_plane(part, level, None)[..., 0] for part in parts], axis=-1, out=out)
    if level.chroma is not None:
        to_rgb(tile, level.chroma)
    return tile


def _decode_plane(data: bytes, level: TiffLevel, out: RGB | None) -> RGB:
    """One stored piece as uint8 (tile_h, tile_w, samples), samples 3 or, for one plane of three, 1."""
    if out is None:
        out = np.empty((level.tile_h, level.tile_w, 3 // level.planes), np.uint8)
    compression = level.compression
    if compression in BYTE_CODECS:
        _decode_samples(data, level, out)
    elif compression == Codec.JPEG:
        _decode_jpeg(data, level, out)
    elif compression in JP2K_CODECS:
        tile = imagecodecs.jpeg2k_decode(data, numthreads=1)
        _fit(tile.reshape(*tile.shape[:2], out.shape[2]), out)
        if compression == Codec.JP2K_YCBCR and out.shape[2] == 3:
            _rgb_from_ycbcr(out)
        elif level.planes == 1 and level.chroma is not None and not _has_colour_transform(data):
            to_rgb(out, level.chroma)
    else:
        _fit(_decode_picture(data, compression, out.shape[2]), out)
    return out


def _decode_samples(data: bytes, level: TiffLevel, out: RGB) -> None:
    """Fill `out` from a tile whose samples are kept as they are, and turn YCbCr into RGB."""
    chroma = level.chroma if level.planes == 1 else None
    if chroma is None or (chroma.across, chroma.down) == (1, 1):
        _decode_bytes(data, level, out.reshape(-1))
        if level.predictor == Predictor.HORIZONTAL:
            imagecodecs.delta_decode(out, axis=-2, out=out)
    else:
        flat = np.empty(n_bytes(chroma, *out.shape[:2]), np.uint8)
        _decode_bytes(data, level, flat)
        unpacked(flat, chroma, out)
    if chroma is not None:
        to_rgb(out, chroma)


def _decode_bytes(data: bytes, level: TiffLevel, flat: NDArray[np.uint8]) -> None:
    """Fill `flat` from lossless tile bytes; ValueError when they hold less."""
    match level.compression:
        case Codec.DEFLATE | Codec.DEFLATE_OLD:
            n = len(imagecodecs.zlib_decode(data, out=flat.data))
        case Codec.LZW:
            n = len(imagecodecs.lzw_decode(data, out=flat.data))
        case Codec.ZSTD | Codec.ZSTD_OLD:
            n = len(imagecodecs.zstd_decode(data, out=flat.data))
        case Codec.PACKBITS:
            n = _filled(imagecodecs.packbits_decode(data), flat)
        case Codec.LZMA:
            n = _filled(imagecodecs.lzma_decode(data, out=flat.size), flat)
        case Codec.LERC:
            n = _filled(_lerc_samples(data, level.packing), flat)
        case _:
            n = _filled(data, flat)
    if n < flat.size:
        raise ValueError(f"the tile holds {n} of {flat.size} bytes")


def _filled(data: bytes | bytearray, flat: NDArray[np.uint8]) -> int:
    """Copy bytes to `flat` as far as both reach; how many."""
    n = min(len(data), flat.size)
    flat[:n] = np.frombuffer(data, np.uint8, n)
    return n


def _lerc_samples(data: bytes, packing: int) -> bytes:
    if packing == Codec.DEFLATE:
        data = bytes(imagecodecs.zlib_decode(data))
    elif packing == Codec.ZSTD:
        data = bytes(imagecodecs.zstd_decode(data))
    tile = imagecodecs.lerc_decode(data)
    if tile.dtype != np.uint8:
        raise ValueError(f"the tile holds {tile.dtype}")
    return bytes(tile.tobytes())


def _decode_picture(data: bytes, compression: int, samples: int) -> NDArray[np.uint8]:
    """A tile of a codec that knows colour itself: uint8 (h, w, samples); ValueError when it holds another picture."""
    if compression in (Codec.WEBP, Codec.WEBP_OLD):
        tile = imagecodecs.webp_decode(data)
    else:
        tile = imagecodecs.jpegxl_decode(data, numthreads=1)
    if tile.ndim == 2:
        tile = tile[..., None]
    if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] not in (samples, samples + 1):
        raise ValueError(f"the tile holds {tile.shape} of {tile.dtype}")
    return tile[..., :samples]


def _has_colour_transform(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream turns its samples into RGB by itself (the COD marker says so)."""
    at = data.find(_JP2K_STYLE)
    return at >= 0 and len(data) > at + 8 and data[at + 8] == 1


def _decode_jpeg(data: bytes, level: TiffLevel, out: RGB) -> None:
    """Decode a JPEG tile into `out`; photometric RGB (Aperio) has no colour transform, shared tables are passed on."""
    tables = level.jpeg_tables
    _refuse_damaged_jpeg(data, tables)
    if out.shape[2] == 1:
        space, to, flat = _JCS_GRAY, _JCS_GRAY, out[..., 0]
    else:
        space, to, flat = _JCS_YCBCR if level.photometric == Photometric.YCBCR else _JCS_RGB, _JCS_RGB, out
    try:
        imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace=to, out=flat)
    except ValueError:  # a frame of another size
        tile = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace=to)
        _fit(tile.reshape(*tile.shape[:2], out.shape[2]), out)


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


def _fit(tile: NDArray[np.uint8], out: RGB) -> None:
    """Put a decoded frame into a tile: some writers store the last tiles of a row or column cut to the picture."""
    part = tile[: out.shape[0], : out.shape[1]]
    if part.shape != out.shape:
        out.fill(255)
    out[: part.shape[0], : part.shape[1]] = part


def _chroma_tables() -> tuple[NDArray[np.int32], ...]:
    """Red from Cr, blue from Cb, and the two parts of green in 16-bit fixed point (JFIF's ITU-R BT.601 numbers).

    Each entry is rounded by itself, which gives OpenSlide's bytes.
    """
    c = np.arange(-128, 128)
    red, blue = np.rint(1.402 * c), np.rint(1.772 * c)
    green_cb, green_cr = np.rint(-0.34414 * 65536 * c) + (1 << 15), np.rint(-0.71414 * 65536 * c)
    return tuple(part.astype(np.int32) for part in (red, blue, green_cb, green_cr))


_RED, _BLUE, _GREEN_CB, _GREEN_CR = _chroma_tables()


def _rgb_from_ycbcr(tile: RGB) -> None:
    """Turn Y, Cb, Cr into RGB in place (Aperio's JPEG 2000 code 33003 has no transform inside the codestream)."""
    luma, cb, cr = (tile[..., i].copy() for i in range(3))
    tile[..., 0] = np.clip(luma + _RED[cr], 0, 255)
    tile[..., 1] = np.clip(luma + ((_GREEN_CB[cb] + _GREEN_CR[cr]) >> 16), 0, 255)
    tile[..., 2] = np.clip(luma + _BLUE[cb], 0, 255)
