"""How well and how fast cells are read, on phantom slides whose cells are known.

    python benchmarks/read.py cells       # precision and recall at several um per px; speed, memory; any block size
    python benchmarks/read.py classes     # class agreement and score error for each marker, on the aligned truth's stain
    python benchmarks/read.py intervals   # how often the bootstrap's intervals hold the whole slide's score
    python benchmarks/read.py speed       # reading a slide against staining it with the demonstration weights
    python benchmarks/read.py overlays --pictures a.png:0.25 b.png:0.5 --folder DIR   # contours, to look at

The detector was trained on slides 5000 to 5047; here are slides from 7100 on. A nucleus is found when a found centre lies
within 4 um, one to one. "Any slice" counts nuclei of which less than 2 um lie in the section, which no cell table has.
"""

import argparse
import itertools
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tifffile
from common import report
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from wsistain.config import RunConfig
from wsistain.markers import MARKERS, Marker
from wsistain.output.reading import read_stain
from wsistain.phantom.biology import MODERATE_LEVEL, POSITIVE_LEVEL, STRONG_LEVEL
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.products import make_slide
from wsistain.phantom.render import Phantom
from wsistain.phantom.tables import cell_table
from wsistain.pipeline.job import peak_rss_mb
from wsistain.pipeline.run import run
from wsistain.reading.blocks import read_blocks
from wsistain.reading.grid import make_grid
from wsistain.reading.nuclei import NucleusMaps
from wsistain.reading.read import read
from wsistain.reading.regions import Regions
from wsistain.reading.scores import SHARES, Estimate, score_cells
from wsistain.reading.sources import Found
from wsistain.reading.stain import StainReader
from wsistain.slide.base import Slide
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import TissueMask, find_tissue

NEAR_UM = 4.0


def matched(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """For each place of `a` (n, 2) the one of `b` that is its own, -1 where none: nearest pairs first, one to one."""
    pairs = cKDTree(a).sparse_distance_matrix(cKDTree(b), NEAR_UM, output_type="coo_matrix")
    mine, taken = np.full(len(a), -1), np.zeros(len(b), bool)
    for k in np.argsort(pairs.data, kind="stable"):
        i, j = pairs.row[k], pairs.col[k]
        if mine[i] < 0 and not taken[j]:
            mine[i], taken[j] = j, True
    return mine


class NoStain:
    """Reads nothing."""

    def read(self, nuclei: Any, labels: Any, box: Any, every: Any = None) -> None:
        """None."""


def find(slide: Slide, readers: Any = None, *, block: int = 1024, everywhere: bool = False) -> list[Any]:
    """The rows of every block."""
    grid = make_grid(slide.info, block=block)
    tissue = TissueMask.everywhere(slide.info) if everywhere else find_tissue(slide).dilated(16 / slide.info.mpp)
    source = Found(NucleusMaps(slide, grid, tissue), grid)
    readers = [StainReader(s, m, grid) for s, m in readers] if readers else [NoStain()]
    return list(read_blocks(slide, grid, tissue, source, readers, Regions(), list(grid.blocks(tissue))))


def written(pixels: NDArray[np.uint8], mpp: float, folder: Path) -> Path:
    path = folder / f"{mpp}.tif"
    resolution = (1e4 / mpp, 1e4 / mpp)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(256, 256), resolution=resolution, resolutionunit="CENTIMETER"
    )
    return path


def cells(args: argparse.Namespace) -> dict[str, Any]:
    """Precision, recall, speed and equality of the detector."""
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for mpp in (0.25, 0.5, 1.0, 1.6):
            sums = np.zeros(5)
            for seed in range(7100, 7100 + args.slides):
                size = round(450 / mpp)
                phantom = Phantom(PhantomConfig(height=size, width=size, mpp=mpp, seed=seed, whole=True))
                slide = open_slide(written(phantom.render("he_a", 0, 0, size, size), mpp, folder))
                begin = time.process_time()
                found = [r[0].nuclei for r in find(slide)]
                seconds = time.process_time() - begin
                slide.close()
                places = np.concatenate([np.stack([n.y, n.x], 1) for n in found])
                known, y, x = phantom.cells_um("a", 0, 0, size * mpp, size * mpp)
                on, path = phantom.on_glass("a", known), phantom.path_um("a", known)
                truth = np.stack([y, x], 1)
                counted, some = truth[on & (path >= 2)], truth[on & (path > 0.3)]
                hits = int((matched(counted, places) >= 0).sum())
                slices = int((matched(some, places) >= 0).sum())
                sums += [len(places), hits, len(counted), slices, seconds]
            n, hits, n_true, slices, seconds = sums
            rows.append(
                {
                    "mpp": mpp,
                    "found": int(n),
                    "truth": int(n_true),
                    "recall": round(hits / n_true, 3),
                    "precision": round(hits / n, 3),
                    "precision_any_slice": round(slices / n, 3),
                    "cells_per_cpu_second": round(n / seconds),
                    "mm2_per_cpu_minute": round(60 * args.slides * 0.45**2 / seconds, 2),
                }
            )
            print(rows[-1], flush=True)
        slide = open_slide(folder / "0.5.tif")
        sets = []
        for block in (64, 101, 450):
            nuclei = [r[0].nuclei for r in find(slide, block=block)]
            table = np.concatenate([np.column_stack([n.y, n.x, n.area_um2, n.haematoxylin]) for n in nuclei])
            sets.append(table[np.lexsort(table.T)])
        slide.close()
    same = all(np.array_equal(sets[0], other) for other in sets[1:])
    return {"cells": rows, "equal_for_blocks_of_64_101_450_px": same, "peak_rss_mb": round(peak_rss_mb())}


RINGS = (1.1, 1.5, 2.5)
"""Ring scores of the phantom from which a membrane is 1+, 2+ and 3+. Below 1.1 it is painted with a density of less than 0.02, which
nobody sees under the counterstain: cells of 0.5 to 0.9 are read as those without any are (0.021 and 0.021 in the ring).
"""


def true_grades(levels: NDArray[Any], marker: Marker, rings: tuple[float, ...] = RINGS) -> NDArray[np.int8]:
    """Grade of each cell in the phantom's own terms: levels of nuclear markers, ring scores of membranous ones."""
    cuts = rings if marker.compartment == "membranous" else (POSITIVE_LEVEL, MODERATE_LEVEL, STRONG_LEVEL)
    return np.searchsorted(np.array(cuts), levels, side="right").astype(np.int8)


def classes(args: argparse.Namespace) -> dict[str, Any]:
    """How cells are classed on the stain of the aligned truth, and how far scores are from the cell table's."""
    rows = []
    for marker in (MARKERS[name] for name in args.markers):
        each = []
        for seed in range(args.seed, args.seed + args.slides):
            with TemporaryDirectory() as name:
                folder = Path(name)
                config = PhantomConfig(
                    height=args.size, width=args.size, mpp=0.5, seed=seed, marker=marker.name, her2_score=seed % 4
                )
                make_slide(folder, config)
                stain = read_stain(
                    run(
                        folder / "ihc_a.tiff", marker.name, folder, config=RunConfig(weights="identity", all_tiles=True)
                    )[0].output
                )
                slide = open_slide(folder / "he_a.tiff")
                parts = [r[0] for r in find(slide, [(stain, marker)])]
                slide.close()
                table = pq.read_table(folder / "cells_a.parquet")
            each.append(compare(parts, table, marker))
        means = {k: [e[k] for e in each] for k in each[0]}
        rows.append({"marker": marker.name, "slides": len(each), **{k: _mean(v) for k, v in means.items()}})
        print(rows[-1], flush=True)
    return {"classes": rows}


def _mean(values: list[float]) -> float | None:
    """Mean of what is known, None of nothing: a slide without positive cells has no sensitivity."""
    known = [v for v in values if np.isfinite(v)]
    return round(float(np.mean(known)), 3) if known else None


def compare(parts: list[Any], table: Any, marker: Marker) -> dict[str, float]:
    """Agreement of one slide's cells, and differences of its scores."""
    y, x = (np.concatenate([getattr(p.nuclei, name) for p in parts]) for name in ("y", "x"))
    grade = np.concatenate([p.readings.grade for p in parts])
    ty, tx = table["y_um"].to_numpy(), table["x_um"].to_numpy()
    truth = true_grades(table[f"level_{marker.name}"].to_numpy(), marker)
    is_positive = table[f"positive_{marker.name}"].to_numpy()
    of = matched(np.stack([y, x], 1), np.stack([ty, tx], 1))
    both = (of >= 0) & (grade >= 0)
    called, real = grade[both] >= marker.cell_positive, is_positive[of[both]]
    read_scores = score_cells(y, x, grade, marker).numbers
    true_scores = score_cells(ty, tx, truth, marker).numbers
    known = score_cells(ty, tx, np.where(is_positive, 3, 0).astype(np.int8), marker).numbers["percent_positive"]
    found: dict[str, float] = {
        "cells": len(y),
        "share_matched": float(both.mean()),
        "positive_agree": float((called == real).mean()),
        "sensitivity": float(called[real].mean()) if real.any() else np.nan,
        "specificity": float((~called[~real]).mean()) if (~real).any() else np.nan,
        "class_agree": float((grade[both] == truth[of[both]]).mean()),
        "percent_true": float(known.value or 0),
        "percent_error": float((read_scores["percent_positive"].value or 0) - (known.value or 0)),
    }
    for name in read_scores:
        if name not in ("percent_positive", "ki67_index"):
            found[f"{name}_error"] = float((read_scores[name].value or 0) - (true_scores[name].value or 0))
    estimate = read_scores["percent_positive"]
    if estimate.low is not None:
        found["interval_holds_truth"] = float(estimate.low <= (known.value or 0) <= (estimate.high or 0))
    return found


TILES_UM = (250.0, 500.0)
FIELD_UM = 1500
RARE = 0.1
"""A score is rare below this share of the most that it can be."""


def intervals(args: argparse.Namespace) -> dict[str, Any]:
    """How often the interval of a field of 1.5 mm holds the score of its whole slide, for tiles of several sizes.

    From the phantom's own cells, invasive tumour alone, so that nothing but the choice of the field is at fault.
    """
    tried: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    fields = 0
    for seed in range(args.seed, args.seed + args.slides):
        edge = round(args.edge_mm * 1000 / 0.5)
        phantom = Phantom(PhantomConfig(height=edge, width=edge, mpp=0.5, seed=seed))
        table = cell_table(phantom, "a", 0, 0, edge, edge)
        table = table.filter(np.char.startswith(np.array(table["type"].to_pylist(), dtype=str), "tumour"))
        y, x = table["y_um"].to_numpy(), table["x_um"].to_numpy()
        last = args.edge_mm * 1000 - FIELD_UM + 1
        for top, left in itertools.product(np.arange(0, last, FIELD_UM), repeat=2):
            here = (y >= top) & (y < top + FIELD_UM) & (x >= left) & (x < left + FIELD_UM)
            if here.sum() < 500:
                continue
            fields += 1
            for marker in MARKERS.values():
                truth = true_grades(table[f"level_{marker.name}"].to_numpy(), marker)
                total = score_cells(y, x, truth, marker).numbers
                for tile in TILES_UM:
                    found = score_cells(y[here], x[here], truth[here], marker, tile_um=tile).numbers
                    for name in found:
                        told = interval_held(found[name], total[name].value, SHARES.get(name))
                        tried.setdefault((marker.name, name, tile), []).extend(told)
    rows = []
    for (marker_name, score, tile), told in tried.items():
        rare = [one for one in told if one["rare"]]
        rows.append(
            {
                "marker": marker_name,
                "score": score,
                "tile_um": tile,
                **shares_held(told),
                "where rare": shares_held(rare),
            }
        )
    return {"slides": args.slides, "edge_mm": args.edge_mm, "fields": fields, "intervals": rows}


def interval_held(one: Estimate, known: float | None, most: float | None) -> list[dict[str, Any]]:
    """Whether an interval holds what is known, or on which side that lies; nothing where there is no interval."""
    if one.low is None or one.high is None or known is None:
        return []
    side = {"holds": one.low <= known <= one.high, "truth_below": known < one.low, "truth_above": known > one.high}
    return [{**side, "width": one.high - one.low, "rare": most is not None and known < RARE * most}]


def shares_held(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Over fields, how many hold the truth, on which side it lies of the others, and the mean width."""
    counts = {name: sum(one[name] for one in told) for name in ("holds", "truth_below", "truth_above")}
    width = round(float(np.mean([one["width"] for one in told])), 2) if told else None
    return {"fields": len(told), **{name: int(n) for name, n in counts.items()}, "width": width}


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of staining one slide with the demonstration weights, and of reading it, with and without trust."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        phantom = Phantom(PhantomConfig(height=args.size, width=args.size, mpp=0.5, seed=7400, whole=True))
        he = written(phantom.render("he_a", 0, 0, args.size, args.size), 0.5, folder)
        begin = time.process_time()
        stain = run(he, "ER", folder, config=RunConfig(all_tiles=True))[0].output
        staining = time.process_time() - begin
        seconds = {}
        for trust in (False, True):
            begin = time.process_time()
            cells = read([stain], trust=trust, overwrite=True)[0].n_cells
            seconds[trust] = time.process_time() - begin
    pixels = args.size**2
    return {
        "pixels": pixels,
        "cells": cells,
        "staining_cpu_s": round(staining, 2),
        "reading_cpu_s": round(seconds[False], 2),
        "reading_with_trust_cpu_s": round(seconds[True], 2),
        "reading_per_staining": round(seconds[True] / staining, 3),
        "cells_per_cpu_second": round(cells / seconds[False]),
        "gigapixel_of_1e6_cells_cpu_min": {
            "staining": round(staining / pixels * 1e9 / 60, 1),
            "reading_by_cells": round(seconds[False] / cells * 1e6 / 60, 1),
            "reading_by_area": round(seconds[False] / pixels * 1e9 / 60, 1),
        },
        "peak_rss_mb": round(peak_rss_mb()),
    }


def overlays(args: argparse.Namespace) -> dict[str, Any]:
    """Contours of what is found on pictures named as FILE:UM_PER_PX, as PNGs in `--folder`; how many there were."""
    args.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for one in args.pictures:
        name, _, mpp = one.rpartition(":")
        rgb = np.asarray(Image.open(name).convert("RGB"))[:640, :640]
        with TemporaryDirectory() as folder:
            slide = open_slide(written(rgb, float(mpp), Path(folder)))
            contours = [c / float(mpp) for rows in find(slide, everywhere=True) for c in rows[0].nuclei.contour]
            slide.close()
        times = max(1, 1280 // max(rgb.shape[:2]))
        picture = Image.fromarray(rgb).resize((rgb.shape[1] * times, rgb.shape[0] * times), Image.Resampling.LANCZOS)
        draw = ImageDraw.Draw(picture)
        for c in contours:
            draw.polygon([(float(x) * times, float(y) * times) for y, x in c], outline=(0, 255, 0), width=2)
        picture.save(args.folder / f"{Path(name).stem}_{mpp}.png")
        found[one] = len(contours)
    return {"found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {
        "cells": cells,
        "classes": classes,
        "intervals": intervals,
        "speed": speed,
        "overlays": overlays,
    }
    parser.add_argument("what", choices=tuple(modes))
    parser.add_argument("--markers", nargs="+", default=list(MARKERS), choices=list(MARKERS))
    parser.add_argument("--seed", type=int, default=7200, help="of the first slide of `classes` and `intervals`")
    parser.add_argument("--edge-mm", type=float, default=3.0, help="of the slides of `intervals`")
    parser.add_argument("--pictures", nargs="+", default=[], metavar="FILE:UM_PER_PX")
    parser.add_argument("--folder", type=Path, default=Path("runs/overlays"))
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    report(f"read_{args.what}", modes[args.what](args), args.output)


if __name__ == "__main__":
    main()
