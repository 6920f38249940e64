"""Which formula tells wrong cells of all four markers? Chosen on one half of slides and shifts, reported on the other.

    python benchmarks/trust_markers.py --output benchmarks/results/trust_markers.json

Slides 9500 and 9501 under CHOOSING choose, slides 9700 and 9701 under REPORTING report; squares of 256 um, the demonstration weights of each
marker, one H&E for all. A cell is wrong as in benchmarks/trust.py: the density that `evaluate` reads (of HER2 the mean of the ring)
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
    picture,
)  # fmt: skip

from wsistain.config import RunConfig
from wsistain.evaluation.pathology import cell_od
from wsistain.generators.known import Known, asking, known_of
from wsistain.markers import MARKERS, Marker
from wsistain.optics.bank import Bank
from wsistain.optics.familiar import looks_of
from wsistain.optics.scoring import stain_od
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.pipeline.run import run
from wsistain.reading.trust import TrustMaker
from wsistain.reading.trusted import SPOILING, clearness
from wsistain.slide.quality import examine
from wsistain.slide.reader import open_slide
from wsistain.weights.find import find_weights

PX, MPP = 512, 0.5


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
SLIDES = {"chosen on": (CHOOSING, (9500, 9501)), "reported on": (REPORTING, (9700, 9701))}

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
    rgb: RGB, y: F64, x: F64, positive: NDArray[np.bool_], marker: Marker, known: Known, colours: Bank
) -> Record:
    """One picture, stained for one marker and asked everywhere how like training it is."""
    with TemporaryDirectory() as name:
        path = Path(name) / "he.tif"
        tifffile.imwrite(
            path, rgb, photometric="rgb", tile=(256, 256), resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
        )
        result = run(path, marker.name, Path(name), config=RunConfig(weights="demo", all_tiles=True))[0].output
        stain = read_stain(result)
        pixels = read_window(open_level(result, 0), 0, 0, *stain.levels[0])
        slide = open_slide(path)
        maker = TrustMaker(slide, stain, known, examine(slide), None, 1)
        spoiled = maker.strip(0)
        distance = known.distances(maker.place.read(slide, (0, 0, PX // 64, PX // 64)), MPP)["features"]
        slide.close()
    od = cell_od(stain_od(pixels, marker.chromogen), y - 0.5, x - 0.5, compartment=marker.compartment, mpp=MPP)
    there = np.isfinite(od)
    y, x, od, positive = y[there], x[there], od[there], positive[there]
    edge = round(32 / MPP)
    row, col = (np.minimum((v // edge).astype(int), PX // edge - 1) for v in (y, x))
    return {
        "wrong": (od >= marker.positive_cell_od) != positive,
        "colour": colours.distance(looks_of(rgb, MPP)[..., :COLOURS])[row, col],
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
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    known = {}
    for name in MARKERS:
        path = str(find_weights("demo", name))
        known[name] = asking(known_of(path, ""), path, name)
    colours, begin, results = colour_bank("ER", PX, MPP), time.process_time(), {}
    for half, (shifts, seeds) in SLIDES.items():
        pictures: dict[str, list[Record]] = {name: [] for name in MARKERS}
        for seed in seeds:
            for shift in shifts.values():
                for name, marker in MARKERS.items():
                    seen = picture(seed, name, PX, MPP, shift)
                    pictures[name].append(record(*seen, marker, known[name], colours))
            print(half, seed, round(time.process_time() - begin), "s of CPU", flush=True)
        results[half] = summed(pictures)
    report("trust_markers", results, args.output)


if __name__ == "__main__":
    main()
