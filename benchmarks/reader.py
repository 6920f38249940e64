"""How fast slides are read: our reader beside OpenSlide, TiffSlide and, where installed, pyvips and cuCIM, on one core.

Makes a slide of 256 px JPEG tiles, reads it in 512 px tiles with 25 % overlap along rows, prints delivered MP/s
(overlap counted), the ratio to OpenSlide and whether the pixels equal OpenSlide's.

    python benchmarks/reader.py --size 8000 --repeat 3 --output benchmarks/results/reader.json
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import openslide
import tiffslide
from numpy.typing import NDArray

from wsistain.phantom.quick import write_quick_slide
from wsistain.slide.tiff import TiledTiff

TILE, OVERLAP = 512, 128
PEERS = ("openslide-python", "tiffslide", "pyvips", "cucim", "cucim-cu12", "imagecodecs", "tifffile", "numpy")

Read = Callable[[int, int], NDArray[np.uint8]]


def windows(size: int) -> list[tuple[int, int]]:
    """(y, x) of the tiles, row by row."""
    starts = range(0, size - TILE + 1, TILE - OVERLAP)
    return [(y, x) for y in starts for x in starts]


def readers(path: Path) -> dict[str, Callable[[], Read]]:
    """Name -> function that opens the slide anew and returns a function reading one tile at (y, x)."""

    def ours() -> Read:
        slide = TiledTiff(path)
        return lambda y, x: slide.read_level(0, y, x, TILE, TILE)

    def with_openslide() -> Read:
        slide = openslide.OpenSlide(path)
        return lambda y, x: np.asarray(slide.read_region((x, y), 0, (TILE, TILE)).convert("RGB"))

    def with_tiffslide() -> Read:
        slide = tiffslide.TiffSlide(path)
        return lambda y, x: slide.read_region((x, y), 0, (TILE, TILE), as_array=True)

    def with_pyvips() -> Read:
        import pyvips

        region = pyvips.Region.new(pyvips.Image.new_from_file(str(path)))
        return lambda y, x: np.frombuffer(region.fetch(x, y, TILE, TILE), np.uint8).reshape(TILE, TILE, -1)[..., :3]

    def with_cucim() -> Read:
        from cucim import CuImage

        slide = CuImage(str(path))
        return lambda y, x: np.asarray(slide.read_region((x, y), (TILE, TILE), level=0))

    found = {"wsistain": ours, "openslide": with_openslide, "tiffslide": with_tiffslide}
    found |= {"pyvips": with_pyvips} if importlib.util.find_spec("pyvips") else {}
    found |= {"cucim": with_cucim} if importlib.util.find_spec("cucim") else {}
    return found


def measure(path: Path, size: int, repeat: int) -> dict[str, dict[str, object]]:
    """Per reader: medians of delivered MP/s by wall and by CPU time, and whether all pixels equal OpenSlide's.

    The rounds are interleaved, so that a slow moment of the machine hits every reader.
    """
    places = windows(size)
    delivered = len(places) * TILE * TILE / 1e6
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    makers = readers(path)
    for _ in range(repeat):
        for name, make in makers.items():
            read = make()
            start, start_cpu = time.perf_counter(), time.process_time()
            for y, x in places:
                read(y, x)
            wall.setdefault(name, []).append(delivered / (time.perf_counter() - start))
            cpu.setdefault(name, []).append(delivered / (time.process_time() - start_cpu))
    reference = makers["openslide"]()
    result: dict[str, dict[str, object]] = {}
    for name, make in makers.items():
        read = make()
        equal = all(np.array_equal(read(y, x), reference(y, x)) for y, x in places[:: max(1, len(places) // 150)])
        result[name] = {
            "mp_per_second": round(float(np.median(wall[name])), 1),
            "mp_per_cpu_second": round(float(np.median(cpu[name])), 1),
            "pixels_equal_openslide": equal,
        }
    return result


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8000, help="edge of the slide, px")
    parser.add_argument("--quality", type=int, default=80, help="JPEG quality of its tiles")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; medians are printed")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_quick_slide(
            path, height=arguments.size, width=arguments.size, mpp=0.25, quality=arguments.quality, vendor="aperio"
        )
        megabytes = path.stat().st_size / 1e6
        result = measure(path, arguments.size, arguments.repeat)
    base = float(str(result["openslide"]["mp_per_second"]))
    print(
        f"{arguments.size} px, Q{arguments.quality}, {megabytes:.1f} MB; {TILE} px tiles, {OVERLAP} px overlap, one core"
    )
    print(f"{'reader':<12}{'MP/s':>8}{'MP/CPU s':>10}{'ratio':>7}  same pixels as OpenSlide")
    for name, row in result.items():
        ratio = float(str(row["mp_per_second"])) / base
        row["ratio_to_openslide"] = round(ratio, 2)
        print(
            f"{name:<12}{row['mp_per_second']:>8}{row['mp_per_cpu_second']:>10}{ratio:>7.1f}  "
            f"{'yes' if row['pixels_equal_openslide'] else 'NO'}"
        )
    if arguments.output:
        report = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "python": platform.python_version(),
            "versions": {name: version for name in PEERS if (version := _version(name))},
            "slide": {"px": arguments.size, "quality": arguments.quality, "megabytes": round(megabytes, 1)},
            "readers": result,
        }
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
