"""Writing only: level 0 and pyramid of the same pixels by us, zarr-python, zarrs and TensorStore.

We write the files of what TensorStore encodes in memory; the others write their own. All make the same arrays (chunk
(1, 512, 512), shard (3, 2048, 2048), zstd 1) from the same blocks, halved by the same function, and end with what a resume
needs: the CRC-32C of each file (ours from the bytes it writes, the others by reading back). Each writing is a process of its
own, in turns, so that rates of one round compare. Also asked of each: do the arrays hold the same pixels, are the bytes the
same again and on one thread, and is a file replaced by a rename or overwritten in place, so that a crash leaves a torn one?

    python benchmarks/write.py --stain slide.ER.ome.zarr --repeats 5          needs the extra `bench`
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid, half_into
from wsistain.output.store import OutputSpec, create_output, write_block
from wsistain.runtime.heap import share_arenas

EDGE = 4096
Pixels = NDArray[np.uint8]
Put = Callable[[int, int, int, Pixels], None]
"""(level, y, x, planes uint8 (3, h, w)): write a window."""


def main() -> None:
    """Write the same stain by every path in turn; print rates and their ratios."""
    options = common.parser(__doc__ or "")
    options.add_argument("--stain", type=Path, required=True, help="a finished stain of a real slide")
    options.add_argument("--size", type=int, default=12288, help="edge of what is written, px")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--only", choices=WRITERS, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.only:
        print(json.dumps(write_once(args)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in WRITERS}
    for number in range(args.repeats):
        for name in WRITERS:
            rounds[name].append(child(args, name, args.threads))
            print(number, name, rounds[name][-1], file=sys.stderr)
    alone = {name: child(args, name, 1) for name in WRITERS}
    ours = rounds["ours"]
    results: dict[str, Any] = {"megapixels": args.size**2 / 1e6, "threads": args.threads, "repeats": args.repeats}
    for name, runs in rounds.items():
        row: dict[str, Any] = {
            key: round(statistics.median(run[key] for run in runs), 2)
            for key in ("mp_per_second", "mp_per_cpu_second", "peak_mb", "bytes_per_px")
        }
        ratios = [run["mp_per_cpu_second"] / mine["mp_per_cpu_second"] for run, mine in zip(runs, ours, strict=True)]
        row["of_ours_per_cpu_second"] = [round(v, 2) for v in (min(ratios), statistics.median(ratios), max(ratios))]
        row["same_pixels"] = all(run["pixels"] == ours[0]["pixels"] for run in runs)
        row["same_bytes_again"] = len({run["bytes"] for run in runs}) == 1
        row["same_bytes_on_one_thread"] = alone[name]["bytes"] == runs[0]["bytes"]
        row["replaced_by_rename"] = all(run["renamed"] for run in runs)
        results[name] = row
    common.report("write", results, args.output)


def child(args: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    """One writing in a process of its own."""
    given = ["--stain", args.stain, "--size", args.size, "--threads", threads, "--work", args.work, "--only", name]
    command = [sys.executable, __file__, *map(str, given)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def write_once(args: argparse.Namespace) -> dict[str, Any]:
    """Write, and what it cost: wall and CPU of this process with its threads, peak of its memory."""
    spec = OutputSpec(str(args.work / f"write_{args.only}.zarr"), args.size, args.size, 0.5)
    blocks = blocks_of(args.stain, args.size)
    prepare = WRITERS[args.only]
    shutil.rmtree(spec.path, ignore_errors=True)
    share_arenas()  # as a run does
    write = prepare(spec, args.threads)
    write(Blocks(blocks.held, EDGE))  # libraries load and memory is first touched outside of what is timed
    start, cpu = time.perf_counter(), time.process_time()
    write(blocks)
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shutil.rmtree(spec.folder / ".wsistain", ignore_errors=True)
    if args.only == "ours":
        write_metadata(spec, {}, "benchmark")  # the others have written theirs before
    shards = shards_of(spec)
    stored = {path.relative_to(spec.path).as_posix(): path.read_bytes() for path in shards}
    found: dict[str, Any] = {
        "mp_per_second": args.size**2 / 1e6 / wall,
        "mp_per_cpu_second": args.size**2 / 1e6 / used,
        "peak_mb": peak,
        "bytes_per_px": sum(map(len, stored.values())) / args.size**2,
        "bytes": digest(b"".join(name.encode() + hashlib.sha256(data).digest() for name, data in stored.items())),
        "pixels": digest(pixels_of(spec)),
        "renamed": is_renamed(shards[0], lambda: write(Blocks(blocks.held, EDGE))),
    }
    shutil.rmtree(spec.path)
    return found


def is_renamed(path: Path, again: Callable[[], None]) -> bool:
    """Whether writing a file again makes a new one: then a crash leaves the old or the new one, never half of one."""
    kept = path.with_name("kept")
    os.link(path, kept)
    again()
    renamed = kept.stat().st_ino != path.stat().st_ino
    kept.unlink()
    return renamed


class Blocks:
    """Blocks of 4096 px, four kinds in turn, clipped at `size`."""

    def __init__(self, held: list[Pixels], size: int) -> None:
        self.held, self.size = held, size

    def __iter__(self) -> Iterator[tuple[int, int, Pixels]]:
        for row in range(-(-self.size // EDGE)):
            for col in range(-(-self.size // EDGE)):
                height, width = (min(EDGE, self.size - n * EDGE) for n in (row, col))
                yield row, col, self.held[(2 * row + col) % 4][:height, :width]


def blocks_of(stain: Path, size: int) -> Blocks:
    """Blocks of a real stain, mirrored at its edges and turned, uint8 (4096, 4096, 3)."""
    planes = np.asarray(zarr.open_array(str(stain), path="0", mode="r")[:])
    pixels = planes.transpose(1, 2, 0)
    grown = np.pad(pixels, [(0, EDGE - min(EDGE, n)) for n in pixels.shape[:2]] + [(0, 0)], mode="symmetric")
    block = grown[:EDGE, :EDGE]
    return Blocks([np.ascontiguousarray(b) for b in (block, block[::-1], block[:, ::-1], block[::-1, ::-1])], size)


def ours(spec: OutputSpec, threads: int) -> Callable[[Blocks], None]:
    """All levels by our own writer; the journal's CRCs are a part of it."""
    create_output(spec)

    def write(blocks: Blocks) -> None:
        for row, col, pixels in blocks:
            write_block(spec, row, col, pixels, threads=threads)
        if blocks.size == spec.height:
            finish_pyramid(spec, threads=threads)

    return write


def by_levels(spec: OutputSpec, put: Put) -> Callable[[Blocks], None]:
    """The same by windows: each block and its halves, the levels above from memory (to the advantage of others)."""

    def write(blocks: Blocks) -> None:
        above = np.empty((3, *spec.levels[2]), np.uint8)
        for row, col, pixels in blocks:
            planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
            for level in range(2):
                y, x = (n * (EDGE >> level) for n in (row, col))
                put(level, y, x, planes)
                known(spec, level, y, x, planes)
                planes = halved(planes)
            y, x = row * (EDGE >> 2), col * (EDGE >> 2)
            above[:, y : y + planes.shape[1], x : x + planes.shape[2]] = planes
        for level in range(2, len(spec.levels)) if blocks.size == spec.height else ():
            put(level, 0, 0, above)
            known(spec, level, 0, 0, above)
            above = halved(above)

    return write


def halved(planes: Pixels) -> Pixels:
    """Planes (3, h, w) at half the size."""
    out = np.empty((3, (planes.shape[1] + 1) // 2, (planes.shape[2] + 1) // 2), np.uint8)
    half_into(out, planes)
    return out


def known(spec: OutputSpec, level: int, y: int, x: int, planes: Pixels) -> None:
    """What the journal notes of the files of a window: their CRC-32C, read back."""
    edge = spec.storage.shard
    for row in range(y // edge, -(-(y + planes.shape[1]) // edge)):
        for col in range(x // edge, -(-(x + planes.shape[2]) // edge)):
            google_crc32c.value((spec.folder / spec.shard_files(level, row, col)[0]).read_bytes())


def zarr_python(spec: OutputSpec, threads: int) -> Callable[[Blocks], None]:
    """By zarr-python's own codecs."""
    zarr.config.set({"threading.max_workers": threads})
    arrays = [
        zarr.create_array(
            spec.path,
            name=str(level),
            shape=(3, *size),
            dtype="uint8",
            chunks=(1, spec.storage.chunk, spec.storage.chunk),
            shards=(3, spec.storage.shard, spec.storage.shard),
            compressors=ZstdCodec(level=1, checksum=False),
            fill_value=255,
        )
        for level, size in enumerate(spec.levels)
    ]

    def put(level: int, y: int, x: int, planes: Pixels) -> None:
        arrays[level][:, y : y + planes.shape[1], x : x + planes.shape[2]] = planes

    return by_levels(spec, put)


def zarrs(spec: OutputSpec, threads: int) -> Callable[[Blocks], None]:
    """By zarr-python with the codecs of zarrs (Rust)."""
    import zarrs

    os.environ["RAYON_NUM_THREADS"] = str(threads)
    assert zarrs.ZarrsCodecPipeline
    zarr.config.set(
        {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.chunk_concurrent_maximum": threads}
    )
    return zarr_python(spec, threads)


def tensorstore(spec: OutputSpec, threads: int) -> Callable[[Blocks], None]:
    """By TensorStore (C++)."""
    import tensorstore as ts

    zarr_python(spec, threads)  # metadata alone
    limits = {"data_copy_concurrency": {"limit": threads}, "file_io_concurrency": {"limit": threads}}
    arrays = [
        ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{spec.path}/{level}"}, "context": limits},
            open=True,
        ).result()
        for level in range(len(spec.levels))
    ]

    def put(level: int, y: int, x: int, planes: Pixels) -> None:
        arrays[level][:, y : y + planes.shape[1], x : x + planes.shape[2]].write(planes).result()

    return by_levels(spec, put)


WRITERS: dict[str, Callable[[OutputSpec, int], Callable[[Blocks], None]]] = {
    "ours": ours,
    "zarr_python": zarr_python,
    "zarrs": zarrs,
    "tensorstore": tensorstore,
}


def shards_of(spec: OutputSpec) -> list[Path]:
    """Every file of pixels, in order."""
    return sorted(p for p in spec.folder.glob("*/c/0/*/*") if p.is_file())


def pixels_of(spec: OutputSpec) -> bytes:
    """Digests of the pixels of every level, as zarr-python reads them with its own codecs."""
    zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})
    told = b""
    for level, (height, _) in enumerate(spec.levels):
        array = zarr.open_array(spec.path, path=str(level), mode="r")
        for y in range(0, height, spec.storage.shard):
            told += hashlib.sha256(np.ascontiguousarray(array[:, y : y + spec.storage.shard])).digest()
    return told


def digest(data: bytes) -> str:
    """A short name for bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
