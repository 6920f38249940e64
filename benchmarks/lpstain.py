"""What each choice of LPStain is worth: the small preset with one choice changed, each trained and scored alike.

    python benchmarks/lpstain.py --data data/phantom-small --steps 300 --output benchmarks/results/lpstain.json

Data as at the head of configs/train/lpstain_small.yaml. A row that the output holds with the same steps and seed is not
trained again, and one that was interrupted goes on from its checkpoint. AUC and calibration error are over tumour cells of
the held-out patches: by p where the network tells it, and by the picture. Intervals are the 95 % bootstrap over patches;
`less_...` is what a row has less than the row as shipped of the same seed, on the same resampled patches: an interval that holds
0 is no difference that these patches show. Free colours in place of the stain physics, and a picture whose gradient
reaches p, are no options of the system and have no row.
"""

import json
import os
import shutil
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
from wsistain.weights.adjust import set_options
from wsistain.weights.file import load_network

ROWS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "p told place by place": ("options.own=1",),
    "p of the neighbourhood alone": ("options.own=0",),
    "neighbourhood of 32 um": ("options.near_um=32",),
    "map of nuclei of weight 0.2": ("options.weights.nuclei=0.2",),
    "windows of 8 um only": ("options.windows_um=[8]",),
    "windows of 64 um only": ("options.windows_um=[64]",),
    "squared distance": ("options.distance=squared",),
    "no search for the shift": ("options.search_um=0",),
    "no context": ("options.windows=[3]", "options.far=3"),
    "stain, light and focus augmented": ("options.jitter=0.5",),
    "with a critic": ("options.weights.gan=0.05",),
}
AFTER_TRAINING = {"nuclei of any width": "widest_um=0", "p told place by place, after training": "own=1"}
"""Rows that are the weights as shipped with an option that changes nothing of the training."""

SHIPPED = "as shipped"
RESAMPLES = 500


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


def cells_of(weights: Path, data: Path, name: str) -> np.ndarray:
    """Of every tumour cell of the held-out patches: its patch, p, density in the picture, and whether it is positive."""
    marker = find_marker(name)
    network, _ = load_network(weights)
    if not isinstance(network, ExpressionNet):
        raise TypeError(f"{weights} is no LPStain")
    refs = list_patches("mist", data, marker, "val")
    truth = read_truth(refs, marker, "val")
    found: list[np.ndarray] = []
    for number, ref in enumerate(refs):
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
        positive = truth.positive[ref.name][kept]
        found.append(np.stack([np.full(kept.sum(), float(number)), by_p[kept], by_picture[kept], positive]))
    return np.concatenate(found, axis=1)


def aucs(cells: np.ndarray) -> np.ndarray:
    """AUC by p and by the picture."""
    return np.array([area_under_curve(values, cells[3] > 0.5) for values in cells[1:3]])


def resampled(cells: np.ndarray) -> np.ndarray:
    """AUCs over patches drawn anew, (RESAMPLES, 2); the same draws for every row."""
    rng, numbers = np.random.default_rng(0), np.unique(cells[0])
    of = [cells[:, cells[0] == number] for number in numbers]
    draws = rng.integers(0, len(of), (RESAMPLES, len(of)))
    return np.stack([aucs(np.concatenate([of[k] for k in draw], axis=1)) for draw in draws])


def described(cells: np.ndarray, shipped: np.ndarray | None) -> dict[str, Any]:
    """What a row's cells say; beside those of the row as shipped where there are any."""
    values, drawn = aucs(cells), resampled(cells)
    facts: dict[str, Any] = {}
    for k, name in enumerate(("p", "picture")):
        facts[f"auc_{name}"] = round(float(values[k]), 4)
        facts[f"auc_{name}_interval"] = _interval(drawn[:, k])
        if shipped is not None:
            facts[f"less_{name}"] = round(float(aucs(shipped)[k] - values[k]), 4)
            facts[f"less_{name}_interval"] = _interval(resampled(shipped)[:, k] - drawn[:, k])
    positive = cells[3] > 0.5
    facts["calibration_error"] = round(calibration_error(cells[1], positive), 4)
    facts |= {"mean_p": round(float(cells[1].mean()), 4), "share": round(float(positive.mean()), 4)}
    return facts | {"cells": len(positive), "patches": len(np.unique(cells[0]))}


def _interval(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in np.quantile(values, (0.025, 0.975))]


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--marker", default="ER")
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    rows = [*ROWS, *AFTER_TRAINING]
    made.add_argument("--rows", nargs="+", choices=rows, default=rows)
    args = made.parse_args()
    torch.set_num_threads(1)
    output = args.output or args.work / "lpstain.json"
    results: dict[str, Any] = json.loads(output.read_text())["results"] if output.exists() else {}
    for seed in args.seeds:

        def folder_of(row: str, seed: int = seed) -> Path:
            key = f"{row}, {args.marker}, {args.steps} steps, seed {seed}"
            return args.work / "lpstain" / key.replace(" ", "_").replace(",", "")

        for row in (row for row in rows if row in args.rows):
            key, folder, start = (
                f"{row}, {args.marker}, {args.steps} steps, seed {seed}",
                folder_of(row),
                time.perf_counter(),
            )
            if "auc_p_interval" in results.get(key, {}):
                continue
            facts = {name: results[key][name] for name in ("cpu_seconds",)} if key in results else {}
            if row in AFTER_TRAINING:
                shutil.rmtree(folder, ignore_errors=True)
                set_options(weights_of(folder_of(SHIPPED)), [AFTER_TRAINING[row]], weights_of(folder))
            elif not facts:
                facts["cpu_seconds"] = round(train(folder, args.data, args.steps, seed, ROWS[row]), 1)
            cells = cells_of(weights_of(folder), args.data, args.marker)
            np.save(folder / "cells.npy", cells)
            shipped = folder_of(SHIPPED) / "cells.npy"
            results[key] = described(cells, np.load(shipped) if row != SHIPPED and shipped.exists() else None) | facts
            print(f"{key}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            report("lpstain", results, output)


def weights_of(folder: Path) -> Path:
    """Where a row's weights lie."""
    return folder / "weights.safetensors"


if __name__ == "__main__":
    main()
