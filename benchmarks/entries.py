"""Rows of the phantom benchmark for wsistain's own systems, by the protocol of docs/benchmark.md; resumable, one row at a time.

    wsistain benchmark make data/benchmark --only mist-c3-ER
    python benchmarks/entries.py --data data/benchmark --on mist-c3-ER --systems lpstain pix2pix --seeds 0 1 2
    wsistain benchmark table benchmarks/results/benchmark/rows --output board
    python benchmarks/entries.py --ablations          # every ablation of the papers, by the name that --systems takes

The learning rate is searched on the validation patches (three rates, a quarter of the crops, seed 0), then each seed is trained,
stained and scored. What is done is left alone: a search, a run and a row each end in a file. Curves (metrics.jsonl) and
configurations go with the rows. `--crops` runs another length than a budget's, which a row then calls `other`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import imagecodecs
import psutil
import yaml
from arms import Arm, all_ablations, find_arm, over, small_preset

from wsistain.benchmark.edition import V0, Condition, Edition
from wsistain.benchmark.entry import BUDGETS
from wsistain.benchmark.make import edition_of
from wsistain.benchmark.score import score
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture

CROP_PX = 128
FACTORS = (1 / 3, 1.0, 3.0)
SEARCH = 0.25
SHORT_RATE = 3.0
"""Runs as short as these want faster rates than the papers': the search goes round so many times theirs."""

TURBO = ("cyclegan_turbo", "ot_stainnet", "pix2pix_turbo")
RATES = {"lpstain": 2e-3, "miu_diff": 5e-4, **dict.fromkeys(TURBO, 5e-4)}
"""Middle of the search where it is not `SHORT_RATE` times the usual 2e-4: systems whose small presets have their own."""


def rates(system: str) -> list[float]:
    """The learning rates that are tried for a system and all its ablations, rising."""
    return [float(f"{RATES.get(system, SHORT_RATE * 2e-4) * f:.3g}") for f in FACTORS]


def crops_a_step(preset: dict[str, Any]) -> float:
    """Crops of 128 px that a step sees."""
    return float(preset["batch_size"] * (preset["data"]["crop_px"] / CROP_PX) ** 2)


def configuration(
    arm: Arm, task: Condition, data: Path, crops: float, rate: float, seed: int, edition: Edition = V0
) -> dict[str, Any]:
    """The small preset of an arm at this length, rate and seed, validated once at its end."""
    system = arm.system
    preset: dict[str, Any] = yaml.safe_load(small_preset(system).read_text())
    preset = over(preset, {"options": arm.changes}) if arm.changes else preset
    steps = max(1, round(crops / crops_a_step(preset)))
    preset["data"] |= {"root": str(task.folder(data, "learn")), "mpp": edition.mpp, "workers": 0}
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
        "val_patches": edition.val,
    }


def used(pid: int) -> float:
    """Seconds of one core that a process and those it started have taken; 0 when it is gone."""
    try:
        run = psutil.Process(pid)
        return sum(sum(p.cpu_times()[:2]) for p in (run, *run.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0.0


def train(config: dict[str, Any], folder: Path) -> float:
    """Train into a folder, or go on there; the seconds of one core that it took in all, as a file beside it keeps them."""
    told, before = folder.with_name(f"{folder.name}.seconds.json"), folder / "seconds.json"  # where it was kept once
    known = next((p for p in (told, before) if p.is_file()), None)
    spent = json.loads(known.read_text()) if known else {"seconds": 0.0, "is_done": False}
    if spent["is_done"]:
        return float(spent["seconds"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    path, log = (folder.with_name(f"{folder.name}.{ending}") for ending in ("yaml", "log"))
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "wsistain", "train", str(path), "--output", str(folder), "--resume"]
    with log.open("w") as said:
        run = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=said, stderr=said)
    # Written while it runs: what a killed call took is counted by the next. A call that is ended ends its run, which keeps its step.
    seconds = spent["seconds"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while run.poll() is None:
            seconds = spent["seconds"] + max(seconds - spent["seconds"], used(run.pid))
            told.write_text(json.dumps({"seconds": round(seconds, 1), "is_done": False}))
            time.sleep(2)
    except (KeyboardInterrupt, SystemExit) as stopped:
        if isinstance(
            stopped, SystemExit
        ):  # a terminal has sent its Ctrl-C to both; a second signal would end it at once
            run.terminate()
        run.wait()
        raise
    told.write_text(json.dumps({"seconds": round(seconds, 1), "is_done": run.returncode == 0}))
    if run.returncode:
        raise SystemExit(f"{folder}: {log.read_text()[-600:]}")
    return float(seconds)


def validated(folder: Path) -> float:
    """The cell AUC on the validation patches at the end of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation"]["cell_auc"] for line in lines if "cell_auc" in line.get("validation", {})]
    return float(values[-1])


def search(args: argparse.Namespace, arm: Arm, task: Condition, crops: float) -> tuple[float, float]:
    """(rate, seconds of one core): the rate of the best validation, and what all rates took."""
    found = {}
    total = 0.0
    for rate in rates(arm.system):
        folder = args.runs / task.name / f"{arm.key}-search-{rate:g}"
        total += train(configuration(arm, task, args.data, crops * SEARCH, rate, 0, args.edition), folder)
        found[rate] = validated(folder)
        print(f"{task.name} {arm.name}: rate {rate:g}, validation cell AUC {found[rate]:.3f}", flush=True)
    return max(found, key=lambda rate: found[rate]), total


def paint(weights: Path, task: Condition, data: Path, out: Path, mpp: float = V0.mpp) -> Path | None:
    """Stain the test H&E into `out`; the folder of probabilities where the system tells them."""
    from wsistain.evaluation.rows import Network
    from wsistain.generators.load import build_generator, find_generator

    refs = list_patches("mist", task.folder(data, "test"), task.known(), "val")
    spec = find_generator(str(weights), task.marker)
    spec = replace(spec, probability=spec.name == "lpstain")
    network = Network("entry", build_generator(spec, device="cpu"), mpp)
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


def trained(args: argparse.Namespace, arm: Arm, task: Condition, seed: int) -> tuple[Path, dict[str, Any]]:
    """(folder of the run, what its entry says of the training: rate, crops, seconds), trained or gone on with."""
    crops, limit = BUDGETS[args.budget]
    crops = args.crops or crops
    rate, searched = (args.rate, 0.0) if args.rate else search(args, arm, task, crops)
    # The limit of seconds holds for search and run together: the rate of crops is known from the search.
    left = limit - searched
    fits = crops if not searched else min(crops, SEARCH * crops * len(FACTORS) * left / searched)
    if fits <= SEARCH * crops:
        raise SystemExit(
            f"{arm.name}: the search alone took {searched:.0f} of {limit:.0f} s; this budget does not hold the system"
        )
    folder = args.runs / task.name / f"{arm.key}-{args.length}-s{seed}"
    config = configuration(arm, task, args.data, fits, rate, seed, args.edition)
    seconds = train(config, folder)
    seen = round(config["steps"] * crops_a_step(config))
    return folder, {"crops": seen, "cpu_seconds": round(searched + seconds, 1), "learning_rate": rate}


def borrowed(source: Path, folder: Path, arm: Arm) -> None:
    """The weights of `source` under the options of `arm`, with the curve of the run that made them."""
    from wsistain.weights.file import load_tensors, read_header, save_weights

    header = read_header(source / "weights.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    options = over(header.options, arm.changes)
    save_weights(
        folder / "weights.safetensors",
        header.model_copy(update={"options": options}),
        load_tensors(source / "weights.safetensors"),
    )
    shutil.copy(source / "metrics.jsonl", folder / "metrics.jsonl")
    config = yaml.safe_load((source / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**config, "options": over(config.get("options", {}), arm.changes)})
    )


def make_row(args: argparse.Namespace, arm: Arm, task: Condition, seed: int) -> None:
    """One row, unless it is there."""
    # Rows of another edition than the first have it in their names.
    name = f"{task.name}-{arm.key}-{args.length}-s{seed}"
    name = name if args.edition is V0 else f"{args.edition.name}-{name}"
    row = args.results / "rows" / f"{name}.json"
    if row.is_file():
        print(f"{name}: there already", flush=True)
        return
    source, facts = trained(args, find_arm(arm.of) if arm.of else arm, task, seed)
    folder = source.with_name(f"{arm.key}-{args.length}-s{seed}")
    if arm.of:
        borrowed(source, folder, arm)
    weights, pictures = folder / "weights.safetensors", folder.with_name(f"{folder.name}-pictures")
    chances = paint(weights, task, args.data, pictures, args.edition.mpp)
    kept = args.results / "runs" / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("metrics.jsonl", "config.yaml"):
        shutil.copy(folder / file, kept / file)
    entry = {
        "system": arm.name, "budget": args.length, "seed": seed, **facts, "parameters": parameters(weights),
        "config": f"runs/{name}/config.yaml", "commit": commit(), "note": args.note or arm.label,
    }  # fmt: skip
    form = pictures.with_name(f"{pictures.name}.yaml")
    form.write_text(yaml.safe_dump(entry))
    made = score(pictures, args.data, task.name, output=row, chances=chances, entry=form, nets=args.nets, workers=1)
    told = f"{facts['crops']} crops, {facts['cpu_seconds']:.0f} s with the search"
    print(f"{name}: {told}, cell AUC {made['metrics']['cell_auc']['value']:.3f}", flush=True)


def main() -> None:
    """Make the rows that were asked for, one after another."""
    options = common.parser(__doc__ or "")
    options.set_defaults(work=Path("runs/benchmark"))
    options.add_argument("--data", type=Path, help="folder of `wsistain benchmark make`, of either edition")
    options.add_argument("--on", nargs="+", default=["mist-c3-ER"])
    options.add_argument(
        "--systems", nargs="+", default=[], help="names of configs/train/NAME_small.yaml, or TABLE/ROW of an ablation"
    )
    options.add_argument("--ablations", action="store_true", help="print every ablation of the papers and stop")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--budget", choices=sorted(BUDGETS), default="short")
    options.add_argument("--crops", type=float, help="another number of crops than the budget's")
    options.add_argument("--rate", type=float, help="this learning rate, without a search")
    options.add_argument("--note", default="")
    options.add_argument("--nets", type=Path)
    options.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "benchmark")
    args = options.parse_args()
    if args.ablations:
        for arm in all_ablations():
            print(f"{arm.name}: {arm.label}{f' (stains with the weights of {arm.of})' if arm.of else ''}")
        return
    if args.data is None:
        options.error("--data is needed")
    arms = [find_arm(name) for name in args.systems]
    args.edition = edition_of(args.data)
    args.length = "other" if args.crops or args.rate else args.budget
    args.runs = args.work if args.edition is V0 else args.work / args.edition.name
    for task in args.edition.choose(args.on):
        for name in ("identity", "mean_colour"):
            of = "" if args.edition is V0 else f"{args.edition.name}-"
            row = args.results / "rows" / f"{of}{task.name}-{name}.json"
            if not row.is_file():
                score(name, args.data, task.name, output=row, nets=args.nets, workers=1)
        for seed in args.seeds:
            for arm in arms:
                make_row(args, arm, task, seed)


if __name__ == "__main__":
    main()
