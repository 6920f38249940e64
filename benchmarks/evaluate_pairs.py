"""Time that `wsistain evaluate` takes for pairs of 1024 px, without the networks of PHV, FID, KID and LPIPS.

Three rows a pair: one generator that costs nothing and the two baselines. Target: 1,000 pairs in under 15 minutes on two
cores, and no more memory than a tenth of them take.

    python benchmarks/evaluate_pairs.py --pairs 1000 --workers 2
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
from wsistain.evaluation.deep import DeepMetrics
from wsistain.evaluation.patches import Pass, run_pass
from wsistain.evaluation.rows import Identity, mean_colour

DISTINCT = 48
"""Pictures that are made; a larger set repeats them in files of its own."""


def make_data(root: Path, n: int, px: int = 1024) -> Path:
    """MIST's layout with `n` pairs of textured JPEG patches in the validation split."""
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(0)
    planes = [gaussian_filter(rng.normal(0, 1, (px, px)), s) for s in (2, 5, 12)]
    texture = sum(p / p.std() for p in planes)
    for part in ("train", "val"):
        for side, (low, span) in {"A": (190, 30), "B": (205, 22)}.items():
            folder = root / "ER" / "TrainValAB" / f"{part}{side}"
            folder.mkdir(parents=True)
            for i in range(n if part == "val" else 2):
                target = folder / f"s{i % 4}_{i}_0.jpg"
                if i >= DISTINCT:
                    first = i % DISTINCT
                    shutil.copyfile(folder / f"s{first % 4}_{first}_0.jpg", target)
                    continue
                rolled = np.roll(texture, (37 * i, 53 * i + (side == "B") * 5), axis=(0, 1))
                picture = low + span * rolled[..., None] * np.array([0.6, 1.0, 0.8]) + rng.normal(0, 4, (px, px, 3))
                data = imagecodecs.jpeg8_encode(picture.clip(0, 255).astype(np.uint8), level=90)
                target.write_bytes(data)
    return root


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Free(Identity):
    """A generator that costs nothing: the third row."""

    name = "free"


def one_pass(root: Path, workers: int) -> dict[str, float]:
    """Wall and CPU seconds of one pass with both baselines and a free generator, and the peak memory so far."""
    refs = list_patches("mist", root, "ER", "val")
    stainers = [Identity(), mean_colour(refs, "the set"), Free()]
    wall, cpu = time.monotonic(), cpu_seconds()
    results, unusable = run_pass(refs, Pass(stainers, DeepMetrics(torch.device("cpu"))), workers=workers)
    if unusable or len(results) != len(refs):
        raise SystemExit("the made pictures could not be read")
    own, worker = (resource.getrusage(w).ru_maxrss / 1024 for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "pairs": len(refs),
        "wall_seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(cpu_seconds() - cpu, 1),
        "peak_rss_mb": round(own, 1),
        "largest_worker_peak_rss_mb": round(worker, 1),
    }


def main() -> None:
    """Print minutes and peak memory of a tenth of the pairs, then of all."""
    options = common.parser(__doc__ or "")
    options.add_argument("--pairs", type=int, default=1000)
    options.add_argument("--workers", type=int, default=2)
    args = options.parse_args()
    passes = [one_pass(make_data(args.work / "pairs", n), args.workers) for n in (args.pairs // 10, args.pairs)]
    results = {
        "workers": args.workers,
        "rows_a_pair": 3,
        "passes": passes,
        "minutes": round(passes[-1]["wall_seconds"] / 60, 2),
        "load_average": os.getloadavg()[0],
    }
    common.report("evaluate_pairs", results, args.output)


if __name__ == "__main__":
    main()
