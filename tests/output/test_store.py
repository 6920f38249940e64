"""What is written is what foreign readers read, each file once, and never half of one."""

import errno
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr

from tests.output.making import block_of, mean_pyramid, places, small_spec, tissue_like, tree_hash, write_all
from wsistain.errors import OutputError
from wsistain.output import shard
from wsistain.output.codec import compress_piece, decompress_piece
from wsistain.output.store import BlockDone, create_output, write_block
from wsistain.runtime import files
from wsistain.runtime.ahead import thread_pool

MISSING = 2**64 - 1  # in the index of a shard: no such chunk
SIZES = [(1, 1), (64, 64), (65, 33), (127, 300), (513, 257)]


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("size", SIZES)
def test_zarr_python_reads_back_every_level(tmp_path: Path, size: tuple[int, int], ngff: str) -> None:
    pixels = tissue_like(*size)
    spec = small_spec(tmp_path / "o", *size, ngff=ngff)
    write_all(spec, pixels)
    group = zarr.open_group(spec.path, mode="r")
    for level, expected in enumerate(mean_pyramid(pixels, len(spec.levels))):
        assert np.array_equal(group[str(level)][:], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("size", SIZES)
def test_tensorstore_reads_back_every_level(tmp_path: Path, size: tuple[int, int], ngff: str) -> None:
    pixels = tissue_like(*size)
    spec = small_spec(tmp_path / "o", *size, ngff=ngff)
    write_all(spec, pixels)
    driver = {"0.5": "zarr3", "0.4": "zarr"}[ngff]
    for level, expected in enumerate(mean_pyramid(pixels, len(spec.levels))):
        store = {"driver": "file", "path": f"{spec.path}/{level}/"}
        array = tensorstore.open({"driver": driver, "kvstore": store}, read=True).result()
        assert array.dtype.name == "uint8"
        assert np.array_equal(array.read().result(), expected.transpose(2, 0, 1))


def test_default_sizes_are_read_back_by_both_readers(tmp_path: Path) -> None:
    pixels = tissue_like(2500, 2100)
    spec = small_spec(tmp_path / "o", 2500, 2100, chunk=512, shard=2048, block=4096)
    write_all(spec, pixels, threads=2)
    store = {"driver": "file", "path": f"{spec.path}/0/"}
    array = tensorstore.open({"driver": "zarr3", "kvstore": store}, read=True).result()
    assert np.array_equal(array.read().result(), pixels.transpose(2, 0, 1))
    stored = zarr.open_array(spec.path, path="0", mode="r")
    assert stored.shards == (3, 2048, 2048)
    assert stored.chunks == (1, 512, 512)
    assert np.array_equal(stored[:, 2000:, 1500:], pixels.transpose(2, 0, 1)[:, 2000:, 1500:])


def test_shards_read_the_same_as_those_that_zarr_python_writes(tmp_path: Path) -> None:
    pixels = tissue_like(190, 130)
    spec = small_spec(tmp_path / "o", 190, 130)
    write_all(spec, pixels)
    ours = zarr.open_array(spec.path, path="0", mode="r")
    theirs = zarr.create_array(
        str(tmp_path / "theirs"),
        shape=ours.shape,
        dtype=ours.dtype,
        chunks=ours.chunks,
        shards=ours.shards,
        compressors=ours.compressors,
        fill_value=255,
    )
    theirs[:] = pixels.transpose(2, 0, 1)
    names = [
        sorted(p.relative_to(root).parts for p in root.rglob("c/*/*/*"))
        for root in (Path(spec.path) / "0", tmp_path / "theirs")
    ]
    assert names[0] == names[1]
    assert np.array_equal(ours[:], theirs[:])


def test_glass_chunks_are_absent_inside_a_shard_and_glass_shards_have_no_file(tmp_path: Path) -> None:
    pixels = np.full((128, 128, 3), 255, np.uint8)
    pixels[40, 5, 1] = 0  # one green value: chunk (1, 0) of the colour green alone
    spec = small_spec(tmp_path / "o", 128, 128)
    create_output(spec)
    done = write_block(spec, 0, 0, pixels)
    assert [f.path for f in done.files if f.path.startswith("0/")] == ["0/c/0/0/0"]
    data = (spec.folder / "0/c/0/0/0").read_bytes()
    table = data[-(3 * 2 * 2 * 16) - 4 : -4]
    assert struct.unpack("<I", data[-4:])[0] == google_crc32c.value(table)
    index = np.frombuffer(table, "<u8").reshape(3, 2, 2, 2)
    present = np.argwhere(index[..., 0] != MISSING)
    assert present.tolist() == [[1, 1, 0]]
    assert index[1, 1, 0].tolist() == [0, len(data) - len(table) - 4]
    assert (index[index[..., 0] == MISSING] == MISSING).all()


def test_glass_chunks_of_version_04_have_no_file(tmp_path: Path) -> None:
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[200, 5, 1] = 0
    spec = small_spec(tmp_path / "o", 256, 256, ngff="0.4")
    write_all(spec, pixels)
    assert spec.stored_chunk == 64
    assert [
        str(p.relative_to(spec.folder)) for p in (spec.folder / "0").rglob("*") if p.is_file() and "." not in p.name
    ] == ["0/1/3/0"]


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_each_file_is_written_once(tmp_path: Path, ngff: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: Counter[str] = Counter()
    write_file = shard.write_file

    def counting(folder: Path, name: str, buffers: list[bytes]) -> files.FileDone:
        written[name] += 1
        return write_file(folder, name, buffers)

    monkeypatch.setattr(shard, "write_file", counting)
    spec = small_spec(tmp_path / "o", 700, 500, ngff=ngff)
    done = write_all(spec, tissue_like(700, 500), threads=2)
    assert set(written.values()) == {1}
    stored = {str(p.relative_to(spec.folder)) for p in spec.folder.rglob("*") if p.is_file()}
    assert {n for n in stored if ".z" not in n and "zarr.json" not in n and "OME/" not in n} == {
        n for n in written if ".z" not in n
    }
    for level in range(len(spec.levels)):
        rows, cols = spec.shard_grid(level)
        possible = {f for r in range(rows) for c in range(cols) for f in spec.shard_files(level, r, c)}
        assert {n for n in written if n.startswith(f"{level}/")} <= possible
    assert sum(d.shards_written for d in done) == sum(n[:2] in ("0/", "1/") for n in written)


def test_the_record_of_a_block_tells_every_file_with_its_size_and_checksum(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    create_output(spec)
    done = write_block(spec, 0, 0, tissue_like(300, 300)[:128, :128])
    assert done.shards_written == 5  # four of level 0, one of level 1; the piece is not counted
    assert [f.path for f in done.files][-1] == spec.piece_file(0, 0)
    for file in done.files:
        data = (spec.folder / file.path).read_bytes()
        assert (len(data), google_crc32c.value(data)) == (file.size, file.crc)
    assert done.bytes_written == sum(f.size for f in done.files[:-1])
    assert done.seconds_encode > 0
    assert done.seconds_write > 0
    assert BlockDone.from_json(done.to_json()) == done


def test_writing_a_block_again_replaces_its_files_and_removes_what_became_glass(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    create_output(spec)
    pixels = tissue_like(128, 128)
    write_block(spec, 1, 1, pixels)
    before = tree_hash(spec.folder)
    (spec.folder / "0/c/0/2/2").write_bytes(b"damaged")
    write_block(spec, 1, 1, pixels)
    assert tree_hash(spec.folder) == before
    write_block(spec, 1, 1, np.full((128, 128, 3), 255, np.uint8))
    assert tree_hash(spec.folder) == {}


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((128, 128), np.uint8), np.zeros((128, 127, 3), np.uint8), np.zeros((128, 128, 3), np.float32)],
)
def test_pixels_of_another_shape_or_type_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    create_output(spec)
    with pytest.raises(ValueError, match=r"block \(0, 0\) takes uint8 \(128, 128, 3\)"):
        write_block(spec, 0, 0, pixels)
    assert tree_hash(spec.folder) == {}


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.ESTALE, "look at the disk")],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_write_that_fails_leaves_no_file_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str, threads: int
) -> None:
    spec = small_spec(tmp_path / "o", 128, 128)
    create_output(spec)

    def full(descriptor: int, buffers: list[memoryview]) -> int:
        os.write(descriptor, buffers[0][:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "writev", full)
    with pytest.raises(OutputError, match=f"{spec.path} cannot be written: .*{sentence}"):
        write_block(spec, 0, 0, tissue_like(128, 128), threads=threads)
    assert tree_hash(spec.folder) == {}


def test_a_kernel_that_takes_few_bytes_at_a_time_gets_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "writev", lambda descriptor, views: os.write(descriptor, views[0][:1000]))
    buffers = [os.urandom(2500), b"", os.urandom(1), os.urandom(1000)]
    done = files.write_file(tmp_path, "a/b", buffers)
    assert (tmp_path / "a/b").read_bytes() == b"".join(buffers)
    assert (done.size, done.crc) == (3501, google_crc32c.value(b"".join(buffers)))


def test_an_output_below_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        create_output(small_spec(tmp_path / "file" / "o", 10, 10))


def test_blocks_may_be_written_in_any_order(tmp_path: Path) -> None:
    pixels = tissue_like(300, 420)
    straight, shuffled = (small_spec(tmp_path / name, 300, 420) for name in "ab")
    write_all(straight, pixels, finish=False)
    create_output(shuffled)
    for row, col in reversed(places(shuffled)):
        write_block(shuffled, row, col, block_of(shuffled, pixels, row, col))
    pieces = {k: v for k, v in tree_hash(straight.folder).items() if k.split("/")[0] in ("0", "1", ".wsistain")}
    assert tree_hash(shuffled.folder) == pieces


def test_a_piece_decodes_to_what_was_encoded_and_a_changed_byte_is_noticed() -> None:
    planes = tissue_like(50, 70).transpose(2, 0, 1)
    data = bytearray(compress_piece(planes))
    assert np.array_equal(decompress_piece(bytes(data)).reshape(3, 50, 70), planes)
    data[len(data) // 2] ^= 1
    with pytest.raises(RuntimeError):
        decompress_piece(bytes(data))


def test_what_is_encoded_does_not_stay_in_memory(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 64, 64)
    encoder = shard.Encoder(spec, 1)
    planes = np.ascontiguousarray(tissue_like(64, 64).transpose(2, 0, 1))
    taken = [encoder.begin(0, 0, 0, planes)() for _ in range(2)]
    assert taken[0] == taken[1] != [b""]
    assert encoder.begin(0, 0, 0, np.full_like(planes, 255))() == [b""]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_forked_off_one_that_had_written_is_told_so_and_does_not_end_without_a_word(tmp_path: Path) -> None:
    code = f"""
import os, sys
from wsistain.errors import OutputError
from wsistain.output.layout import OutputSpec
from wsistain.output.shard import Encoder
spec = OutputSpec({str(tmp_path / "o")!r}, 64, 64, 0.5)
Encoder(spec, 1)
if not os.fork():
    try:
        Encoder(spec, 1)
    except OutputError as error:
        os._exit(2 if "spawn" in str(error) else 1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 2


def test_threads_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="threads 0"), thread_pool(0, "encode"):
        raise AssertionError("the body must not run")
