"""What `data.filter` is worth: one small system trained on pairs that `wsistain pair` cut from phantom slides, all of them and
the filtered ones, judged by cell AUC against the aligned truth of other slides.

    python benchmarks/pair_filter.py --work runs/pair_filter --output benchmarks/results/pair_filter.json

The slides are two `mist` and two `far` pairs of 2.4 mm at 1 um per px: patches of the far ones are nearly all off by more
than 10 um, and their sections hold other cells (benchmarks/pair.py). Expression is plainly visible, as in
lpstain_small.yaml. Every run has the same steps, and sees other patches only by the filter. What is there already is left alone.
"""

import csv
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import common

from wsistain.phantom.config import PAIRINGS, PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.phantom.tiff import write_pyramid

SLIDES = (("mist", 21), ("far", 22), ("mist", 23), ("far", 24))
SIDE, MPP, FOLDS, TEARS = 2400, 1.0, 3.0, 3.0
FILTER = {"max_residual_um": 10, "min_agreement": 0.5, "min_tissue": 0.6, "max_fold": 0.05}
VAL = ["--markers", "ER", "--train", "4", "--val", "32", "--size", "256", "--slides", "32", "--seed", "5", "--mpp", "1.0",
       "--pairing", "mist", "--visibility", "1.0", "--contrast", "3"]  # fmt: skip
STEPS = {"pyramidp2p_small": 300}
"""Shipped configurations that are trained, and for how long."""

SHOWN = ("cell_auc", "area_r_truth", "ssim_truth", "dice_truth")


def call(*words: str) -> None:
    """One call of the command line, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "wsistain", *words], env=environment, check=True)


def make_pairs(work: Path) -> None:
    """The slides, and the patches of each pair."""
    for pairing, seed in SLIDES:
        name = f"{pairing}{seed}"
        home = work / "slides" / name
        home.mkdir(parents=True, exist_ok=True)
        sections = PAIRINGS[pairing].model_copy(update={"folds": FOLDS, "tears": TEARS})
        config = PhantomConfig(
            height=SIDE, width=SIDE, mpp=MPP, seed=seed, sections=sections, visibility=1.0, contrast=3.0
        )  # fmt: skip
        paths = [home / f"{product}.tiff" for product in ("he_a", "ihc_b")]
        for path in paths:
            if not path.is_file():
                write_pyramid(path, config.shape, MPP, partial(Phantom(config).render, path.stem), quality=88)
        if not (work / "pairs" / "ER" / "pairs" / name).is_dir():
            call("pair", *map(str, paths), "--marker", "ER", "--name", name, "--part", "train", "--patch-mpp", "1.0",
                 "--patch-size", "256", "--output", str(work / "pairs"))  # fmt: skip
    if not (work / "val").is_dir():
        call("phantom", "patches", str(work / "val"), *VAL)
    for side in ("valA", "valB"):  # training shows some of them, and learns from none
        link = work / "pairs" / "ER" / "TrainValAB" / side
        if not link.exists():
            link.symlink_to((work / "val" / "ER" / "TrainValAB" / side).absolute())


def kept(work: Path) -> dict[str, list[int]]:
    """Patches of each pairing, and those that the filter leaves: counted from patches.csv as training does."""
    least = {"min_agreement": ("agreement",), "min_tissue": ("tissue", "tissue_ihc")}
    most = {"max_residual_um": ("residual_um",), "max_fold": ("fold", "fold_ihc")}
    told: dict[str, list[int]] = {}
    with (work / "pairs" / "ER" / "patches.csv").open() as file:
        for row in csv.DictReader(file):
            good = all(row[c] and float(row[c]) >= FILTER[k] for k, columns in least.items() for c in columns)
            good &= all(row[c] and float(row[c]) <= FILTER[k] for k, columns in most.items() for c in columns)
            counts = told.setdefault(row["slide"].rstrip("0123456789"), [0, 0])
            counts[0] += 1
            counts[1] += good
    return told


def train(work: Path, system: str, seed: int, *, filtered: bool) -> dict[str, Any]:
    """One run and its scores."""
    run = work / "runs" / f"{system}-{'filtered' if filtered else 'all'}-s{seed}"
    began = time.perf_counter()
    if not (run / "weights.safetensors").is_file():
        given = json.dumps(FILTER) if filtered else "null"
        call("train", system, "--output", str(run), "--overwrite", "--set", f"data.root={work / 'pairs'}", "--set",
             f"steps={STEPS[system]}", "--set", f"seed={seed}", "--set", f"data.filter={given}", "--set",
             "val_every=null")  # fmt: skip
    seconds = round(time.perf_counter() - began)
    scores = work / "scores" / run.name
    if not (scores / "results.json").is_file():
        call("evaluate", "--weights", str(run), "--data", str(work / "val"), "--layout", "mist", "--marker", "ER", "--split",
             "val", "--output", str(scores))  # fmt: skip
    told = {"system": system, "filtered": filtered, "seed": seed, "seconds": seconds}
    return told | {"scores": read_scores(scores / "results.json")}


def read_scores(path: Path) -> dict[str, Any]:
    """Value and 95 % interval of the shown metrics, of the weights and of the H&E itself, from a results.json."""
    told = {}
    for system in json.loads(path.read_text())["systems"].values():
        if system["kind"] != "baseline" or "H&E" in system["label"]:
            found = {metric: system["metrics"].get(metric) for metric in SHOWN}
            told[system["label"]] = {
                m: [round(v[k], 3) for k in ("value", "ci_low", "ci_high") if v.get(k) is not None]
                for m, v in found.items()
                if v is not None
            }
    return told


def main() -> None:
    options = common.parser(__doc__ or "")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--systems", nargs="+", default=list(STEPS), choices=list(STEPS))
    given = options.parse_args()
    make_pairs(given.work)
    results: dict[str, Any] = {
        "steps": {system: STEPS[system] for system in given.systems},
        "filter": FILTER,
        "patches_all_and_kept": kept(given.work),
        "runs": [],
    }
    for system in given.systems:
        for seed in range(given.seeds):
            for filtered in (False, True):
                results["runs"].append(train(given.work, system, seed, filtered=filtered))
                common.report("pair_filter", results, given.output)


if __name__ == "__main__":
    main()
