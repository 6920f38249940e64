"""Time that `wsistain evaluate` takes for a pair of 1024 px patches, without the networks of PHV, FID, KID and LPIPS.

Measures a small made data set twice, with n and with 3 n pairs, so that the start of processes drops out, and
extrapolates to 1,000 pairs of one generator that costs nothing beside the two baselines (three rows a pair). CPU seconds
a pair over the cores is what an unloaded machine needs. Target: 1,000 pairs in under 15 minutes on two cores.

    python benchmarks/evaluate_pairs.py --pairs 12 --workers 2
"""

import os
import resource
import shutil
import time
from pathlib import Path

import common
import imagecodecs
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from wsistain.data.layouts import list_patches
from wsistain.evaluation.candidates import Identity, mean_colour
from wsistain.evaluation.deep import DeepMetrics
from wsistain.evaluation.patches import Pass, run_pass


def make_data(root: Path, n: int, px: int = 1024) -> Path:
    """MIST's layout with `n` pairs of textured JPEG patches in each split."""
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(0)
    planes = [gaussian_filter(rng.normal(0, 1, (px, px)), s) for s in (2, 5, 12)]
    texture = sum(p / p.std() for p in planes)
    for part in ("train", "val"):
        for side, (low, span) in {"A": (190, 30), "B": (205, 22)}.items():
            folder = root / "ER" / "TrainValAB" / f"{part}{side}"
            folder.mkdir(parents=True)
            for i in range(n if part == "val" else 2):
                rolled = np.roll(texture, (37 * i, 53 * i + (side == "B") * 5), axis=(0, 1))
                picture = low + span * rolled[..., None] * np.array([0.6, 1.0, 0.8]) + rng.normal(0, 4, (px, px, 3))
                data = imagecodecs.jpeg8_encode(picture.clip(0, 255).astype(np.uint8), level=90)
                (folder / f"s{i % 4}_{i}_0.jpg").write_bytes(data)
    return root


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Free(Identity):
    """A generator that costs nothing: the third row."""

    name = "free"


def timed(root: Path, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds of one pass with both baselines and a free generator."""
    refs = list_patches("mist", root, "ER", "val")
    stainers = [Identity(), mean_colour(refs, "the set"), Free()]
    wall, cpu = time.monotonic(), cpu_seconds()
    results, unusable = run_pass(refs, Pass(stainers, DeepMetrics(torch.device("cpu"))), workers=workers)
    if unusable or len(results) != len(refs):
        raise SystemExit("the made pictures could not be read")
    return time.monotonic() - wall, cpu_seconds() - cpu


def main() -> None:
    """Print seconds a pair and what 1,000 pairs would take."""
    options = common.parser(__doc__ or "")
    options.add_argument("--pairs", type=int, default=12, help="pairs of the smaller set")
    options.add_argument("--workers", type=int, default=2)
    args = options.parse_args()
    n = args.pairs
    small, large = (make_data(args.work / f"pairs_{k}", k) for k in (n, 3 * n))
    (wall_small, cpu_small), (wall_large, cpu_large) = timed(small, args.workers), timed(large, args.workers)
    wall, cpu = (wall_large - wall_small) / (2 * n), (cpu_large - cpu_small) / (2 * n)
    results = {
        "pairs": [n, 3 * n],
        "workers": args.workers,
        "rows_a_pair": 3,
        "wall_seconds_a_pair": round(wall, 3),
        "cpu_seconds_a_pair": round(cpu, 3),
        "minutes_for_1000_pairs_by_wall": round(1000 * wall / 60, 1),
        "minutes_for_1000_pairs_by_cpu_over_workers": round(1000 * cpu / args.workers / 60, 1),
        "load_average": os.getloadavg()[0],
    }
    common.report("evaluate_pairs", results, args.output)


if __name__ == "__main__":
    main()
