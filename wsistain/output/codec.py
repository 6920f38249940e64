"""How a chunk is compressed: what makes its bytes, and what the metadata says of them, side by side.

Chunks are compressed on our own threads (see `shard`); zarr-python only writes the metadata, so both must name the same
codec. Zarr v3 (OME-Zarr 0.5) stores plain Zstandard frames. Zarr v2 (0.4) stores Zstandard in a Blosc 1 frame, bits of
like weight side by side (imagecodecs: its calls share no threads and no lock).

Source: Zarr v3 core specification, codec "zstd"; c-blosc 1 frame format.
"""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numcodecs import Blosc, zstd
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsistain.config import OutputConfig
from wsistain.errors import OutputError

Compress = Callable[[NDArray[np.uint8]], bytes]

BLOSC_MAX_LEVEL = 9


def check_codec(storage: OutputConfig) -> None:
    """OutputError where the codec of the OME-Zarr version cannot do what the options want."""
    if storage.ngff == "0.4" and storage.zstd_level > BLOSC_MAX_LEVEL:
        limit = f"{BLOSC_MAX_LEVEL}, where the codec of OME-Zarr 0.4 ends"
        raise OutputError(f"zstd level {storage.zstd_level} is above {limit}; try --set output.zstd_level=1")


def compressor(storage: OutputConfig) -> Compress:
    """What turns a contiguous uint8 chunk into the bytes that are stored."""
    level = storage.zstd_level
    if storage.ngff == "0.5":
        return lambda chunk: bytes(zstd.compress(chunk, level))
    return lambda chunk: bytes(
        imagecodecs.blosc_encode(
            chunk.tobytes(), level=level, compressor="zstd", shuffle="bitshuffle", typesize=1, numthreads=1
        )
    )


def zarr_codec(storage: OutputConfig) -> Any:
    """The same codec as zarr-python describes it in the metadata."""
    if storage.ngff == "0.5":
        return ZstdCodec(level=storage.zstd_level, checksum=False)
    return Blosc(cname="zstd", clevel=storage.zstd_level, shuffle=Blosc.BITSHUFFLE)


def compress_piece(chunk: NDArray[np.uint8]) -> bytes:
    """The bytes of a chunk of a temporary piece: always Zstandard, as fast as it goes."""
    return bytes(zstd.compress(chunk, 1))


def decompress_piece(data: bytes) -> NDArray[np.uint8]:
    """The flat values of such a chunk."""
    return np.frombuffer(zstd.decompress(data), np.uint8)
