"""One large slide, stained and read: time, memory, cells and bytes of `run` and of `read`, each a process of its own.

    python benchmarks/read_large.py --size 32768 --output benchmarks/results/read_large.json

The slide repeats one phantom picture, whose cells are known, in a pyramid as scanners write it; stained with the
demonstration weights for ER, or with `--weights identity`, where reading alone is of interest. The slide and what was made of
it stay in `--work`: a step that is finished is not done again, and one that was cut goes on, with what it had taken before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow.parquet as pq
import tifffile
from numpy.typing import NDArray

from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.phantom.tables import cell_table

TILE = 512
MPP = 0.5


def main() -> None:
    """Make the slide, stain it, read it, and print what each took."""
    options = common.parser(__doc__ or "")
    options.add_argument("--size", type=int, default=8192, help="edge of the slide, px; a multiple of --repeated")
    options.add_argument("--repeated", type=int, default=4096, help="edge of the phantom picture that is repeated, px")
    options.add_argument("--seed", type=int, default=7400)
    options.add_argument("--weights", default="demo")
    options.add_argument("--threads", type=int, default=1, help="of reading")
    args = options.parse_args()
    folder = args.work / f"read_large_{args.size}_{args.weights}"
    folder.mkdir(parents=True, exist_ok=True)
    he, stem = folder / "he.tif", folder / "he.ER"
    results: dict[str, Any] = {
        "pixels": args.size**2,
        "threads": args.threads,
        "slide": once(folder / "slide.json", lambda: make_slide(he, args)),
    }
    wsistain = [sys.executable, "-m", "wsistain"]
    command = [*wsistain, "run", str(he), "--marker", "ER", "--weights", args.weights, "--output", str(folder)]
    results["run"] = once(
        folder / "run.json", lambda: measured(command, folder / "run") | {"bytes": size_of(Path(f"{stem}.ome.zarr"))}
    )
    command = [*wsistain, "read", f"{stem}.ome.zarr", "--threads", str(args.threads)]
    results["read"] = once(folder / "read.json", lambda: measured(command, folder / "read") | read_facts(stem))
    run, read = results["run"], results["read"]
    results["reading_per_staining"] = {
        "cpu": round(read["cpu_s"] / run["cpu_s"], 3),
        "wall": round(read["wall_s"] / run["wall_s"], 3),
    }
    common.report("read_large", results, args.output)


def once(path: Path, work: Any) -> dict[str, Any]:
    """What `work` found, kept in `path` and taken from it when it is there."""
    if not path.is_file():
        path.write_text(json.dumps(work()))
    found: dict[str, Any] = json.loads(path.read_text())
    print(path.stem, json.dumps(found), flush=True)
    return found


def make_slide(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A pyramid that repeats one phantom picture; how many cells it has by the phantom's own table."""
    begin, edge, n = time.perf_counter(), args.repeated, args.size // args.repeated
    phantom = Phantom(PhantomConfig(height=edge, width=edge, mpp=MPP, seed=args.seed, whole=True))
    picture = phantom.render("he_a", 0, 0, edge, edge)
    cells = cell_table(phantom, "a", 0, 0, edge, edge).num_rows
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for times in (1, 4, 16):
            part = picture.reshape(edge // times, times, edge // times, times, 3).mean((1, 3)).round().astype(np.uint8)
            tiff.write(
                tiles_of(part, args.size // times), shape=(args.size // times, args.size // times, 3), dtype=np.uint8,
                photometric="rgb", tile=(TILE, TILE), compression="jpeg", compressionargs={"level": 90},
                subfiletype=int(times > 1), resolution=(1e4 / MPP / times, 1e4 / MPP / times), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return {
        "cells_known": cells * n * n,
        "repeated_px": edge,
        "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def tiles_of(picture: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles, row by row, of a level of `size` px that repeats `picture` (n, n, 3)."""
    edge = len(picture)
    for y in range(0, size, TILE):
        rows = np.arange(y, y + TILE) % edge
        for x in range(0, size, TILE):
            yield picture[np.ix_(rows, np.arange(x, x + TILE) % edge)]


def measured(command: list[str], step: Path) -> dict[str, Any]:
    """CPU and wall seconds and peak memory of a command in a process of its own, sessions that were cut counted in.

    step : where its output (`.log`) and what it has taken so far (`.spent.json`) are kept.
    """
    said, kept = step.with_suffix(".log"), step.with_suffix(".spent.json")
    before = json.loads(kept.read_text()) if kept.is_file() else dict.fromkeys(("wall_s", "cpu_s", "peak_rss_mb"), 0)

    def total(cpu_s: float, peak_mb: float) -> dict[str, Any]:
        spent = {"wall_s": time.perf_counter() - begin, "cpu_s": cpu_s}
        sums = {name: round(before[name] + value, 1) for name, value in spent.items()}
        return sums | {"peak_rss_mb": round(max(before["peak_rss_mb"], peak_mb))}

    with said.open("a") as file:
        begin, child = time.perf_counter(), subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    # Asked for without being waited for, so that what a session took is known when it is cut.
    while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
        kept.write_text(json.dumps(total(*so_far(child.pid))))
        time.sleep(5)
    _, status, usage = ended
    lines = said.read_text().strip().splitlines()
    print("\n".join(lines[-5:]), flush=True)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return total(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024) | {"said": lines[-1] if lines else ""}


def so_far(pid: int) -> tuple[float, float]:
    """CPU seconds and peak memory (MB) of a process that runs; zeros of one that has ended."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        peaks = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    except OSError:
        return 0.0, 0.0
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), sum(map(int, peaks)) / 1024


def read_facts(stem: Path) -> dict[str, Any]:
    """How many cells were read, and the bytes of each file."""
    files = {end: Path(f"{stem}.{end}") for end in ("cells.parquet", "cells.geojson", "report.html", "scores.csv")}
    return {
        "cells": pq.read_metadata(files["cells.parquet"]).num_rows,
        "bytes": {end: path.stat().st_size for end, path in files.items()},
    }


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
