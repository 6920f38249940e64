"""How a system's cell AUC falls with what goes wrong: sections that do not fit, few training slides, another laboratory's stain.

    wsistain benchmark make data/benchmark --only mist-c3-ER
    python benchmarks/sensitivity.py misfit --data data/benchmark --systems lpstain --output benchmarks/results/benchmark/sensitivity.json
    python benchmarks/sensitivity.py slides --data data/benchmark --systems lpstain --at 2 8 40 200 --output ...
    python benchmarks/sensitivity.py stain  --data data/benchmark --systems lpstain --output ...

misfit : section B lies 4 um below A, undeformed, and is shifted by exactly so many um, each slide in a direction of its own.
slides : one patch from each of so many slides, as the edition has them (its own 40, then further ones of its seed).
stain  : weights of the edition's own 40 patches, or those of --weights; haematoxylin of the test H&E times e^s, eosin times e^-s.

    python benchmarks/sensitivity.py plot --output FILE.json --figure docs/images/sensitivity.svg

Every point is trained at one budget (`--crops` of 128 px) and one learning rate, and read on the edition's test patches: cell AUC with
its 95 % over slides. A point that is in the output is left alone, so an interrupted call goes on.
"""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common
import entries
import numpy as np
from arms import find_arm
from numpy.typing import NDArray

from wsistain.benchmark.curves import drawn, read_curves
from wsistain.benchmark.edition import V0
from wsistain.data.layouts import PatchRef, list_patches
from wsistain.data.pictures import read_picture
from wsistain.evaluation.pathology import cell_od
from wsistain.evaluation.summary import summarise_cells
from wsistain.evaluation.truth import PhantomTruth, read_truth
from wsistain.markers import EOSIN, HAEMATOXYLIN
from wsistain.optics.scoring import stain_od
from wsistain.phantom.config import PhantomConfig, SectionPairing
from wsistain.phantom.noise import draw, salt_of
from wsistain.phantom.products import choose_places
from wsistain.phantom.render import Phantom
from wsistain.runtime.files import write_bytes, write_json
from wsistain.runtime.jpeg import encode_jpeg

TASK = V0.condition("mist-c3-ER")
AT = {"misfit": (0, 10, 25, 50, 100), "slides": (2, 5, 10, 20, 40, 80, 200), "stain": (0.0, 0.1, 0.2, 0.4, 0.8)}
RGB = NDArray[np.uint8]


def slide(k: int, sections: SectionPairing | None) -> PhantomConfig:
    """Training slide `k` of the edition, with other sections where they are given."""
    making = V0.making(TASK, "learn")
    seed = int(salt_of(making["seed"], f"slide {TASK.marker} {k}") >> np.uint64(2))
    side = 4 * V0.size
    return PhantomConfig(
        height=side, width=side, mpp=V0.mpp, marker=TASK.marker, seed=seed, visibility=V0.visibility,
        contrast=float(TASK.contrast), pairing=TASK.pairing, sections=sections, quality=90, version=V0.phantom,
    )  # fmt: skip


def shifted(k: int, um: float) -> SectionPairing:
    """An adjacent section that is off by exactly `um`: sections draw their shift between half and all of what is asked."""
    u = float(draw(np.arange(4, dtype=np.uint64), salt_of(slide(k, None).seed, "sections"))[1])
    return SectionPairing(distance_um=4.0, shift_um=um / (0.5 + 0.5 * u))


def make_learning(folder: Path, data: Path, n: int, misfit: float | None) -> Path:
    """A root in MIST's layout with one training patch of each of `n` slides, and the edition's validation patches."""
    base = folder / TASK.marker / "TrainValAB"
    own = TASK.folder(data, "learn") / TASK.marker / "TrainValAB"
    for k in range(n):
        config = slide(k, None if misfit is None else shifted(k, misfit))
        (y, x), *_ = choose_places(config, V0.size, 1)
        name = f"{TASK.marker}{V0.seeds[0]}S{k:03d}_{x // V0.size}_{y // V0.size}.jpg"
        phantom = None
        for side, product in (("trainA", "he_a"), ("trainB", "ihc_b")):
            path = base / side / name
            if path.is_file():
                continue
            theirs = own / side / name  # the edition's own, where it has this slide and its sections
            if theirs.is_file() and misfit is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(theirs.resolve())
                continue
            phantom = phantom or Phantom(config)
            path.parent.mkdir(parents=True, exist_ok=True)
            rgb = phantom.render(product, y, x, V0.size, V0.size)  # type: ignore[arg-type]
            write_bytes(path, encode_jpeg(rgb, config.quality, subsampling="4:2:0"))
    for side in ("valA", "valB"):
        if not (base / side).exists():
            (base / side).symlink_to((own / side).resolve())
    facts = {
        "kind": "patches",
        "marker": TASK.marker,
        "mpp": V0.mpp,
        "visibility": V0.visibility,
        "version": V0.phantom,
    }
    write_json(folder / TASK.marker / "manifest.json", {"parameters": facts, "misfit_um": misfit, "slides": n})
    return folder


def trained(args: argparse.Namespace, system: str, root: Path, name: str) -> tuple[Path, float, int]:
    """(weights, seconds of one core, crops of 128 px) of a run on `root`."""
    rate = args.rate or entries.rates(system)[1]
    config = entries.configuration(find_arm(system), TASK, args.data, args.crops, rate, args.seed)
    config["data"]["root"] = str(root)
    config |= {"val_every": None, "val_patches": 1}
    folder = args.work / f"{system}-{name}-c{args.crops:g}-s{args.seed}"
    seconds = entries.train(config, folder)
    return folder / "weights.safetensors", seconds, round(config["steps"] * entries.crops_a_step(config))


def restained(rgb: RGB, s: float) -> RGB:
    """A picture with haematoxylin times e^s and eosin times e^-s; what is neither dye stays."""
    dyes = np.array([HAEMATOXYLIN, EOSIN], np.float64)
    od = -np.log10((rgb.astype(np.float64) + 1) / 256)
    amounts = np.clip(od.reshape(-1, 3) @ np.linalg.pinv(dyes), 0, None)
    more = (amounts * (np.exp([s, -s]) - 1)) @ dyes
    light = 256 * 10 ** -(od + more.reshape(od.shape)) - 1
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def read_test(data: Path, n: int | None) -> tuple[list[PatchRef], PhantomTruth]:
    """The test patches (the first `n`) and their truth."""
    refs = list_patches("mist", TASK.folder(data, "test"), TASK.known(), "val")[:n]
    truth = read_truth(refs, TASK.known(), "val")
    if truth is None:
        raise SystemExit(f"{data} holds no test of {TASK.name}; run 'wsistain benchmark make' on it")
    return refs, truth


def cell_auc(weights: Path, refs: list[PatchRef], truth: PhantomTruth, s: float) -> dict[str, Any]:
    """Cell AUC of some weights on the test, restained by `s`, with its 95 % over slides; of their probability too, if they tell one."""
    from wsistain.evaluation.rows import Network
    from wsistain.generators.load import build_generator, find_generator

    marker = TASK.known()
    spec = find_generator(str(weights), marker.name)
    spec = replace(spec, probability=spec.name == "lpstain")
    network = Network("entry", build_generator(spec, device="cpu"), V0.mpp)
    read: dict[str, list[NDArray[Any]]] = {"": [], "probability_": []}
    positive, at = [], []
    for ref in refs:
        if ref.he is None:
            continue
        he = read_picture(ref.he)
        made = network.stain(he if s == 0 else restained(he, s))
        places, tumour = truth.places[ref.name], truth.tumour[ref.name]
        maps = {"": stain_od(np.ascontiguousarray(made[..., :3]), marker.chromogen)}
        if spec.probability:
            maps["probability_"] = 1 - made[..., 3].astype(np.float32) / 255
        for name, values in maps.items():
            told = cell_od(values, places.y, places.x, compartment=places.compartment, mpp=places.mpp)
            read[name].append(told[tumour])
        positive.append(truth.positive[ref.name][tumour])
        at += [ref.slide or ""] * int(tumour.sum())
    found: dict[str, Any] = {}
    yes, seen = np.concatenate(positive), np.array(at, dtype=object)
    for name, parts in read.items():
        if not parts:
            continue
        score = np.concatenate(parts)
        ok = np.isfinite(score)
        auc = summarise_cells(
            score[ok], yes[ok], seen[ok], [r.slide for r in refs], cutoff=marker.positive_cell_od, seed=0
        )["cell_auc"]  # fmt: skip
        found |= {f"{name}cell_auc": auc.value, f"{name}ci_low": auc.low, f"{name}ci_high": auc.high}
    return {**found, "n_cells": len(yes)}


def point(args: argparse.Namespace, system: str, what: str, value: float) -> dict[str, Any]:
    """One point of a curve."""
    refs, truth = read_test(args.data, args.test)
    if args.weights:
        return {**cell_auc(Path(args.weights), refs, truth, value), "test_patches": len(refs)}
    if what == "stain":
        root, name = TASK.folder(args.data, "learn"), "own"
    else:
        n = int(value) if what == "slides" else args.slides
        name = f"{what}-{value:g}" + ("" if what == "slides" else f"-n{n}")
        root = make_learning(args.work / "data" / name, args.data, n, value if what == "misfit" else None)
    weights, seconds, crops = trained(args, system, root, name)
    found = cell_auc(weights, refs, truth, value if what == "stain" else 0.0)
    return {**found, "crops": crops, "cpu_seconds": round(seconds, 1), "test_patches": len(refs)}


def main() -> None:
    """Measure the points that were asked for and are not there yet."""
    options = common.parser(__doc__ or "")
    options.set_defaults(work=Path("runs/sensitivity"))
    options.add_argument("what", choices=[*AT, "plot"])
    options.add_argument("--data", type=Path, help="folder of `wsistain benchmark make`")
    options.add_argument("--systems", nargs="+", default=["lpstain"], help="names of configs/train/NAME_small.yaml")
    options.add_argument("--at", type=float, nargs="+", help="points of the curve")
    options.add_argument("--crops", type=float, default=6400, help="of 128 px, a point")
    options.add_argument("--rate", type=float, help="learning rate; the middle of the benchmark's search without")
    options.add_argument(
        "--weights", help="of the stain curve: weights that one system's run of `entries.py` left, instead of training"
    )
    options.add_argument("--slides", type=int, default=V0.train, help="training slides of the misfit curve")
    options.add_argument("--test", type=int, help="test patches; all without")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--figure", type=Path, help="SVG of plot")
    args = options.parse_args()
    if args.what == "plot":
        args.figure.write_text(drawn(read_curves(args.output)))
        return
    if args.data is None:
        options.error("--data is needed")
    if args.weights and (args.what != "stain" or len(args.systems) != 1):
        options.error("--weights are of one system, for the stain curve: misfit and slides are trained")
    output = args.output or args.work / "sensitivity.json"
    known = json.loads(output.read_text()) if output.is_file() else {}
    for system in args.systems:
        for value in args.at or AT[args.what]:
            key = f"{args.what} {value:g} {system} c{args.crops:g} n{args.slides} s{args.seed}" + (
                " given" if args.weights else ""
            )
            if key in known:
                print(f"{key}: there already", flush=True)
                continue
            known[key] = {
                "edition": V0.name, "condition": TASK.name, "what": args.what, "at": value, "system": system, "seed": args.seed,
                "crops": args.crops, "commit": entries.commit(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"), **point(args, system, args.what, value),
            }  # fmt: skip
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, known, indent=1)
            print(f"{key}: cell AUC {known[key]['cell_auc']:.3f}", flush=True)


if __name__ == "__main__":
    main()
