"""Rows of the phantom benchmark for wsistain's own systems, by the protocol of docs/benchmark.md; resumable, one row at a time.

    wsistain benchmark make data/benchmark --only mist-c3-ER
    python benchmarks/entries.py --data data/benchmark --on mist-c3-ER --systems lpstain pix2pix --seeds 0 1 2
    wsistain benchmark table benchmarks/results/benchmark/rows --output board

The learning rate is searched on the validation patches (three rates, a quarter of the crops, seed 0), then each seed is trained,
stained and scored. What is done is left alone: a search, a run and a row each end in a file. Curves (metrics.jsonl) and
configurations go with the rows. `--crops` runs another length than a budget's, which a row then calls `other`.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import imagecodecs
import yaml

from wsistain.benchmark.edition import V0, Condition
from wsistain.benchmark.score import score
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.packaged import packaged_folder

BUDGETS = {"short": (6_400, 3_600.0), "long": (128_000, 86_400.0)}
"""Crops of 128 px seen, and seconds of one core; the seconds hold the search too."""

CROP_PX = 128
FACTORS = (1 / 3, 1.0, 3.0)
SEARCH = 0.25
SHORT_RATE = 3.0
"""Runs as short as these want faster rates than the papers': the search goes round so many times theirs."""

TURBO = ("cyclegan_turbo", "ot_stainnet", "pix2pix_turbo")
RATES = {"lpstain": 2e-3, "miu_diff": 5e-4, **dict.fromkeys(TURBO, 5e-4)}
"""Middle of the search where it is not `SHORT_RATE` times the usual 2e-4: systems whose small presets have their own."""


def rates(system: str) -> list[float]:
    """The learning rates that are tried, rising."""
    return [float(f"{RATES.get(system, SHORT_RATE * 2e-4) * f:.3g}") for f in FACTORS]


def crops_a_step(preset: dict[str, Any]) -> float:
    """Crops of 128 px that a step sees."""
    return float(preset["batch_size"] * (preset["data"]["crop_px"] / CROP_PX) ** 2)


def configuration(system: str, task: Condition, data: Path, crops: float, rate: float, seed: int) -> dict[str, Any]:
    """The small preset of a system at this length, rate and seed, validated once at its end."""
    preset: dict[str, Any] = yaml.safe_load((packaged_folder("configs") / "train" / f"{system}_small.yaml").read_text())
    steps = max(1, round(crops / crops_a_step(preset)))
    preset["data"] |= {"root": str(task.folder(data, "learn")), "mpp": V0.mpp, "workers": 0}
    options = preset.setdefault("options", {})
    if system in TURBO:
        options["optim"] = {**options.get("optim", {}), "lr": rate}
    else:
        options["lr"] = rate
    if system == "miu_diff":
        options["estimator_lr"] = rate
    every = {"log_every": max(1, steps // 40), "sample_every": steps, "checkpoint_every": max(1, steps // 8)}
    return {
        **preset,
        "marker": task.marker,
        "steps": steps,
        "seed": seed,
        **every,
        "val_every": steps,
        "val_patches": V0.val,
    }


def train(config: dict[str, Any], folder: Path) -> float:
    """Train into a folder, or go on there; the seconds of one core that it took in all, as run.json beside it keeps them."""
    told = folder / "seconds.json"
    spent = json.loads(told.read_text()) if told.is_file() else {"seconds": 0.0, "is_done": False}
    if spent["is_done"]:
        return float(spent["seconds"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "wsistain", "train", str(path), "--output", str(folder), "--resume"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = spent["seconds"] + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told.write_text(json.dumps({"seconds": round(seconds, 1), "is_done": done.returncode == 0}))
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr[-600:]}")
    return float(seconds)


def validated(folder: Path) -> float:
    """The cell AUC on the validation patches at the end of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation"]["cell_auc"] for line in lines if "cell_auc" in line.get("validation", {})]
    return float(values[-1])


def search(args: argparse.Namespace, system: str, task: Condition, crops: float) -> tuple[float, float]:
    """(rate, seconds of one core): the rate of the best validation, and what all rates took."""
    found = {}
    total = 0.0
    for rate in rates(system):
        folder = args.work / task.name / f"{system}-search-{rate:g}"
        total += train(configuration(system, task, args.data, crops * SEARCH, rate, 0), folder)
        found[rate] = validated(folder)
        print(f"{task.name} {system}: rate {rate:g}, validation cell AUC {found[rate]:.3f}", flush=True)
    return max(found, key=lambda rate: found[rate]), total


def paint(weights: Path, task: Condition, data: Path, out: Path) -> Path | None:
    """Stain the test H&E into `out`; the folder of probabilities where the system tells them."""
    from wsistain.evaluation.rows import Network
    from wsistain.generators.load import build_generator, find_generator

    refs = list_patches("mist", task.folder(data, "test"), task.known(), "val")
    spec = find_generator(str(weights), task.marker)
    spec = replace(spec, probability=spec.name == "lpstain")
    network = Network("entry", build_generator(spec, device="cpu"), V0.mpp)
    chances = out.with_name(f"{out.name}-probability")
    for folder in (out, *((chances,) if spec.probability else ())):
        folder.mkdir(parents=True, exist_ok=True)
    for ref in refs:
        made = network.stain(read_picture(ref.he))
        (out / f"{ref.name}.png").write_bytes(imagecodecs.png_encode(made[..., :3].copy()))
        if spec.probability:
            (chances / f"{ref.name}.png").write_bytes(imagecodecs.png_encode(255 - made[..., 3]))
    return chances if spec.probability else None


def parameters(weights: Path) -> int:
    """Numbers in a file of weights."""
    from wsistain.weights.file import load_tensors

    return sum(t.numel() for t in load_tensors(weights).values())


def commit() -> str:
    """The commit of the code, "" where it is not known."""
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def make_row(args: argparse.Namespace, system: str, task: Condition, seed: int) -> None:
    """One row, unless it is there."""
    crops, limit = BUDGETS[args.budget]
    budget = "other" if args.crops or args.rate else args.budget
    crops = args.crops or crops
    name = f"{task.name}-{system}-{budget}-s{seed}"
    row = args.results / "rows" / f"{name}.json"
    if row.is_file():
        print(f"{name}: there already", flush=True)
        return
    rate, searched = (args.rate, 0.0) if args.rate else search(args, system, task, crops)
    # The limit of seconds holds for search and run together: the rate of crops is known from the search.
    left = limit - searched
    fits = crops if not searched else min(crops, SEARCH * crops * len(FACTORS) * left / searched)
    if fits <= SEARCH * crops:
        raise SystemExit(
            f"{name}: the search alone took {searched:.0f} of {limit:.0f} s; this budget does not hold the system"
        )
    folder = args.work / task.name / f"{system}-{budget}-s{seed}"
    config = configuration(system, task, args.data, fits, rate, seed)
    seconds = train(config, folder)
    weights, pictures = folder / "weights.safetensors", folder.with_name(f"{folder.name}-pictures")
    chances = paint(weights, task, args.data, pictures)
    seen = round(config["steps"] * crops_a_step(config))
    kept = args.results / "runs" / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("metrics.jsonl", "config.yaml"):
        shutil.copy(folder / file, kept / file)
    entry = {
        "system": system, "budget": budget, "seed": seed, "crops": seen, "cpu_seconds": round(searched + seconds, 1),
        "learning_rate": rate, "parameters": parameters(weights), "config": f"runs/{name}/config.yaml", "commit": commit(),
        "note": args.note,
    }  # fmt: skip
    form = pictures.with_name(f"{pictures.name}.yaml")
    form.write_text(yaml.safe_dump(entry))
    made = score(pictures, args.data, task.name, output=row, chances=chances, entry=form, nets=args.nets, workers=1)
    print(f"{name}: {seen} crops, {seconds:.0f} s, cell AUC {made['metrics']['cell_auc']['value']:.3f}", flush=True)


def main() -> None:
    """Make the rows that were asked for, one after another."""
    options = common.parser(__doc__ or "")
    options.set_defaults(work=Path("runs/benchmark"))
    options.add_argument("--data", type=Path, required=True, help="folder of `wsistain benchmark make`")
    options.add_argument("--on", nargs="+", default=["mist-c3-ER"])
    options.add_argument("--systems", nargs="+", required=True, help="names of configs/train/NAME_small.yaml")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--budget", choices=sorted(BUDGETS), default="short")
    options.add_argument("--crops", type=float, help="another number of crops than the budget's")
    options.add_argument("--rate", type=float, help="this learning rate, without a search")
    options.add_argument("--note", default="")
    options.add_argument("--nets", type=Path)
    options.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "benchmark")
    args = options.parse_args()
    for task in V0.choose(args.on):
        for name in ("identity", "mean_colour"):
            row = args.results / "rows" / f"{task.name}-{name}.json"
            if not row.is_file():
                score(name, args.data, task.name, output=row, nets=args.nets, workers=1)
        for seed in args.seeds:
            for system in args.systems:
                make_row(args, system, task, seed)


if __name__ == "__main__":
    main()
