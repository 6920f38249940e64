"""The generator on a GPU: alone, fed from memory as the pipeline feeds it, and in every precision, compiled or not.

    bash benchmarks/gpu/run.sh

Needs torch and numpy, and of wsistain only its networks: no slide is read. Each row states MP/s of tiles (delivered)
and the largest difference in grey levels from float32.
"""

import argparse
import json
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from wsistain.generators.network import NetworkGenerator
from wsistain.networks.resnet import ResnetGenerator


@dataclass(frozen=True)
class Spec:
    """What `NetworkGenerator` needs of a `GeneratorSpec` here."""

    name: str = "random resnet"
    size_multiple: int = 4


def make(precision: str, compiled: bool, device: str) -> NetworkGenerator:
    """A ResNet-6 with random values; the same ones every time."""
    torch.manual_seed(0)
    return NetworkGenerator(ResnetGenerator(6, 64), Spec(), device=device, precision=precision, compiled=compiled)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def network_alone(generator: NetworkGenerator, device: str, tiles: np.ndarray, seconds: float) -> float:
    """MP/s of the network on a batch that is already on the device and stays there."""
    x = generator._to_float(tiles)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[generator.precision]
    with torch.no_grad(), torch.autocast(device.split(":")[0], dtype, enabled=dtype is not torch.float32):
        for _ in range(3):
            generator._call(x)
        synchronise(device)
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            generator._call(x)
            synchronise(device)
            n += 1
        return n * tiles.shape[0] * tiles.shape[1] ** 2 / 1e6 / (time.perf_counter() - start)


def from_memory(generator: NetworkGenerator, tiles: np.ndarray, seconds: float, threads: int = 2) -> float:
    """MP/s with bytes up and bytes down, as the pipeline's two tasks at a time call it under one lock."""
    lock = threading.Lock()
    places = [(0, 0)] * len(tiles)

    def stain(_: int) -> None:
        with lock:
            generator.stain(tiles, places)

    stain(0)
    start, n = time.perf_counter(), 0
    with ThreadPoolExecutor(threads) as pool:
        while time.perf_counter() - start < seconds:
            list(pool.map(stain, range(4)))
            n += 4
    return n * tiles.shape[0] * tiles.shape[1] ** 2 / 1e6 / (time.perf_counter() - start)


COLUMNS = {
    "precision": "precision",
    "compiled": "compiled",
    "first_call_seconds": "first call, s",
    "network_alone_mp_per_second": "network alone, MP/s",
    "from_memory_mp_per_second": "from memory, MP/s",
    "share_of_alone_percent": "share, %",
    "max_grey_difference": "largest difference, grey levels",
    "share_off_by_more_than_1_percent": "off by more than 1, %",
}


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row[key]) for key in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def measure(precision: str, compiled: bool, args: argparse.Namespace, tiles: np.ndarray, reference: np.ndarray):
    """One row: the first call with what it compiles, the network alone, and fed from memory."""
    generator = make(precision, compiled, args.device)
    start = time.perf_counter()
    difference = np.abs(generator.stain(tiles, [(0, 0)] * len(tiles)).astype(int) - reference)
    first = time.perf_counter() - start
    alone = network_alone(generator, args.device, tiles, args.seconds)
    fed = from_memory(generator, tiles, args.seconds)
    return {
        "precision": precision,
        "compiled": compiled,
        "first_call_seconds": round(first, 1),
        "network_alone_mp_per_second": round(alone, 3),
        "from_memory_mp_per_second": round(fed, 3),
        "share_of_alone_percent": round(100 * fed / alone, 1),
        "max_grey_difference": int(difference.max()),
        "share_off_by_more_than_1_percent": round(100 * float((difference > 1).mean()), 4),
    }


def main() -> None:
    """Measure every variant while time lasts, write each as it comes as JSON, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure")
    parser.add_argument("--minutes", type=float, default=6.0, help="no further variant is begun after that")
    args = parser.parse_args()
    begun = time.perf_counter()
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (args.batch, args.tile, args.tile, 3), dtype=np.uint8)
    reference = make("float32", False, args.device).stain(tiles, [(0, 0)] * len(tiles)).astype(int)
    rows: list[dict[str, object]] = []
    result = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "CPU",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "tile": args.tile,
        "batch": args.batch,
        "rows": rows,
        "left_out": [],
    }
    for compiled in (False, True):
        for precision in ("float32", "bfloat16", "float16"):
            name = f"{precision}{', compiled' if compiled else ''}"
            if time.perf_counter() - begun > 60 * args.minutes:
                result["left_out"].append(name)
                continue
            rows.append(measure(precision, compiled, args, tiles, reference))
            print(f"{name}: {rows[-1]['from_memory_mp_per_second']} MP/s", flush=True)
            if args.output:  # after each row: the machine may be taken away
                args.output.parent.mkdir(parents=True, exist_ok=True)
                args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['device']}, torch {torch.__version__}, {args.batch} tiles of {args.tile} px\n\n{table(rows)}")
    if result["left_out"]:
        print(f"left out for want of time: {'; '.join(result['left_out'])}")


if __name__ == "__main__":
    main()
