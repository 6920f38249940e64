"""The phantom study: which system recovers the marker, and which part of it does the work.

    python benchmarks/study.py data --work runs/study             # phantom patches, weak pairs, aligned truth held out
    python benchmarks/study.py train --work runs/study --jobs 2   # every arm and seed; finished ones are left alone
    python benchmarks/study.py evaluate --work runs/study         # one `wsistain evaluate` over all weights
    python benchmarks/study.py table --work runs/study --output benchmarks/results/study_1um.json

Every arm sees the same number of images of the same patches with networks of about the same width (study_arms.py), but
for the turbo systems, whose steps cost several times the others' and are fewer by as much. Networks are small and runs
short, because a study of this many arms has to fit a CPU. `--only NAME` picks arms.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
import yaml
from study_arms import ABLATIONS, ARMS, Arm, configuration, over, steps_of

PATCHES = ["--markers", "ER", "--train", "240", "--val", "48", "--size", "256", "--slides", "48", "--seed", "5",
           "--mpp", "1.0", "--pairing", "adjacent", "--visibility", "1.0", "--contrast", "3"]  # fmt: skip
SHOWN = ("cell_auc", "area_r_truth", "r_p", "r_c", "ssim_truth", "dice_truth")
LEADERBOARD = {
    "against the aligned truth": ("cell_auc", "cell_precision", "cell_recall", "cell_h_error", "area_r_truth",
                                  "dice_truth", "ssim_truth"),
    "against the next section, as the papers measure": ("ssim", "psnr", "css", "vif", "hist_corr", "iod", "r_c", "r_p",
                                                        "r_avg", "area_r", "dice", "hausdorff"),
}  # fmt: skip
BASELINES = {"identity": "identity (the H&E itself)", "mean_colour": "mean-colour transfer"}


def make_data(args: argparse.Namespace) -> None:
    """Phantom patches of ER at 1 um per px, neighbouring sections, expression plainly visible: what minutes can teach."""
    command = ["phantom", "patches", str(args.work / "patches"), *PATCHES]
    subprocess.run([sys.executable, "-m", "wsistain", *command, "--workers", str(args.jobs)], check=True)


def folder(args: argparse.Namespace, arm: Arm, seed: int) -> Path:
    return Path(args.work / "runs" / f"{arm.name}-s{seed}")


def train_one(args: argparse.Namespace, arm: Arm, seed: int) -> str:
    """Train an arm, or stain with another one's weights under other sampling options; says what was done."""
    out = folder(args, arm, seed)
    weights = out / "weights.safetensors"
    if (out / "study.json").is_file():
        return f"{out.name}: there already"
    out.mkdir(parents=True, exist_ok=True)
    if arm.of:
        from wsistain.weights.file import load_tensors, read_header, save_weights

        source = args.work / "runs" / f"{arm.of}-s{seed}" / "weights.safetensors"
        header = read_header(source)
        options = over(header.options, sampling=arm.sampling)
        save_weights(weights, header.model_copy(update={"options": options}), load_tensors(source))
        (out / "study.json").write_text(json.dumps({"of": arm.of}))
        return f"{out.name}: the weights of {source.parent.name}"
    config = out.with_suffix(".yaml")
    root = str(args.work / "patches")
    config.write_text(yaml.safe_dump(configuration(arm, root=root, steps=args.steps, seed=seed)))
    start = time.perf_counter()
    command = [sys.executable, "-m", "wsistain", "train", str(config), "--output", str(out), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = round(time.perf_counter() - start)
    if done.returncode:
        return f"{out.name}: FAILED after {seconds} s: {done.stderr[-600:]}"
    (out / "study.json").write_text(
        json.dumps({"seconds": seconds, "steps": steps_of(arm, args.steps), "batch": arm.batch})
    )
    return f"{out.name}: {seconds} s"


def chosen(args: argparse.Namespace) -> list[tuple[Arm, int]]:
    """(arm, seed) of all that were asked for, trained ones before those that use their weights."""
    arms = [a for a in ARMS if not args.only or a.name in args.only]
    jobs = [(arm, seed) for seed in args.seeds for arm in arms]
    return sorted(jobs, key=lambda job: (job[0].of is not None, args.seeds.index(job[1])))


def train(args: argparse.Namespace) -> None:
    """Train what is missing, `--jobs` at a time."""
    jobs = chosen(args)
    trained, derived = [j for j in jobs if not j[0].of], [j for j in jobs if j[0].of]
    with ThreadPoolExecutor(args.jobs) as pool:
        for line in pool.map(lambda job: train_one(args, *job), trained):
            print(line, flush=True)
    for job in derived:
        print(train_one(args, *job), flush=True)


def evaluate(args: argparse.Namespace) -> None:
    """One report over all weights."""
    weights = [str(folder(args, *job)) for job in chosen(args) if (folder(args, *job) / "study.json").is_file()]
    command = [sys.executable, "-m", "wsistain", "evaluate", "--data", str(args.work / "patches"), "--marker", "ER"]
    command += ["--output", str(args.work / args.report), "--overwrite", "--workers", str(args.jobs)]
    command += ["--limit", str(args.limit)] if args.limit else []
    subprocess.run([*command, "--weights", *weights], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def value(system: dict[str, Any], metric: str) -> float | None:
    """A metric of one row of a report."""
    found = system["metrics"].get(metric)
    return None if found is None else found["value"]


def rows(args: argparse.Namespace, report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Arm name to its metrics: mean, least and most over the seeds."""
    found: dict[str, dict[str, Any]] = {}
    named = {name: [name] for name in BASELINES}
    named |= {arm.name: [f"{arm.name}-s{s}" for s in args.seeds] for arm in ARMS}
    for name, runs in named.items():
        systems = [report["systems"][run] for run in runs if run in report["systems"]]
        if not systems:
            continue
        found[name] = {"n_seeds": len(systems)}
        for metric in dict.fromkeys([*SHOWN, *(m for part in LEADERBOARD.values() for m in part)]):
            values = [v for v in (value(s, metric) for s in systems) if v is not None]
            if values:
                found[name][metric] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    return found


def table(args: argparse.Namespace) -> None:
    """Print the tables as Markdown and write the numbers."""
    reports = [json.loads(p.read_text()) for p in sorted(args.work.glob("report*/results.json"))]
    report = {**reports[0], "systems": {name: system for r in reports for name, system in r["systems"].items()}}
    if len({json.dumps(r["data"], sort_keys=True) for r in reports}) > 1:
        raise SystemExit("the reports were not measured on the same patches")
    found = rows(args, report)

    def line(name: str, label: str, metrics: tuple[str, ...] = SHOWN) -> str:
        cells = []
        for metric in metrics:
            v = found[name].get(metric)
            spread = "" if not v or v["min"] == v["max"] else f" ({v['min']:.3f}, {v['max']:.3f})"
            cells.append("-" if not v else f"{v['mean']:.3f}{spread}")
        return f"| {label} | " + " | ".join(cells) + " |"

    def head(metrics: tuple[str, ...] = SHOWN) -> str:
        return "| | " + " | ".join(metrics) + " |\n|" + " --- |" * (len(metrics) + 1)

    for title, metrics in LEADERBOARD.items():
        print(f"\nLeaderboard, {title}\n\n{head(metrics)}")
        for name, label in [*BASELINES.items(), *((a.name, a.label) for a in ARMS if a.group == "systems")]:
            if name in found:
                print(line(name, label, metrics))
    for group, full in ABLATIONS.items():
        print(f"\n{group}\n\n{head()}")
        for name, label in [(full, "all of it"), *((a.name, a.label) for a in ARMS if a.group == group)]:
            if name in found:
                print(line(name, label))
    times = {p.parent.name: json.loads(p.read_text()) for p in sorted(args.work.glob("runs/*/study.json"))}
    common.report(
        "study", {"rows": found, "runs": times, "truth": report.get("truth"), "data": report["data"]}, args.output
    )


def main() -> None:
    """Run one of the four stages."""
    options = common.parser(__doc__ or "")
    options.add_argument("stage", choices=["data", "train", "evaluate", "table"])
    options.add_argument("--steps", type=int, default=800)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--limit", type=int, help="patches that are evaluated, evenly spread; all by default")
    options.add_argument("--report", default="report", help="folder of the report; `table` reads all report*")
    options.add_argument("--only", nargs="*", help="names of arms")
    args = options.parse_args()
    {"data": make_data, "train": train, "evaluate": evaluate, "table": table}[args.stage](args)


if __name__ == "__main__":
    main()
