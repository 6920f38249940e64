"""Which formula tells wrong cells of all four markers? Chosen on one half of slides and shifts, reported on the other.

    python benchmarks/trust_markers.py --output benchmarks/results/trust_markers.json
    python benchmarks/trust_markers.py --weights lpstain --mpp 1.0 --halves "reported on" --output benchmarks/results/trust_lpstain.json

Slides 9500 and 9501 under CHOOSING choose, slides 9700 and 9701 under REPORTING report; squares of 256 um, the demonstration weights of each
marker (or others), one H&E for all. A cell is wrong as in benchmarks/trust.py: the density that `evaluate` reads (of HER2 the mean of the ring)
lies on the other side of the cut-off than the phantom's truth. Formulas: what features leave of a cell's trust, beside the
clearness of its density and the least of focus, ink, fold and tissue. "edge" is the one in force
(`wsistain.reading.trusted.trust_of_distance`). Intervals: bootstrap over pictures (slide and shift), 95 %.
"""

import argparse
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from common import report
from numpy.typing import NDArray
from PIL import Image
from trust import (
    COLOURS,
    DRAWS,
    F64,
    RGB,
    SHIFTS,
    _blurred,
    _gains,
    auroc,
    colour_bank,
    kept_error,
    picture_of_all,
)  # fmt: skip

from wsistain.config import RunConfig
from wsistain.evaluation.pathology import cell_od
from wsistain.generators.known import Known, asking, known_of
from wsistain.markers import MARKERS, Marker
from wsistain.optics.familiar import looks_of
from wsistain.optics.scoring import stain_od
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.pipeline.run import run
from wsistain.reading.trust import TrustMaker
from wsistain.reading.trusted import SPOILING, clearness
from wsistain.slide.quality import examine
from wsistain.slide.reader import open_slide
from wsistain.weights.find import find_weights

EDGE_UM = 256


def _jpeg(rgb: RGB, mpp: float) -> RGB:
    target = BytesIO()
    Image.fromarray(rgb).save(target, "JPEG", quality=12)
    return np.asarray(Image.open(target))


CHOOSING: dict[str, dict[str, Any]] = {
    "none": {},
    "pale": {"change": _gains(0.55, 0.55)},
    "blur of 1.6 um": {"after": _blurred(1.6)},
    "larger cells": {"scale": 0.7},
    "JPEG at 12": {"after": _jpeg},
    "red": {"change": _gains(0.55, 1.7)},
}
REPORTING = {
    name: SHIFTS[name]
    for name in ("none", "much blue", "half the contrast", "blur of 1.1 um", "smaller cells", "lymphocytes")
}
SLIDES = {"chosen on": (CHOOSING, 9500), "reported on": (REPORTING, 9700)}
"""Shifts, and the first slide."""

Record = dict[str, NDArray[Any]]
"""Of the cells of a picture: wrong (bool), colour and features (distances), picture and clear (trust that is left)."""


def _plain(r: Record) -> F64:
    return np.asarray(r["picture"] * r["clear"], float)


FORMULAS: dict[str, Callable[[Record], F64]] = {
    "random": lambda r: np.random.default_rng(1).random(len(r["wrong"])),
    "colour": lambda r: -r["colour"],
    "clearness alone": lambda r: r["clear"],
    "without features": _plain,
    "from none: 1 / (1 + d^2)": lambda r: _plain(r) / (1 + r["features"] ** 2),
    "from 0.7": lambda r: _plain(r) / (1 + 4 * np.maximum(r["features"] - 0.7, 0) ** 2),
    "edge: 1 / (1 + 4 (d - 1)^2)": lambda r: _plain(r) / (1 + 4 * np.maximum(r["features"] - 1, 0) ** 2),
    "from 1.2": lambda r: _plain(r) / (1 + 4 * np.maximum(r["features"] - 1.2, 0) ** 2),
}


def record(
    rgb: RGB, y: F64, x: F64, positive: NDArray[np.bool_], marker: Marker, weights: str, known: Known, colour: F64,
    mpp: float,
) -> Record:  # fmt: skip
    """One picture, stained for one marker and asked everywhere how like training it is; colour: distance of its squares."""
    with TemporaryDirectory() as name:
        path = Path(name) / "he.tif"
        tifffile.imwrite(
            path,
            rgb,
            photometric="rgb",
            tile=(256, 256),
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
        )
        result = run(path, marker.name, Path(name), config=RunConfig(weights=weights, all_tiles=True, any_stain=True))[
            0
        ].output
        stain = read_stain(result)
        pixels = read_window(open_level(result, 0), 0, 0, *stain.levels[0])
        slide = open_slide(path)
        maker = TrustMaker(slide, stain, known, examine(slide), None, 1)
        spoiled = maker.strip(0)
        squares = (maker.place.rows, maker.place.cols)
        distance = known.distances(maker.place.read(slide, (0, 0, *squares)), mpp)["features"]
        slide.close()
    od = cell_od(stain_od(pixels, marker.chromogen), y - 0.5, x - 0.5, compartment=marker.compartment, mpp=mpp)
    there = np.isfinite(od)
    y, x, od, positive = y[there], x[there], od[there], positive[there]
    edge = round(32 / mpp)
    row, col = (np.minimum((v // edge).astype(int), n - 1) for v, n in zip((y, x), squares, strict=True))
    return {
        "wrong": (od >= marker.positive_cell_od) != positive,
        "colour": colour[row, col],
        "features": np.nan_to_num(distance[row, col]),
        "picture": np.nan_to_num(np.stack([spoiled[n] for n in SPOILING]), nan=1.0).min(axis=0)[row, col],
        "clear": clearness(od, marker.positive_cell_od),
    }


def summed(pictures: dict[str, list[Record]]) -> dict[str, Any]:
    """AUROC of each formula for each marker, with intervals; pictures: the records of each marker."""
    found: dict[str, Any] = {}
    for marker, records in pictures.items():
        wrong = np.concatenate([r["wrong"] for r in records])
        values = {name: [formula(r) for r in records] for name, formula in FORMULAS.items()}
        rng, draws = np.random.default_rng(0), []
        for _ in range(DRAWS):
            of = rng.integers(0, len(records), len(records))
            some = np.concatenate([records[k]["wrong"] for k in of])
            draws.append([auroc(-np.concatenate([v[k] for k in of]), some) for v in values.values()])
        spread, names = np.array(draws), list(values)

        def interval(drawn: F64) -> list[float]:
            return [round(float(v), 3) for v in np.percentile(drawn, (2.5, 97.5))]

        found[marker] = {"cells": len(wrong), "wrong": round(float(wrong.mean()), 3)} | {
            name: {
                "auroc": round(auroc(-np.concatenate(values[name]), wrong), 3),
                "interval": interval(spread[:, k]),
                "above colour": interval(spread[:, k] - spread[:, names.index("colour")]),
                "above none": interval(spread[:, k] - spread[:, names.index("from none: 1 / (1 + d^2)")]),
                "wrong in the better half": kept_error(-np.concatenate(values[name]), wrong)[10],
            }
            for k, name in enumerate(names)
        }
    means = {name: round(float(np.mean([found[m][name]["auroc"] for m in pictures])), 3) for name in FORMULAS}
    return {"mean auroc of markers": means, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--mpp", type=float, default=0.5, help="of the weights, and of the slides")
    parser.add_argument("--slides", type=int, default=2, help="of each half")
    parser.add_argument("--halves", nargs="+", default=list(SLIDES), choices=list(SLIDES))
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    px, known = round(EDGE_UM / args.mpp), {}
    for name in MARKERS:
        path = str(find_weights(args.weights, name))
        known[name] = asking(known_of(path, ""), path, name)
    colours, begin = colour_bank("ER", px, args.mpp), time.process_time()
    results: dict[str, Any] = {"weights": args.weights, "mpp": args.mpp}
    for half in args.halves:
        shifts, first = SLIDES[half]
        pictures: dict[str, list[Record]] = {name: [] for name in MARKERS}
        for seed in range(first, first + args.slides):
            for shift in shifts.values():
                rgb, y, x, positive = picture_of_all(seed, "ER", px, args.mpp, shift)
                colour = colours.distance(looks_of(rgb, args.mpp)[..., :COLOURS])
                for name, marker in MARKERS.items():
                    seen = (rgb, y, x, positive[name], marker, args.weights, known[name], colour, args.mpp)
                    pictures[name].append(record(*seen))
            print(half, seed, round(time.process_time() - begin), "s of CPU", flush=True)
            results[half] = {"slides": seed - first + 1, **summed(pictures)}  # what there is, after each slide
            report("trust_markers", results, args.output)


if __name__ == "__main__":
    main()
