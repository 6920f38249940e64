"""How fast slides are read: our reader beside OpenSlide, TiffSlide and, where installed, pyvips and cuCIM, on one core.

Makes a slide of 256 px JPEG tiles, reads it in 512 px tiles with 25 % overlap along rows, prints delivered MP/s
(overlap counted), the ratio to OpenSlide and whether the pixels equal OpenSlide's.

    python benchmarks/reader.py --size 8000 --repeat 3 --output benchmarks/results/reader.json
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openslide
import tiffslide
from common import machine, parser
from numpy.typing import NDArray

from wsistain.phantom.quick_slide import write_quick_slide
from wsistain.slide.tiff import TiledTiff

TILE, OVERLAP, QUALITY = 512, 128, 80

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


@dataclass(frozen=True)
class Row:
    """Medians of delivered MP per second of wall and of CPU time; the ratio is of CPU time, which others' load spares."""

    mp_per_second: float
    mp_per_cpu_second: float
    ratio_to_openslide: float
    pixels_equal_openslide: bool


def measure(path: Path, size: int, repeat: int) -> dict[str, Row]:
    """A row for each reader. The rounds are interleaved, so that a slow moment of the machine hits every reader."""
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
    reference, base = makers["openslide"](), float(np.median(cpu["openslide"]))
    rows = {}
    for name, make in makers.items():
        read = make()
        equal = all(np.array_equal(read(y, x), reference(y, x)) for y, x in places[:: max(1, len(places) // 150)])
        rate = float(np.median(cpu[name]))
        rows[name] = Row(round(float(np.median(wall[name])), 1), round(rate, 1), round(rate / base, 2), equal)
    return rows


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--size", type=int, default=8000, help="edge of the slide, px")
    options.add_argument("--repeat", type=int, default=3, help="rounds; medians are printed")
    arguments = options.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    path = arguments.work / f"reader_{arguments.size}.svs"
    if not path.is_file():
        size = arguments.size
        write_quick_slide(path, height=size, width=size, mpp=0.25, quality=QUALITY, vendor="aperio")
    megabytes = round(path.stat().st_size / 1e6, 1)
    rows = measure(path, arguments.size, arguments.repeat)
    print(f"{arguments.size} px, JPEG Q{QUALITY}, {megabytes} MB; {TILE} px tiles, {OVERLAP} px overlap, one core")
    print(f"{'reader':<12}{'MP/s':>8}{'MP/CPU s':>10}{'ratio':>7}  same pixels as OpenSlide")
    for name, row in rows.items():
        same = "yes" if row.pixels_equal_openslide else "NO"
        print(f"{name:<12}{row.mp_per_second:>8}{row.mp_per_cpu_second:>10}{row.ratio_to_openslide:>7}  {same}")
    if arguments.output:
        slide = {"px": arguments.size, "quality": QUALITY, "megabytes": megabytes, "tile": TILE, "overlap": OVERLAP}
        results = {"slide": slide, "readers": {name: asdict(row) for name, row in rows.items()}}
        content = {"benchmark": "reader", "machine": machine(), "results": results}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
