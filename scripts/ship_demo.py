"""Put trained weights into the package: python scripts/ship_demo.py RUN [RUN ...], or RUN --name lpstain

Each RUN is a folder of `wsistain train configs/train/demo.yaml`, or with --name one of many markers, shipped under that name.
The header gains the sentence that every run with these weights prints and stores.
"""

import argparse
from pathlib import Path

from wsistain.weights.file import load_network, load_tensors, read_header, save_weights
from wsistain.weights.find import DEMO_NOTE, shipped_folder

MAX_BYTES = 1_000_000
ALIGNED = "tissue phantom (synthetic, aligned patches of 512 px), configs/train/demo.yaml"


def ship(run: Path, name: str | None, data: str) -> Path:
    """Copy one run's weights into the package under `name`, by default that of their marker; returns the file."""
    source = run / "weights.safetensors" if run.is_dir() else run
    header = read_header(source)
    target = shipped_folder() / f"{name or f'demo-{header.markers[0].lower()}'}.safetensors"
    # Kernels in half precision: half the bytes. Norm statistics stay as they are, since variances may be tiny.
    tensors = {name: t.half() if t.ndim > 1 else t for name, t in load_tensors(source).items()}
    save_weights(target, header.model_copy(update={"note": DEMO_NOTE, "training_data": data}), tensors)
    load_network(target)
    if target.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{target} has {target.stat().st_size} bytes, more than {MAX_BYTES}")
    return target


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("runs", nargs="+", type=Path)
    options.add_argument("--name", help="of a file of many markers")
    options.add_argument("--data", default=ALIGNED, help="what the header says of the training data")
    args = options.parse_args()
    if args.name and len(args.runs) > 1:
        raise SystemExit("--name is for one run")
    for folder in args.runs:
        print(ship(folder, args.name, args.data))
