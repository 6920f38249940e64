"""The codecs of what is stored: of chunks, as the metadata names them, and of the temporary pieces.

Zarr v3 (OME-Zarr 0.5) stores plain Zstandard frames. Zarr v2 (0.4) stores Zstandard in a Blosc 1 frame, bits of like
weight side by side.

Source: Zarr v3 core specification, codec "zstd"; c-blosc 1 frame format.
"""

from typing import Any

import numpy as np
from numcodecs import Blosc, zstd
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsistain.config import OutputConfig
from wsistain.errors import OutputError

BLOSC_MAX_LEVEL = 9


def check_codec(storage: OutputConfig) -> None:
    """OutputError where the codec of the OME-Zarr version cannot do what the options want."""
    if storage.ngff == "0.4" and storage.zstd_level > BLOSC_MAX_LEVEL:
        limit = f"{BLOSC_MAX_LEVEL}, where the codec of OME-Zarr 0.4 ends"
        raise OutputError(f"zstd level {storage.zstd_level} is above {limit}; try --set output.zstd_level=1")


def zarr_codec(storage: OutputConfig) -> Any:
    """What compresses a chunk, as zarr-python describes it in the metadata."""
    if storage.ngff == "0.5":
        return ZstdCodec(level=storage.zstd_level, checksum=False)
    return Blosc(cname="zstd", clevel=storage.zstd_level, shuffle=Blosc.BITSHUFFLE)


def compress_piece(planes: NDArray[np.uint8]) -> bytes:
    """The bytes of a temporary piece, uint8 (c, h, w): one frame of Zstandard with its checksum, as fast as it goes."""
    return bytes(zstd.compress(np.ascontiguousarray(planes), 1, True))


def decompress_piece(data: bytes) -> NDArray[np.uint8]:
    """The flat values of such a piece. RuntimeError or ValueError where it is damaged."""
    return np.frombuffer(zstd.decompress(data), np.uint8)
