"""How far MIU-Diff's reverse run can be shortened: the paper's 300 steps beside faster samplers, on the phantom.

    python benchmarks/miu_sampler.py runs/study/runs/miu_long-s0/weights.safetensors runs/study/patches --limit 12

The same networks stain the same H&E under other sampling options, without tuning. Each sampler runs with every seed of
`--seeds`: what two seeds of the paper's run differ by is chance, and a faster sampler that stays within it loses nothing
that these patches can show. `passes` are those of the score model for each window of a tile, seconds are CPU seconds on
one thread (wall seconds on a GPU) for a whole patch.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import common
from study_arms import over

SAMPLERS: dict[str, dict[str, Any]] = {
    "ancestral": {"solver": "ancestral"},
    "sde2m_30": {"solver": "sde2m", "n_steps": 30},
    "sde2m_20": {"solver": "sde2m", "n_steps": 20},
    "sde2m_15": {"solver": "sde2m", "n_steps": 15},
    "sde2m_10": {"solver": "sde2m", "n_steps": 10},
    "ode2m_30": {"solver": "ode2m", "n_steps": 30},
    "ode2m_15": {"solver": "ode2m", "n_steps": 15},
}
PAPER = "ancestral"
SHOWN = ("cell_auc", "area_r_truth", "r_p", "r_c", "ssim_truth", "dice_truth")


def write_variant(source: Path, target: Path, sampling: dict[str, Any]) -> Path:
    """`target`: the tensors of `source` under a header with other sampling options."""
    from wsistain.weights.file import load_tensors, read_header, save_weights

    header = read_header(source)
    options = over(header.options, sampling=sampling)
    save_weights(target, header.model_copy(update={"options": options}), load_tensors(source))
    return target


def cost(weights: Path, patches: list[Any], marker: str, mpp: float, device: str) -> dict[str, float]:
    """Passes of the two networks a window, windows a patch, and seconds a patch, over a few patches."""
    from wsistain.data.patches import read_pair
    from wsistain.diffusion.windows import Windows
    from wsistain.evaluation.rows import Network
    from wsistain.generators.load import build_generator, find_generator

    generator = build_generator(find_generator(str(weights), marker), device=device)
    stainer = generator.network  # type: ignore[attr-defined]
    passes = {"score": 0, "estimator": 0}
    windows = 0

    def counting(name: str) -> Any:
        def count(_module: Any, inputs: Any, _output: Any) -> None:
            passes[name] += len(inputs[0])

        return count

    for name in passes:
        getattr(stainer, name).register_forward_hook(counting(name))
    shown = Network(weights.stem, generator, mpp)
    clock = time.process_time if generator.device == "cpu" else time.perf_counter
    seconds = 0.0
    for ref in patches:
        he = read_pair(ref)[0]
        assert he is not None
        start = clock()
        shown.stain(he)
        seconds += clock() - start
        sizes = [round(n * shown.scale) + -round(n * shown.scale) % stainer.facts.size_multiple for n in he.shape[:2]]
        windows += len(Windows([(0, 0)], *sizes, stainer.sampling.window, stainer.sampling.window_stride).places())
    return {
        "passes": passes["score"] / windows,
        "energy_gradients": passes["estimator"] / windows,
        "windows_a_patch": windows / len(patches),
        "seconds_a_patch": seconds / len(patches),
    }


def quality(systems: dict[str, Any], names: list[str]) -> dict[str, dict[str, float]]:
    """Metric to mean, least and most over the runs `names` of one sampler."""
    found = {}
    for metric in SHOWN:
        values = [systems[n]["metrics"][metric]["value"] for n in names if metric in systems[n]["metrics"]]
        if values and None not in values:
            found[metric] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    return found


def compare(rows: dict[str, Any]) -> None:
    """Add to each row its share of the paper's passes and what it loses, beside what the paper's seeds differ by."""
    paper = rows.get(PAPER)
    if paper is None:
        return
    for row in rows.values():
        row["passes_saved"] = paper["cost"]["passes"] / row["cost"]["passes"]
        row["lost"] = {m: paper["quality"][m]["mean"] - v["mean"] for m, v in row["quality"].items()}
    paper["seeds_differ_by"] = {m: v["max"] - v["min"] for m, v in paper["quality"].items()}


def show(rows: dict[str, Any]) -> None:
    """The table as Markdown."""
    print("| sampler | passes | seconds a patch | " + " | ".join(SHOWN) + " |\n|" + " --- |" * (len(SHOWN) + 3))
    for name, row in rows.items():
        cells = [f"{row['cost']['passes']:.0f}", f"{row['cost']['seconds_a_patch']:.2f}"]
        for metric in SHOWN:
            v = row["quality"].get(metric)
            spread = "" if not v or v["min"] == v["max"] else f" ({v['min']:.3f}, {v['max']:.3f})"
            cells.append("-" if not v else f"{v['mean']:.3f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Stain, measure, print the table."""
    from wsistain.data.layouts import list_patches
    from wsistain.evaluation.report import evaluate
    from wsistain.evaluation.truth import read_truth
    from wsistain.markers import find_marker
    from wsistain.weights.find import find_weights

    options = common.parser(__doc__ or "")
    options.add_argument("weights", type=Path, help="trained weights of miu_diff, a file or a run's folder")
    options.add_argument("patches", type=Path, help="phantom patches in MIST's layout")
    options.add_argument("--marker", default="ER")
    options.add_argument("--limit", type=int, help="validation patches, evenly spread; all of them by default")
    options.add_argument("--timed", type=int, default=2, help="patches that are timed")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--only", nargs="+", choices=sorted(SAMPLERS), default=list(SAMPLERS))
    options.add_argument("--device", default="auto")
    args = options.parse_args()
    source, folder = find_weights(str(args.weights), args.marker), args.work / "miu_sampler"
    refs = [r for r in list_patches("mist", args.patches, find_marker(args.marker), "val") if r.he is not None]
    truth = read_truth(refs, find_marker(args.marker), "val")
    if truth is None:
        raise SystemExit(f"{args.patches} holds no phantom patches: there is no manifest.json with the truth")
    variants = {
        name: {
            seed: write_variant(
                source, folder / f"{name}-s{seed}.safetensors", {**SAMPLERS[name], "tune_from": 0, "seed": seed}
            )
            for seed in args.seeds
        }
        for name in args.only
    }
    rows: dict[str, Any] = {}
    for name, files in variants.items():
        first = next(iter(files.values()))
        rows[name] = {"cost": cost(first, refs[: args.timed], args.marker, truth.mpp, args.device)}
    every = [file for files in variants.values() for file in files.values()]
    found = evaluate(
        every,
        args.patches,
        marker=args.marker,
        output=folder / "report",
        limit=args.limit,
        device=args.device,
        workers=1,
        overwrite=True,
    )
    for name, files in variants.items():
        rows[name]["quality"] = quality(found["systems"], [file.stem for file in files.values()])
    compare(rows)
    show(rows)
    facts = {"patches": args.limit or len(refs), "seeds": args.seeds, "truth": found.get("truth"), "samplers": rows}
    common.report("miu_sampler", facts, args.output)


if __name__ == "__main__":
    main()
