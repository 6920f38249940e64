"""What `data.filter` is worth: small systems trained on pairs that `wsistain pair` cut from phantom slides whose IHC a laboratory
spoiled in places: on all of them, on the filtered ones, and on the same slides unspoiled. Judged by cell AUC against the
aligned truth of other slides.

    python benchmarks/pair_filter.py --work runs/pair_filter --output benchmarks/results/pair_filter.json

Four `adjacent` pairs of 2.4 mm at 1 um per px, expression plainly visible as in lpstain_small.yaml. The IHC is spoiled (FAULTS) in
nine of ten squares of 400 um on two slides, in two of ten on the others. All runs have the same steps and see other patches only by what the arm says. Intervals
are the 95 % bootstrap over held-out slides, the same draws for both arms of a difference. What is there already is left alone.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from wsistain.config import PatchFilter
from wsistain.data.filter import filter_patches
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.evaluation.pathology import area_under_curve, cell_od
from wsistain.evaluation.truth import read_truth
from wsistain.markers import find_marker
from wsistain.optics.scoring import stain_od
from wsistain.pairing.transform import PieceMap, load_transform
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.phantom.tiff import write_pyramid

SEEDS, SIDE, MPP, PATCH_PX = (31, 32, 33, 34), 2400, 1.0, 256
SQUARE = 400
"""Px of a square that is spoiled or not."""

SHARES = {31: 0.9, 32: 0.2, 33: 0.9, 34: 0.2}
"""How many squares are spoiled, by slide."""

FAULTS = {"moved": 0.4, "lost": 0.25, "folded": 0.2, "blurred": 0.15}
"""How often which: come off and settled 60 to 150 um away; washed off the glass; a strip 120 um wide lying double; out of focus by
4 um."""

FILTER = {"max_residual_um": 10, "min_agreement": 0.5, "min_tissue": 0.6, "max_fold": 0.05, "min_focus": 0.25}
ARMS = ("all", "filtered", "unspoiled")
VAL = ["--markers", "ER", "--train", "4", "--val", "32", "--size", "256", "--slides", "32", "--seed", "5", "--mpp", "1.0",
       "--pairing", "mist", "--visibility", "1.0", "--contrast", "3"]  # fmt: skip
STEPS = {"lpstain_small": 240, "pyramidp2p_small": 400}
"""Shipped configurations that are trained, and for how long."""

DRAWS = 1000
Picture = NDArray[np.uint8]


def call(*words: str) -> None:
    """One call of the command line, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "wsistain", *words], env=environment, check=True)


def spoil(rgb: Picture, seed: int) -> tuple[Picture, NDArray[np.uint8]]:
    """The picture (h, w, 3) with faults in places, and of each pixel 0 or the number of its fault, from 1."""
    rng = np.random.default_rng(seed)
    out, faults = rgb.copy(), np.zeros(rgb.shape[:2], np.uint8)
    glass = np.quantile(rgb.reshape(-1, 3)[::97], 0.99, axis=0)
    blurred = np.stack([ndimage.gaussian_filter(rgb[..., c].astype(np.float32), 4) for c in range(3)], axis=-1)
    yy, xx = np.meshgrid(*(np.arange(n) for n in faults.shape), indexing="ij")
    for top in range(0, rgb.shape[0], SQUARE):
        for left in range(0, rgb.shape[1], SQUARE):
            hit, turn, way = rng.random() < SHARES[seed], np.pi * rng.random(), 2 * np.pi * rng.random()
            kind = str(rng.choice(list(FAULTS), p=list(FAULTS.values())))
            radii, far = rng.uniform(120, 220, 2), rng.uniform(60, 150)
            if not hit:
                continue
            here = slice(max(top - 60, 0), top + SQUARE + 60), slice(max(left - 60, 0), left + SQUARE + 60)
            dy, dx = yy[here] - top - SQUARE / 2, xx[here] - left - SQUARE / 2
            along, across = np.cos(turn) * dy + np.sin(turn) * dx, np.cos(turn) * dx - np.sin(turn) * dy
            inside = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1
            at = np.stack([yy[here], xx[here]]).astype(np.float64)
            if kind == "lost":
                new = np.broadcast_to(glass, (*inside.shape, 3))
            elif kind == "moved":
                new = _taken(rgb, at + far * np.array([np.sin(way), np.cos(way)])[:, None, None])
            elif kind == "folded":
                inside = (np.abs(across) < 60) & (np.abs(along) < 250)
                mirrored = at + 2 * (60 - across) * np.array([-np.sin(turn), np.cos(turn)])[:, None, None]
                new = rgb[here].astype(np.float32) * _taken(rgb, mirrored) / glass
            else:
                new = blurred[here]
            out[here][inside] = np.clip(np.rint(new[inside]), 0, 255)
            faults[here][inside] = 1 + list(FAULTS).index(kind)
    return out, faults


def _taken(rgb: Picture, at: NDArray[np.float64]) -> Picture:
    """The pixels nearest to places (2, h, w); the edge's beyond it."""
    y, x = (np.clip(np.rint(v).astype(int), 0, n - 1) for v, n in zip(at, rgb.shape, strict=False))
    return rgb[y, x]


def make_pairs(work: Path) -> None:
    """The slides, spoiled and not, and the patches of each pair."""
    if not (work / "val").is_dir():
        call("phantom", "patches", str(work / "val"), *VAL)
    for seed in SEEDS:
        home = work / "slides" / f"S{seed}"
        home.mkdir(parents=True, exist_ok=True)
        phantom = Phantom(
            PhantomConfig(height=SIDE, width=SIDE, mpp=MPP, seed=seed, pairing="adjacent", visibility=1.0, contrast=3.0)
        )
        he, ihc, bad = (home / f"{name}.tiff" for name in ("he_a", "ihc_b", "ihc_spoiled"))
        for path in (he, ihc):
            if not path.is_file():
                write_picture(path, phantom.render(path.stem, 0, 0, SIDE, SIDE))
        if not bad.is_file():
            spoiled, faults = spoil(tifffile.imread(ihc, key=0), seed)
            np.save(home / "faults.npy", faults)
            write_picture(bad, spoiled)
        for root, second in (("spoiled", bad), ("unspoiled", ihc)):
            if not (work / root / "ER" / "pairs" / home.name).is_dir():
                call("pair", str(he), str(second), "--marker", "ER", "--name", home.name, "--part", "train", "--patch-mpp",
                     str(MPP), "--patch-size", str(PATCH_PX), "--output", str(work / root))  # fmt: skip
    for root in ("spoiled", "unspoiled"):  # training shows some held-out patches, and learns from none
        for side in ("valA", "valB"):
            link = work / root / "ER" / "TrainValAB" / side
            if not link.exists():
                link.symlink_to((work / "val" / "ER" / "TrainValAB" / side).absolute())


def write_picture(path: Path, rgb: Picture) -> None:
    """A pyramidal slide of a picture."""
    write_pyramid(path, rgb.shape[:2], MPP, lambda y, x, h, w: rgb[y : y + h, x : x + w], quality=88)


def what_is_dropped(work: Path) -> dict[str, Any]:
    """How many patches the filter leaves, by the share of the patch that is spoiled, and of those that one fault spoils."""
    refs = list_patches("mist", work / "spoiled", find_marker("ER"), "train")
    kept, reasons = filter_patches(refs, PatchFilter(**FILTER))
    names = {ref.name for ref in kept}
    with (work / "spoiled" / "ER" / "patches.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts: dict[str, list[int]] = {}
    for row in rows:
        piece, faults = _map_of(work, row["slide"]), np.load(work / "slides" / row["slide"] / "faults.npy")
        at = [int(row[key]) + np.arange(0, PATCH_PX, 4) + 0.5 for key in ("y_l0", "x_l0")]
        y, x = piece.map(*np.meshgrid(*at, indexing="ij"))
        seen = faults[tuple(np.clip(np.floor(v / MPP).astype(int), 0, SIDE - 1) for v in (y, x))]
        spoiled = float((seen > 0).mean())
        keys = [
            "patches",
            "spoiled by " + ("under 5 %" if spoiled < 0.05 else "5 to 30 %" if spoiled < 0.3 else "over 30 %"),
        ]
        keys += [f"over 30 % {fault}" for k, fault in enumerate(FAULTS, 1) if (seen == k).mean() > 0.3]
        for key in keys:
            count = counts.setdefault(key, [0, 0])
            count[0] += 1
            count[1] += row["patch"] in names
    return {"patches_and_kept": dict(sorted(counts.items())), "left_out_by": reasons}


def _map_of(work: Path, slide: str) -> PieceMap:
    """The registration of the largest section of a slide, as it came of the unspoiled pair."""
    return load_transform(work / "unspoiled" / "ER" / "pairs" / slide / "transform.npz")[0][0]


def train(work: Path, system: str, arm: str, seed: int) -> Path:
    """The folder of a finished run."""
    run = work / "runs" / f"{system}-{arm}-s{seed}"
    if not (run / "weights.safetensors").is_file():
        root = work / ("unspoiled" if arm == "unspoiled" else "spoiled")
        given = json.dumps(FILTER) if arm == "filtered" else "null"
        sets = (f"data.root={root}", f"steps={STEPS[system]}", f"seed={seed}", f"data.filter={given}", "val_every=null")
        call("train", system, "--output", str(run), "--overwrite", *(w for one in sets for w in ("--set", one)))
    return run


def cells_of(work: Path, run: Path) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Density in the virtual stain and truth of every tumour cell, held-out slide by slide."""
    marker = find_marker("ER")
    stained = work / "stained" / run.name
    if not stained.is_dir():
        call("stain", str(work / "val" / "ER" / "TrainValAB" / "valA"), "--marker", "ER", "--weights", str(run), "--output",
             str(stained))  # fmt: skip
    refs = list_patches("mist", work / "val", marker, "val")
    truth = read_truth(refs, marker, "val")
    assert truth is not None
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.bool_]]]] = {}
    for ref in refs:
        cells = truth.places[ref.name]
        od = stain_od(read_picture(stained / f"{ref.name}.png"))
        values = cell_od(od, cells.y, cells.x, compartment=cells.compartment, mpp=cells.mpp)
        kept = np.isfinite(values) & truth.tumour[ref.name]
        found.setdefault(str(ref.slide), []).append((values[kept], truth.positive[ref.name][kept]))
    return [tuple(np.concatenate(part) for part in zip(*found[slide], strict=True)) for slide in sorted(found)]  # type: ignore[misc]


def aucs(cells: list[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> NDArray[np.float64]:
    """AUC over all cells, then of slides drawn anew, float (1 + DRAWS,)."""
    draws = np.random.default_rng(0).integers(0, len(cells), (DRAWS, len(cells)))
    chosen = [np.arange(len(cells)), *draws]
    return np.array(
        [area_under_curve(*(np.concatenate([cells[k][i] for k in draw]) for i in range(2))) for draw in chosen]
    )


def told(values: NDArray[np.float64]) -> list[float]:
    """Value and 95 % interval."""
    return [round(float(v), 4) for v in (values[0], *np.quantile(values[1:], (0.025, 0.975)))]


def main() -> None:
    options = common.parser(__doc__ or "")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options.add_argument("--systems", nargs="+", default=list(STEPS), choices=list(STEPS))
    given = options.parse_args()
    make_pairs(given.work)
    results: dict[str, Any] = {
        "steps": {system: STEPS[system] for system in given.systems},
        "filter": FILTER,
        "faults": {"kinds": FAULTS, "square_px": SQUARE, "share_of_squares": SHARES},
        **what_is_dropped(given.work),
        "cell_auc": {},
    }
    common.report("pair_filter", results, given.output)
    for system in given.systems:
        drawn: dict[str, dict[int, NDArray[np.float64]]] = {arm: {} for arm in given.arms}
        for seed in range(given.seeds):
            for arm in given.arms:
                drawn[arm][seed] = aucs(cells_of(given.work, train(given.work, system, arm, seed)))
                results["cell_auc"][system] = compared(drawn)
                common.report("pair_filter", results, given.output)


def compared(drawn: dict[str, dict[int, NDArray[np.float64]]]) -> dict[str, Any]:
    """AUC of each run, and of each arm what it has more than all patches, by the mean over the seeds that both have."""
    rows: dict[str, Any] = {f"{arm}, seed {k}": told(v) for arm, runs in drawn.items() for k, v in runs.items()}
    for better in drawn:
        seeds = sorted(set(drawn[better]) & set(drawn["all"]))
        if better != "all" and seeds:
            more = [drawn[better][k] - drawn["all"][k] for k in seeds]
            rows[f"{better} less all, seeds {seeds}"] = told(np.mean(more, axis=0))
            rows[f"{better} less all, one by one"] = [round(float(m[0]), 4) for m in more]
    return rows


if __name__ == "__main__":
    main()
