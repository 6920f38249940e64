"""One training step of LPStain and of OT-StainNet on a GPU, and LPStain's staining: four markers against one.

    bash benchmarks/gpu/run.sh

At the shipped settings where they fit (`configs/train/lpstain.yaml`, `ot_stainnet.yaml`), on pictures of noise and with
networks of random values, the published ones among them: time and memory do not depend on either. OT-StainNet is measured
without its transport plan, which is solved on the CPU.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from training_memory import published_sizes

from wsistain.config import MIST_MPP, TrainConfig, load_config
from wsistain.errors import WsistainError
from wsistain.markers import find_marker
from wsistain.optics.dyes import Dyes
from wsistain.packaged import training_config
from wsistain.systems import find_system, system_class
from wsistain.systems.base import Batch, FrozenBase, Progress

DYES = Dyes(
    haematoxylin=(0.684, 0.648, 0.335),
    dab=(0.294, 0.529, 0.796),
    ground=(0.019, 0.023, 0.017),
    he_haematoxylin=(0.582, 0.733, 0.352),
    he_eosin=(0.189, 0.878, 0.440),
    he_ground=(0.017, 0.026, 0.023),
    nucleus=0.18,
    dark=0.36,
    positive=0.3,
    amplitude=0.6,
    share=0.45,
    match=((0.0, 0.0), (0.25, 0.06), (0.9, 0.42), (4.5, 2.0)),
)
PROGRESS = Progress(step=10, epoch=0, steps=100, epochs=1, decay_epochs=0, steps_per_epoch=100)


def median_seconds(call: Callable[[], object], device: str, seconds: float) -> float:
    """Median seconds of a call, after two that are not counted."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < 5 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[2:])


def measure_step(name: str, device: str, seconds: float, overrides: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of a training step at the shipped settings."""
    cfg = load_config(TrainConfig, training_config(Path(name)), overrides)
    kind, dtype = device.split(":")[0], getattr(torch, cfg.precision)
    module = find_system(cfg.system)
    options = module.Config.preset(cfg.preset, cfg.options)
    markers = cfg.marker.split(",")
    if cfg.system == "lpstain":
        options = options.model_copy(update={"dyes": dict.fromkeys(markers, DYES), "mpp": MIST_MPP})
    with published_sizes(module), torch.device(device):
        system = system_class(cfg.system)(options, find_marker(markers[0])).train()
    if dtype is torch.bfloat16 and isinstance(system, FrozenBase):
        system.store_frozen(torch.bfloat16)
    size = (cfg.batch_size, 3, cfg.data.crop_px, cfg.data.crop_px)
    of_each = tuple(markers[k % len(markers)] for k in range(cfg.batch_size))
    he, ihc = (torch.rand(size, device=device) * 1.6 - 0.8 for _ in range(2))
    batch = Batch(he, ihc, markers[0], tuple(map(str, range(cfg.batch_size))), markers=of_each)

    def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        with torch.autocast(kind, enabled=False):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        torch.clear_autocast_cache()

    def step() -> None:
        with published_sizes(module), torch.autocast(kind, dtype, enabled=dtype is not torch.float32):
            system.training_step(batch, PROGRESS, update)

    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    found = median_seconds(step, device, seconds)
    return {
        "what": f"training step of {cfg.system}",
        "batch_size": cfg.batch_size,
        "crop_px": cfg.data.crop_px,
        "precision": cfg.precision,
        "seconds": round(found, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if is_cuda else None,
    }


def measure_markers(device: str, seconds: float, tile: int, batch: int) -> list[dict[str, Any]]:
    """Seconds of a batch of tiles through LPStain's network, for one marker and for four."""
    cfg = load_config(TrainConfig, training_config(Path("lpstain")), [])
    markers = cfg.marker.split(",")
    options = find_system("lpstain").Config.preset(cfg.preset, cfg.options)
    options = options.model_copy(update={"dyes": dict.fromkeys(markers, DYES), "mpp": MIST_MPP})
    network = system_class("lpstain")(options, find_marker(markers[0])).generator().to(device).eval()
    x = torch.rand(batch, 3, tile, tile, device=device) * 2 - 1
    rows = []
    for wanted in (markers[:1], markers):

        def stain(wanted: list[str] = wanted) -> None:
            with torch.no_grad(), torch.autocast(device.split(":")[0], torch.bfloat16):
                network.stain(x, wanted)

        found = median_seconds(stain, device, seconds)
        row = {"what": f"lpstain stains {len(wanted)}", "batch_size": batch, "crop_px": tile, "precision": "bfloat16"}
        rows.append(row | {"seconds": round(found, 4), "mp_per_second": round(batch * tile**2 / 1e6 / found, 1)})
    rows[-1]["times_one_marker"] = round(rows[1]["seconds"] / rows[0]["seconds"], 3)
    return rows


def main() -> None:
    """Measure, write each row as it comes as JSON, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="keys of both configurations")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    result = {
        "benchmark": "gpu_training",
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "CPU",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "rows": rows,
        "left_out": left_out,
    }

    def add(name: str, measure: Callable[[], list[dict[str, Any]]]) -> None:
        try:
            rows.extend(measure())
            print(json.dumps(rows[-1]), flush=True)
        except (WsistainError, torch.OutOfMemoryError) as error:
            left_out.append(f"{name}: {error}")
            print(f"left out: {left_out[-1]}", flush=True)
        if args.output:  # after each: the machine may be taken away
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(result, indent=2) + "\n")

    add("markers", lambda: measure_markers(args.device, args.seconds, args.tile, args.batch))
    for name in ("lpstain", "ot_stainnet"):
        add(name, lambda n=name: [measure_step(n, args.device, args.seconds, args.overrides)])  # type: ignore[misc]


if __name__ == "__main__":
    main()
