"""How far cells and scores that are read of a stain lie from the phantom's own, marker by marker, with intervals.

    python benchmarks/read_scores.py --output benchmarks/results/read_scores.json
    python benchmarks/read_scores.py --hot-spots --slides 3 --px 3000 --markers Ki67 --output benchmarks/results/read_hotspots.json

Two rows a marker: "truth" is the aligned true IHC, read (the error of reading alone), "demo" what the demonstration weights
stain (that of stain and reading together). Cells are found once a slide, on the H&E. Slides are whole squares of tissue from
seed 9800 on, which nothing was set or trained on, HER2 of score 0 to 3 in turn. Intervals: bootstrap over slides, 95 %.
"held" is how many intervals of the reading hold the score of the slide's own cells: they are made for the choice of fields,
and say nothing of errors of reading, so that fewer than 95 % is what a reading that errs comes to.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import report
from numpy.typing import NDArray
from read import find, matched, true_grades, written

from wsistain.config import RunConfig
from wsistain.markers import MARKERS, Marker
from wsistain.output.reading import StoredStain, read_stain
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.phantom.tables import cell_table
from wsistain.pipeline.run import run
from wsistain.reading.scores import Hotspot, find_hotspot, score_cells
from wsistain.slide.reader import open_slide

MPP = 0.5
UNSEEN = (0.5, 1.5, 2.5)
"""Ring scores from which a membrane would be 1+, 2+ and 3+ if what nobody can see counted as 1+ (`read.RINGS`)."""

CONFUSED: dict[str, NDArray[np.int64]] = {}
"""Cells of membranous markers by true class (rows) and class that was read, of each kind of stain."""

DRAWS = 1000
F64 = NDArray[np.float64]


def stained(path: Path, marker: Marker, weights: str, folder: Path) -> StoredStain:
    return read_stain(
        run(path, marker.name, folder / weights, config=RunConfig(weights=weights, all_tiles=True))[0].output
    )


def slide_of(seed: int, px: int, markers: list[Marker], hot: bool) -> dict[str, dict[str, float]]:
    """By row, as "ER truth", what one slide gives."""
    found = {}
    configs = {
        m: PhantomConfig(height=px, width=px, mpp=MPP, seed=seed, marker=m.name, her2_score=seed % 4, whole=True)
        for m in markers
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        phantom = Phantom(configs[markers[0]])
        he = written(phantom.render("he_a", 0, 0, px, px), MPP, folder)
        table = cell_table(phantom, "a", 0, 0, px, px)
        stains = {}
        for marker, config in configs.items():
            (folder / marker.name).mkdir()
            ihc = written(Phantom(config).render("ihc_a", 0, 0, px, px), MPP, folder / marker.name)
            stains[marker, "truth"] = stained(ihc, marker, "identity", folder / marker.name)
            stains[marker, "demo"] = stained(he, marker, "demo", folder / marker.name)
        slide = open_slide(he)
        rows = find(slide, [(stain, marker) for (marker, _), stain in stains.items()])
        slide.close()
    ty, tx = table["y_um"].to_numpy(), table["x_um"].to_numpy()
    y, x = (np.concatenate([getattr(r[0].nuclei, n) for r in rows]) for n in ("y", "x"))
    of = matched(np.stack([y, x], 1), np.stack([ty, tx], 1))
    for k, (marker, what) in enumerate(stains):
        grade = np.concatenate([r[k].readings.grade for r in rows])
        level = table[f"level_{marker.name}"].to_numpy()
        truth, unseen = true_grades(level, marker), true_grades(level, marker, UNSEEN)
        positive = table[f"positive_{marker.name}"].to_numpy()
        read, real = (y, x, grade), (ty, tx, truth)
        one = {"recall": len(set(of[of >= 0])) / len(ty), "precision": float((of >= 0).mean())}
        one |= classed(grade, of, truth, positive, marker)
        one |= hot_spots(read, real, marker) if hot else scored(read, real, positive, marker)
        if marker.compartment == "membranous":
            both = (of >= 0) & (grade >= 0)
            one["class_agree from 0.5"] = float((grade[both] == unseen[of[both]]).mean())
            table_of = np.zeros((4, 4), int)
            np.add.at(table_of, (truth[of[both]], grade[both]), 1)
            CONFUSED.setdefault(what, np.zeros((4, 4), int))[:] += table_of
        found[f"{marker.name} {what}"] = one
    return found


def classed(grade: Any, of: Any, truth: Any, positive: Any, marker: Marker) -> dict[str, float]:
    """Agreement of classes at cells that are found and there."""
    both = (of >= 0) & (grade >= 0)
    called, real = grade[both] >= marker.cell_positive, positive[of[both]]
    return {
        "positive_agree": float((called == real).mean()),
        "sensitivity": float(called[real].mean()) if real.any() else np.nan,
        "specificity": float((~called[~real]).mean()) if (~real).any() else np.nan,
        "class_agree": float((grade[both] == truth[of[both]]).mean()),
    }


def scored(read: Any, real: Any, positive: Any, marker: Marker) -> dict[str, float]:
    """Score less true score, and whether its interval holds it."""
    found: dict[str, float] = {}
    reading, truth = score_cells(*read, marker).numbers, score_cells(*real, marker).numbers
    known = {name: one.value for name, one in truth.items()} | {"percent_positive": 100 * float(positive.mean())}
    if "ki67_index" in known:
        known["ki67_index"] = known["percent_positive"]
    for name, one in reading.items():
        value = known[name]
        if one.value is None or value is None:
            continue
        found[f"{name} true"], found[f"{name} error"] = value, one.value - value
        if one.low is not None and one.high is not None:
            found[f"{name} held"] = float(one.low <= value <= one.high)
    if marker.name == "HER2":
        found["category_agree"] = float(found["her2_score error"] == 0)
    elif marker.name in ("ER", "PR"):
        found["category_agree"] = float(_word(reading["percent_positive"].value) == _word(known["percent_positive"]))
    return found


def _word(percent: float | None) -> int:
    return int(np.digitize(percent or 0, (1, 10)))


def hot_spots(read: Any, real: Any, marker: Marker) -> dict[str, float]:
    """The hot spot that is read against the true one: place, index, and what is true in it."""
    mine, true = find_hotspot(*read, marker), find_hotspot(*real, marker)
    if mine is None or true is None:
        return {}
    y, x, grade = real
    here = (y >= mine.y) & (y < mine.y + 1000) & (x >= mine.x) & (x < mine.x + 1000)
    best = _percent(true)
    return {
        "hot spot true": best,
        "hot spot error": _percent(mine) - best,
        "true index where it was read": 100 * float((grade[here] >= marker.cell_positive).mean()) - best,
        "overlap": _shared(mine.y, true.y) * _shared(mine.x, true.x),
        "average true": 100 * float((grade >= marker.cell_positive).mean()),
    }


def _percent(spot: Hotspot) -> float:
    return float(spot.scores.numbers["percent_positive"].value or 0)


def _shared(a: float, b: float) -> float:
    return max(0.0, 1 - abs(a - b) / 1000)


def summed(slides: list[dict[str, float]]) -> dict[str, Any]:
    """Means over slides with intervals; of errors also the mean size and the largest."""
    rng, out = np.random.default_rng(0), {}
    for name in dict.fromkeys(n for one in slides for n in one):
        values = np.array([one[name] for one in slides if np.isfinite(one.get(name, np.nan))])
        if not len(values):
            continue
        if name.endswith(" held"):
            out[name] = [int(values.sum()), len(values)]
            continue
        draws = rng.choice(values, (DRAWS, len(values))).mean(axis=1)
        low, high = np.percentile(draws, (2.5, 97.5))
        out[name] = {"mean": round(float(values.mean()), 3), "interval": [round(float(v), 3) for v in (low, high)]}
        if name.endswith(" error"):
            largest = values[np.abs(values).argmax()]
            out[name] |= {"size": round(float(np.abs(values).mean()), 3), "furthest": round(float(largest), 3)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markers", nargs="+", default=list(MARKERS), choices=list(MARKERS))
    parser.add_argument("--seed", type=int, default=9800, help="of the first slide")
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--px", type=int, default=1024, help="edge of a slide, at 0.5 um per px")
    parser.add_argument("--hot-spots", action="store_true", help="hot spots in place of scores; slides wider than 1 mm")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    markers, found, begin = [MARKERS[name] for name in args.markers], [], time.process_time()
    for seed in range(args.seed, args.seed + args.slides):
        found.append(slide_of(seed, args.px, markers, args.hot_spots))
        print(seed, round(time.process_time() - begin), "s of CPU", flush=True)
        results = {"slides": len(found), "edge_um": args.px * MPP} | {
            row: summed([one[row] for one in found]) for row in found[0]
        }
        if CONFUSED:
            results["true class by class read"] = {what: cells.tolist() for what, cells in CONFUSED.items()}
        report("read_hotspots" if args.hot_spots else "read_scores", results, args.output)


if __name__ == "__main__":
    main()
