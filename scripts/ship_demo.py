"""Put trained demonstration weights into the package: python scripts/ship_demo.py RUN [RUN ...]

Each RUN is a folder of `wsistain train configs/train/demo.yaml`. The header gains the sentence that every run with these
weights prints and stores.
"""

import sys
from pathlib import Path

from wsistain.weights.file import load_network, load_tensors, read_header, save_weights
from wsistain.weights.find import DEMO_NOTE, shipped_folder

MAX_BYTES = 1_000_000


def ship(run: Path) -> Path:
    """Copy one run's weights into the package under the name of their marker; returns the file."""
    source = run / "weights.safetensors"
    header = read_header(source)
    target = shipped_folder() / f"demo-{header.markers[0].lower()}.safetensors"
    data = "tissue phantom (synthetic, aligned patches of 512 px), configs/train/demo.yaml"
    # Kernels in half precision: half the bytes. Norm statistics stay as they are, since variances may be tiny.
    tensors = {name: t.half() if t.ndim > 1 else t for name, t in load_tensors(source).items()}
    save_weights(target, header.model_copy(update={"note": DEMO_NOTE, "training_data": data}), tensors)
    load_network(target)
    if target.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{target} has {target.stat().st_size} bytes, more than {MAX_BYTES}")
    return target


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(ship(Path(folder)))
