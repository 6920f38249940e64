"""Chunks that unpack to more than they may are known before they are unpacked."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, GZip, Zstd

from wsistain.slide.reader import open_slide
from wsistain.slide.zarr_store import unpacks_past

PACKERS = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "blosc": Blosc("zstd", 3).encode,
    "zstd": Zstd(3).encode,
}


def test_zstandard_that_does_not_state_its_size_is_unpacked_no_further_than_it_may() -> None:
    # A frame without a content size: the header of RFC 8878 with a window of 1 MiB, then blocks of one repeated byte.
    blocks = [(128 << 10, False)] * 400 + [(5, True)]
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 0x50])
    frame += b"".join(((n << 3) | (1 << 1) | last).to_bytes(3, "little") + b"\x07" for n, last in blocks)
    size = 400 * (128 << 10) + 5
    assert Zstd().decode(frame) == b"\x07" * size
    assert not unpacks_past(frame, size)
    assert unpacks_past(frame, size - 1) and unpacks_past(frame, 1 << 20)
    assert not unpacks_past(frame[:-3], size)  # damaged: its codec says so


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("content", ["blank", "noise"])
def test_what_a_chunk_unpacks_to_is_counted(name: str, content: str) -> None:
    raw = bytes(1 << 20) if content == "blank" else np.random.default_rng(0).bytes(1 << 20)
    packed = PACKERS[name](raw)
    assert not unpacks_past(packed, len(raw))
    if content == "blank":
        assert unpacks_past(packed, len(raw) - 1)
        assert unpacks_past(packed, len(packed) + 1)


def test_anything_else_is_left_to_its_codec() -> None:
    for odd in (b"", b"\x78", b"\x1f\x8b" + b"x" * 40, b"BZh9 and no more", b"\xfd7zXZ\0" + b"y" * 30, b"\x78" * 64):
        assert not unpacks_past(odd, 10**6)
    packed = gzip.compress(bytes(10**6))
    assert not unpacks_past(packed, len(packed))  # as long as a chunk that is not packed
    assert unpacks_past(packed, 10)  # a file may be longer than what it should hold


def _decode(packed: bytes) -> bytes:
    raw = gzip.decompress(bytes(packed))
    assert len(raw) <= 3 * 256 * 256, "a bomb was unpacked"
    return raw


def test_a_bomb_of_a_chunk_is_an_unreadable_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    array = group.create_array(
        "0", shape=(3, 512, 512), chunks=(3, 256, 256), dtype="u1", compressors=GZip(1),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    array[:] = np.random.default_rng(0).integers(90, 200, (3, 512, 512), dtype=np.uint8)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    transform = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": transform}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    chunk = path / "0" / "0" / "0" / "0"
    assert chunk.is_file()
    chunk.write_bytes(gzip.compress(bytes(64 << 20)))
    monkeypatch.setattr(GZip, "decode", lambda _, packed, out=None: _decode(packed))
    slide = open_slide(path)
    try:
        pixels = slide.read_level(0, 0, 0, 512, 512)
        assert len(slide.unreadable_keys) == 1
        assert (pixels[:256, :256] == 255).all()
        assert pixels[256:].std() > 10
    finally:
        slide.close()
