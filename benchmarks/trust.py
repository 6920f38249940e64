"""Does low trust go with wrong cells? On phantom slides whose cells are known, at shifts that no training saw.

    python benchmarks/trust.py --output benchmarks/results/trust.json --picture docs/images/trust.svg
    python benchmarks/trust.py --marker HER2 --no-steady --output benchmarks/results/trust_her2.json
    python benchmarks/trust.py --weights runs/lpstain/weights.safetensors --mpp 1.0

A cell of the phantom is wrong when the stain calls it positive and it is negative, or the reverse. Each slide is stained and
judged by the trust map as `wsistain read` makes it, as it is and under each of the shifts of SHIFTS. AUROC: the chance that a
wrong cell is trusted less than a right one. Curves: share of wrong cells among those kept, when the least trusted are
dropped. "colour" is the distance of a square's colours (mean and spread of red, green and blue density) from training alone,
"looks" what the trust map was before it knew features and densities, "cell, features left out" what a cell's trust is without
them. "slide" is what nobody can know: each picture's own share
of wrong cells. Intervals: bootstrap over slides, 95 %. How parts are combined was chosen on slides 9500 to 9505 under other
shifts (CHOSEN_ON), on the demonstration weights for ER.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from common import report
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from wsistain.config import RunConfig
from wsistain.evaluation.pathology import cell_od
from wsistain.generators.known import Known, asking, known_of
from wsistain.markers import Marker, find_marker
from wsistain.optics.bank import Bank, make_bank
from wsistain.optics.familiar import looks_of
from wsistain.optics.scoring import stain_od
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import COUNTED_UM, Phantom
from wsistain.pipeline.run import run
from wsistain.reading.steady import Steady
from wsistain.reading.trust import make_trust
from wsistain.reading.trusted import SPOILING, TrustMap, as_share, clearness
from wsistain.slide.reader import open_slide
from wsistain.weights.find import find_weights

RGB = NDArray[np.uint8]
F64 = NDArray[np.float64]
CHOSEN_ON = "red, pale, hard contrast, blur of 1.6 um, JPEG at 12, larger cells, sections of 10 um"
COLOURS = 6
GRID = np.arange(0, 100, 5)
DRAWS = 200


def _optics(phantom: Phantom, **more: Any) -> None:
    phantom.optics["he"] = replace(phantom.optics["he"], **more)


def _unit(*vector: float) -> tuple[float, float, float]:
    red, green, blue = np.array(vector) / np.linalg.norm(vector)
    return float(red), float(green), float(blue)


def _gains(h: float, e: float) -> Callable[[Phantom], None]:
    def change(phantom: Phantom) -> None:
        optics = phantom.optics["he"]
        _optics(phantom, h_gain=optics.h_gain * h, e_gain=optics.e_gain * e)

    return change


def _inflamed(phantom: Phantom) -> None:
    phantom.anatomy.habit = replace(phantom.anatomy.habit, immune=2.5, tumour=-0.3)


def _blurred(um: float) -> Callable[[RGB, float], RGB]:
    return lambda rgb, mpp: np.rint(gaussian_filter(rgb.astype(float), (um / mpp, um / mpp, 0))).astype(np.uint8)


def _flat(rgb: RGB, mpp: float) -> RGB:
    return np.rint(190 + (rgb.astype(float) - 190) * 0.5).astype(np.uint8)


def _noisy(rgb: RGB, mpp: float) -> RGB:
    noise = np.random.default_rng(1).normal(0, 14, rgb.shape)
    return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)


SHIFTS: dict[str, dict[str, Any]] = {
    "none": {},
    "saffron for eosin": {
        "change": lambda p: _optics(p, haematoxylin=_unit(0.6, 0.7, 0.37), eosin=_unit(0.1, 0.65, 0.75))
    },
    "violet": {"change": lambda p: _optics(p, haematoxylin=_unit(0.5, 0.8, 0.33), eosin=_unit(0.35, 0.8, 0.48))},
    "much blue": {"change": _gains(1.9, 0.45)},
    "dark": {"change": _gains(1.8, 1.8)},
    "half the contrast": {"after": _flat},
    "blur of 1.1 um": {"after": _blurred(1.1)},
    "noise": {"after": _noisy},
    "smaller cells": {"scale": 1.5},
    "lymphocytes": {"change": _inflamed},
}
"""What is changed: the phantom before it is painted, the picture after, or the um per px that it is painted at."""


def picture(
    seed: int, marker: str, px: int, mpp: float, shift: dict[str, Any]
) -> tuple[RGB, F64, F64, NDArray[np.bool_]]:
    """H&E, places (y, x) of its cells in px, and which are positive."""
    rgb, y, x, positive = picture_of_all(seed, marker, px, mpp, shift)
    return rgb, y, x, positive[marker]


def picture_of_all(
    seed: int, marker: str, px: int, mpp: float, shift: dict[str, Any]
) -> tuple[RGB, F64, F64, dict[str, NDArray[np.bool_]]]:
    """The same, with which are positive of each marker of the panel and of `marker`."""
    at = mpp * shift.get("scale", 1.0)
    phantom = Phantom(PhantomConfig(height=px, width=px, mpp=at, seed=seed, marker=marker, whole=True))
    if "change" in shift:
        shift["change"](phantom)
    rgb = phantom.render("he_a", 0, 0, px, px)
    if "after" in shift:
        rgb = shift["after"](rgb, mpp)
    cells, y, x = phantom.cells_um("a", 0, 0, px * at, px * at)
    counted = phantom.on_glass("a", cells) & (phantom.path_um("a", cells) >= COUNTED_UM)
    positive = {m.name: cells.positive[counted, k] for k, m in enumerate(phantom.block.markers)}
    return rgb, y[counted] / at, x[counted] / at, positive


def colour_bank(marker: str, px: int, mpp: float) -> Bank:
    """Colours of phantom pictures as those trained on."""
    looks = []
    for seed in range(31_000, 31_032):
        rgb = Phantom(PhantomConfig(height=px, width=px, mpp=mpp, seed=seed, marker=marker, whole=True)).render(
            "he_a", 0, 0, px, px
        )
        rows = looks_of(rgb, mpp).reshape(px // round(32 / mpp) * (px // round(32 / mpp)), -1)[:, :COLOURS]
        looks.append(rows[np.isfinite(rows).all(axis=1)])
    return make_bank(np.concatenate(looks[::2]), np.concatenate(looks[1::2]), directions=COLOURS, most=256)


def judged(
    folder: Path, rgb: RGB, y: F64, x: F64, positive: NDArray[np.bool_], mpp: float, marker: Marker, weights: str,
    known: Known, steady: Steady | None, colours: Bank,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Of each cell whether it is wrong, and how much doubt every method has of it (larger: less trusted)."""
    path = folder / "he.tif"
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(256, 256), **resolution)
    # Saffron in place of eosin looks like DAB and would be refused.
    config = RunConfig(weights=weights, all_tiles=True, any_stain=True)
    result = run(path, marker.name, folder, config=config, overwrite=True)[0].output
    stain = read_stain(result)
    pixels = read_window(open_level(result, 0), 0, 0, *stain.levels[0])
    slide = open_slide(path)
    made = make_trust(slide, stain, known, steady=steady)
    slide.close()
    density = stain_od(pixels, marker.chromogen)
    od = cell_od(density, y - 0.5, x - 0.5, compartment=marker.compartment, mpp=mpp)
    there = np.isfinite(od)
    y, x, od, positive = y[there], x[there], od[there], positive[there]
    edge = round(32 / mpp)
    colour = colours.distance(looks_of(rgb, mpp)[..., :COLOURS])
    row, col = (np.minimum((v // edge).astype(int), n - 1) for v, n in zip((y, x), colour.shape, strict=True))
    wrong = (od >= marker.positive_cell_od) != positive
    cut = marker.positive_cell_od
    return {
        "wrong": wrong,
        "random": np.random.default_rng(len(y)).random(len(y)),
        "colour": colour[row, col],
        **{name: 1 - values for name, values in of_parts(made, y * mpp, x * mpp, od, cut).items()},
        "slide": np.full(len(y), wrong.mean()),
    }


def of_parts(made: TrustMap, y: F64, x: F64, od: F64, cut: float) -> dict[str, NDArray[np.float32]]:
    """Trust at cells by the parts of a map alone and together."""
    parts = {name: as_share(values) for name, values in made.parts.items()}
    picture = np.nan_to_num(np.stack([parts[name] for name in SPOILING]), nan=1.0).min(axis=0)
    before = np.minimum(picture, parts["looks"])

    def alone(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return made.pick(np.nan_to_num(values, nan=1.0).astype(np.float32), y, x)

    names = [name for name in ("features", "clear", "steady") if name in parts]
    cell, clear = made.of_cells(y, x, od, cut), clearness(od, cut)
    return {
        "looks": alone(before),
        **{name: alone(parts[name]) for name in names},
        "place": made.at(y, x),
        "cell": cell,
        "cell, features left out": alone(picture) * clear,
        **({"cell, steady counted": cell * alone(parts["steady"])} if "steady" in parts else {}),
    }


def auroc(doubt: F64, wrong: NDArray[np.bool_]) -> float:
    """Chance that a wrong cell is doubted more than a right one; what is not known is doubted most."""
    n = int(wrong.sum())
    if n in (0, len(wrong)):
        return float("nan")
    ranks = rankdata(np.nan_to_num(doubt, nan=np.inf, posinf=1e9))
    return float((ranks[wrong].sum() - n * (n + 1) / 2) / (n * (len(wrong) - n)))


def kept_error(doubt: F64, wrong: NDArray[np.bool_]) -> list[float]:
    """Share of wrong cells among those that are kept, at each share dropped of GRID."""
    mixed = np.random.default_rng(0).permutation(len(wrong))
    order = mixed[np.argsort(np.nan_to_num(doubt, nan=np.inf)[mixed], kind="stable")]
    sums = np.cumsum(wrong[order])
    return [round(float(sums[n - 1] / n), 4) for n in (len(wrong) * (100 - GRID) // 100)]


def summed(found: dict[int, dict[str, dict[str, NDArray[Any]]]]) -> dict[str, Any]:
    """AUROC with intervals, of all shifts together and beside none, and the curves. found: by slide and shift."""
    seeds, shifts = list(found), list(next(iter(found.values())))
    methods = [name for name in found[seeds[0]]["none"] if name != "wrong"]

    def joined(name: str, of: Any, which: Any) -> NDArray[Any]:
        return np.concatenate([found[seed][shift][name] for seed in of for shift in which])

    rng, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        of = rng.choice(seeds, len(seeds))
        wrong = joined("wrong", of, shifts)
        draws.append([auroc(joined(name, of, shifts), wrong) for name in methods])
    spread = np.array(draws)
    at = {name: k for k, name in enumerate(methods)}

    def interval(values: F64) -> list[float]:
        return [round(float(v), 3) for v in np.percentile(values, (2.5, 97.5))]

    wrong = joined("wrong", seeds, shifts)
    return {
        "cells": len(wrong),
        "wrong": {shift: round(float(joined("wrong", seeds, [shift]).mean()), 3) for shift in shifts},
        "auroc": {
            name: {
                "all shifts": round(auroc(joined(name, seeds, shifts), wrong), 3),
                "interval": interval(spread[:, at[name]]),
                "above colour": interval(spread[:, at[name]] - spread[:, at["colour"]]),
                "above random": interval(spread[:, at[name]] - 0.5),
                **{
                    shift: round(
                        auroc(joined(name, seeds, {"none", shift}), joined("wrong", seeds, {"none", shift})), 3
                    )
                    for shift in shifts
                },
            }
            for name in methods
        },
        "dropped": [int(v) for v in GRID],
        "wrong among kept": {name: kept_error(joined(name, seeds, shifts), wrong) for name in methods},
    }


COLOURS_OF = {
    "random": "#999999", "colour": "#cc6677", "looks": "#ddaa33", "place": "#44aa99", "cell": "#332288", "slide": "#000000"
}  # fmt: skip


def drawn(results: dict[str, Any], title: str) -> str:
    """The abstention curves as SVG."""
    curves = {name: results["wrong among kept"][name] for name in COLOURS_OF if name in results["wrong among kept"]}
    top = max(max(c) for c in curves.values()) * 1.1
    left, upper, width, height = 56, 30, 420, 260

    def at(dropped: float, error: float) -> str:
        return f"{left + width * dropped / 100:.1f},{upper + height * (1 - error / top):.1f}"

    text = '<text x="{}" y="{}" text-anchor="{}">{}</text>'
    lines = [text.format(left, 18, "start", title)]
    for tick in np.arange(0, top, 0.1 if top > 0.25 else 0.05):
        x, y = at(0, tick).split(",")
        lines.append(f'<line x1="{x}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        lines.append(text.format(left - 6, float(y) + 4, "end", f"{tick:.0%}"))
    for tick in range(0, 101, 20):
        lines.append(text.format(at(tick, 0).split(",")[0], upper + height + 18, "middle", f"{tick} %"))
    lines.append(text.format(left + width / 2, upper + height + 36, "middle", "cells dropped, least trusted first"))
    ends = sorted((curve[-1], name) for name, curve in curves.items())
    place = np.array([upper + height * (1 - end / top) for end, _ in ends])
    for k in range(1, len(place)):  # labels apart
        place[k] = min(place[k], place[k - 1] - 14)
    for (_, name), y in zip(ends, place, strict=True):
        points = " ".join(at(d, e) for d, e in zip(results["dropped"], curves[name], strict=True))
        dash = ' stroke-dasharray="4 3"' if name == "slide" else ""
        lines.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS_OF[name]}" stroke-width="2"{dash}/>')
        lines.append(f'<text x="{left + width + 6}" y="{y + 4:.1f}" fill="{COLOURS_OF[name]}">{name}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {upper + height + 46}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        + "".join(lines)
        + "</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--marker", default="ER")
    parser.add_argument("--mpp", type=float, default=0.5, help="of the weights")
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--px", type=int, default=512, help="edge of a slide")
    parser.add_argument(
        "--shifts", nargs="+", default=list(SHIFTS), choices=list(SHIFTS), help="`none` is always among them"
    )
    parser.add_argument("--no-steady", action="store_true", help="do not ask four times more how steady answers are")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--picture", type=Path, help="SVG file for the curves")
    args = parser.parse_args()
    marker, path = find_marker(args.marker), str(find_weights(args.weights, args.marker))
    known = asking(known_of(path, ""), path, marker.name)
    steady = None if args.no_steady else Steady(path, marker)
    colours = colour_bank(marker.name, args.px, args.mpp)
    found: dict[int, dict[str, dict[str, NDArray[Any]]]] = {}
    begin = time.process_time()
    for seed in range(9700, 9700 + args.slides):
        found[seed] = {}
        for name in dict.fromkeys(["none", *args.shifts]):
            shift = SHIFTS[name]
            seen = picture(seed, marker.name, args.px, args.mpp, shift)
            with TemporaryDirectory() as folder:
                found[seed][name] = judged(
                    Path(folder), *seen, args.mpp, marker, args.weights, known, steady, colours
                )  # fmt: skip
        print(seed, round(time.process_time() - begin), "s of CPU", flush=True)
        if len(found) > 1:  # what there is, after each slide
            results = {
                "weights": Path(path).name, "marker": marker.name, "slides": len(found), "chosen_on": CHOSEN_ON,
                **summed(found),
            }  # fmt: skip
            report("trust", results, args.output)
            if args.picture:
                args.picture.write_text(
                    drawn(results, f"Wrong cells among those kept, {marker.name}, all shifts together")
                )


if __name__ == "__main__":
    main()
