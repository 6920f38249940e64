"""Writing only: level 0 and pyramid of the same pixels by our shard writer and by zarr-python's own.

Both make the same arrays (chunk (1, 512, 512), shard (3, 2048, 2048), zstd 1) from the same blocks, halved by the same
function; the files are compared after the first round. Target: 80 MP/s on 2 threads, beyond zarr-python's own path.

    python benchmarks/write.py --size 12288 --threads 2
"""

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid, half
from wsistain.output.store import OutputSpec, create_output, write_block

Block = Callable[[int, int], NDArray[np.uint8]]


def main() -> None:
    """Write the same slide by both paths in turn and print MP/s, CPU seconds and their ratio."""
    options = common.parser(__doc__ or "")
    options.add_argument("--size", type=int, default=12288, help="edge of the slide, px")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args()
    block = pixels_of(common.slide(args.work, 8192, 8192), args.size)
    spec = OutputSpec(str(args.work / "write_ours.zarr"), args.size, args.size, 0.5)
    theirs_path = args.work / "write_zarr_python.zarr"
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for number in range(args.repeats):
        ours.append(timed(lambda: write_ours(spec, block, args.threads), args.size))
        theirs.append(timed(lambda: write_theirs(replace(spec, path=str(theirs_path)), block, args.threads), args.size))
        if number == 0:
            compare(Path(spec.path), theirs_path, len(spec.levels))
    stored = sum(p.stat().st_size for p in Path(spec.path).rglob("*") if p.is_file())
    results: dict[str, Any] = {
        "megapixels": args.size**2 / 1e6,
        "threads": args.threads,
        "bytes_per_px": round(stored / args.size**2, 2),
        "ours": medians(ours),
        "zarr_python": medians(theirs),
    }
    for name in ("mp_per_second", "mp_per_cpu_second"):
        results[f"times_zarr_python_{name}"] = round(results["ours"][name] / results["zarr_python"][name], 2)
    common.report("write", results, args.output)
    for path in (Path(spec.path), theirs_path):
        shutil.rmtree(path)


def pixels_of(slide: Path, size: int) -> Block:
    """A function that gives blocks of 4096 px, each a window of `slide` with the same weak noise, clipped at `size`."""
    from wsistain.slide.reader import open_slide

    opened = open_slide(str(slide))
    noise = np.random.default_rng(0).integers(-3, 4, (4096, 4096, 3), dtype=np.int16)
    held: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for row in range(2):
        for col in range(2):
            window = opened.read_level(0, row * 4096, col * 4096, 4096, 4096)
            noisy = np.clip(window.astype(np.int16) + noise, 0, 255).astype(np.uint8)
            held[row, col] = np.where((window == 255).all(axis=2, keepdims=True), window, noisy)
    opened.close()

    def block(row: int, col: int) -> NDArray[np.uint8]:
        height, width = min(4096, size - row * 4096), min(4096, size - col * 4096)
        return held[row % 2, col % 2][:height, :width]

    return block


def write_ours(spec: OutputSpec, block: Block, threads: int) -> None:
    """The whole output by our own writer."""
    shutil.rmtree(spec.path, ignore_errors=True)
    create_output(spec)
    rows, cols = spec.block_grid
    for row in range(rows):
        for col in range(cols):
            write_block(spec, row, col, block(row, col), threads=threads)
    finish_pyramid(spec, threads=threads)
    write_metadata(spec, {}, "benchmark")


def write_theirs(spec: OutputSpec, block: Block, threads: int) -> None:
    """The same arrays by zarr-python: a block of whole shards at a time, upper levels from a block's halves."""
    shutil.rmtree(spec.path, ignore_errors=True)
    with zarr.config.set({"threading.max_workers": threads}):
        arrays = [
            zarr.create_array(
                spec.path,
                name=str(level),
                shape=(3, *size),
                dtype="uint8",
                chunks=(1, spec.chunk, spec.chunk),
                shards=(3, spec.shard, spec.shard),
                compressors=ZstdCodec(level=1, checksum=False),
                fill_value=255,
            )
            for level, size in enumerate(spec.levels)
        ]
        rows, cols = spec.block_grid
        above = np.empty((*spec.levels[2], 3), np.uint8)  # kept in memory: to the advantage of zarr-python
        for row in range(rows):
            for col in range(cols):
                pixels = block(row, col)
                for level in range(2):
                    put(arrays[level], pixels, row * (4096 >> level), col * (4096 >> level))
                    pixels = half(pixels)
                y, x = row * 1024, col * 1024
                above[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        for level in range(2, len(arrays)):
            put(arrays[level], above, 0, 0)
            above = half(above)


def put(array: zarr.Array, pixels: NDArray[np.uint8], y: int, x: int) -> None:
    """Writes uint8 (h, w, 3) into an array (3, H, W) at (y, x)."""
    array[:, y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels.transpose(2, 0, 1)


def compare(ours: Path, theirs: Path, levels: int) -> None:
    """Ends the benchmark when the two outputs do not hold the same pixels."""
    for level in range(levels):
        a, b = (zarr.open_array(str(path), path=str(level), mode="r") for path in (ours, theirs))
        for y in range(0, a.shape[1], 2048):
            if not np.array_equal(a[:, y : y + 2048], b[:, y : y + 2048]):
                raise SystemExit(f"level {level} differs below row {y}")


def timed(write: Callable[[], None], size: int) -> dict[str, float]:
    """Wall and CPU time of one write, and its rates."""
    start, cpu = time.perf_counter(), time.process_time()
    write()
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    megapixels = size**2 / 1e6
    return {
        "seconds": wall,
        "cpu_seconds": used,
        "mp_per_second": megapixels / wall,
        "mp_per_cpu_second": megapixels / used,
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


if __name__ == "__main__":
    main()
