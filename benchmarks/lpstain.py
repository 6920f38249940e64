"""What each choice of LPStain is worth: the small preset with one choice changed, each trained and scored alike.

    python benchmarks/lpstain.py --data data/phantom-small --steps 300 --output benchmarks/results/lpstain.json

Data as at the head of configs/train/lpstain_small.yaml. A row that the output holds with the same steps and seed is not
trained again, and one that was interrupted goes on from its checkpoint. AUC and calibration error are over tumour cells of
the held-out patches: by p where the network tells it, and by the picture. Free colours in place of the stain physics, and
a picture whose gradient reaches p, are no options of the system and have no row.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, report

from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.evaluation.pathology import area_under_curve, cell_od
from wsistain.evaluation.truth import read_truth
from wsistain.markers import find_marker
from wsistain.networks.expression import ExpressionNet
from wsistain.optics.scoring import stain_od
from wsistain.weights.file import load_network

ROWS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "windows of 8 um only": ("options.windows_um=[8]",),
    "windows of 64 um only": ("options.windows_um=[64]",),
    "squared distance": ("options.distance=squared",),
    "no search for the shift": ("options.search_um=0",),
    "no context": ("options.windows=[3]", "options.far=3"),
    "nuclei of any width": ("options.widest_um=0",),
    "stain, light and focus augmented": ("options.jitter=0.5",),
    "with a critic": ("options.weights.gan=0.05",),
}


def train(folder: Path, data: Path, steps: int, seed: int, sets: tuple[str, ...]) -> float:
    """Train a row or go on with it; returns the CPU seconds that this took."""
    given = (f"data.root={data}", f"steps={steps}", f"seed={seed}", "sample_every=100000", *sets)
    command = [sys.executable, "-m", "wsistain", "train", "lpstain_small", "--output", str(folder)]
    command += [part for one in given for part in ("--set", one)]
    if (folder / "checkpoint").exists():
        command.append("--resume")
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def calibration_error(p: np.ndarray, positive: np.ndarray) -> float:
    """Expected calibration error over ten bins of equal width."""
    bins = np.clip((p * 10).astype(int), 0, 9)
    parts = [abs(p[bins == k].mean() - positive[bins == k].mean()) * (bins == k).mean() for k in np.unique(bins)]
    return float(sum(parts))


def score(weights: Path, data: Path, name: str) -> dict[str, float]:
    """Of the weights on the held-out patches: AUC by p and by the picture, calibration error of p, share of cells."""
    marker = find_marker(name)
    network, _ = load_network(weights)
    if not isinstance(network, ExpressionNet):
        raise TypeError(f"{weights} is no LPStain")
    refs = list_patches("mist", data, marker, "val")
    truth = read_truth(refs, marker, "val")
    found: list[np.ndarray] = []
    for ref in refs:
        x = torch.from_numpy(read_picture(ref.he)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            picture, p = network.eval().stain_and_tell(x, [name])[0]
        pixels = ((picture[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
        cells = truth.places[ref.name]
        by_p, by_picture = (
            cell_od(values, cells.y, cells.x, compartment=cells.compartment, mpp=cells.mpp)
            for values in (p[0, 0].numpy(), stain_od(pixels))
        )
        kept = np.isfinite(by_p) & truth.tumour[ref.name]
        found.append(np.stack([by_p[kept], by_picture[kept], truth.positive[ref.name][kept]]))
    p_of, od_of, positive = np.concatenate(found, axis=1)
    return {
        "auc_p": area_under_curve(p_of, positive > 0.5),
        "auc_picture": area_under_curve(od_of, positive > 0.5),
        "calibration_error": calibration_error(p_of, positive),
        "mean_p": float(p_of.mean()),
        "share": float(positive.mean()),
        "best_auc": truth.best_auc or float("nan"),
        "cells": len(positive),
    }


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--marker", default="ER")
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    args = made.parse_args()
    torch.set_num_threads(1)
    output = args.output or args.work / "lpstain.json"
    results: dict[str, Any] = json.loads(output.read_text())["results"] if output.exists() else {}
    for seed in args.seeds:
        for row in args.rows:
            key = f"{row}, {args.marker}, {args.steps} steps, seed {seed}"
            if key in results:
                continue
            folder = args.work / "lpstain" / key.replace(" ", "_").replace(",", "")
            start = time.perf_counter()
            cpu = train(folder, args.data, args.steps, seed, ROWS[row])
            results[key] = score(folder / "weights.safetensors", args.data, args.marker)
            results[key] |= {"cpu_seconds": round(cpu, 1), "seconds": round(time.perf_counter() - start, 1)}
            report("lpstain", results, output)


if __name__ == "__main__":
    main()
