"""What every benchmark shares: slides to run on, peak memory of a child, and results with date and machine."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "wsistain", "torch", "numpy", "zarr", "zarrs", "tensorstore", "dask", "tifffile", "imagecodecs", "openslide-python", "monai",
)  # fmt: skip


def parser(text: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for slides and outputs")
    made.add_argument("--output", type=Path, help="JSON file for the results")
    return made


def machine() -> dict[str, Any]:
    """Date, processor, cores, memory and versions."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": found,
    }


def report(name: str, results: dict[str, Any], output: Path | None) -> None:
    """Print the results and, where asked, write them with date and machine."""
    print(json.dumps(results, indent=2))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"benchmark": name, "machine": machine(), "results": results}, indent=2) + "\n")


def slide(folder: Path, height: int, width: int, *, seed: int = 0) -> Path:
    """A synthetic pyramidal JPEG slide at 0.5 um per px, made once."""
    from wsistain.phantom.quick_slide import write_quick_slide

    path = folder / f"slide_{height}x{width}_{seed}.tiff"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        write_quick_slide(path, height=height, width=width, mpp=0.5, seed=seed)
    return path


def run_child(arguments: list[str], out: Path) -> dict[str, Any]:
    """`wsistain run` in its own process; its run.json with wall seconds of the whole process added."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "wsistain", "run", *arguments, "--output", str(out), "--overwrite"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    facts = json.loads((out / f"{Path(arguments[0]).stem}.ER.run.json").read_text())
    return {**facts, "process_seconds": seconds}


def random_resnet(folder: Path, *, ngf: int = 64, n_blocks: int = 6, tile_px: int = 512) -> Path:
    """Weights of a ResNet with random values, for timing; the file says so."""
    import torch

    from wsistain.systems.cut import generator_network
    from wsistain.weights.file import Header, save_weights

    path = folder / f"random_resnet{n_blocks}_{ngf}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        options = {"n_blocks": n_blocks, "ngf": ngf}
        network = generator_network(options)
        header = Header(
            system="cut",
            options=options,
            markers=["ER"],
            mpp=0.5,
            tile_px=tile_px,
            size_multiple=4,
            halo_px=network.facts.halo_px,
            training_data="none: random values, for timing",
        )
        save_weights(path, header, network.state_dict())
    return path


def import_rss_mb(module: str = "wsistain.pipeline.run") -> float:
    """Peak memory of a process that imports `module` (by default what a run imports) and does nothing, MB."""
    code = f"import {module}, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
