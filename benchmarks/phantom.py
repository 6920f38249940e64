"""Speed, memory, pairing and realism of the phantom.

python benchmarks/phantom.py speed                      MP/s of CPU time, one core, 0.5 um per px
python benchmarks/phantom.py memory --height 8192       peak memory of two heights and two widths
python benchmarks/phantom.py pairing --patches 12       gray Pearson correlation of H&E with weak pair and truth
python benchmarks/phantom.py looks --real FILE[:MPP] SLIDE ...  numbers of real and phantom pictures as a Markdown table
python benchmarks/phantom.py visibility --visibility 0.85  best attainable AUC, and what single nuclei show of it
python benchmarks/phantom.py sheet --out sheet.png      a page of all four markers to look at
python benchmarks/phantom.py versions --out docs/images/phantom_versions.jpg  the same places in v0 and v1

--output FILE.json adds the result, with its date, to what the file holds already.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common
import numpy as np
from skimage.io import imread, imsave
from skimage.transform import rescale

from wsistain.config import PhantomVersion
from wsistain.markers import panel
from wsistain.phantom.biology import rank_auc
from wsistain.phantom.compare import fine_power, histogram_overlap, look_at, table_of
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.kinds import TUMOUR
from wsistain.phantom.products import choose_places, make_slide
from wsistain.phantom.render import COUNTED_UM, PRODUCTS, Phantom
from wsistain.runtime.jpeg import encode_jpeg
from wsistain.slide.reader import open_slide

NAMES = [m.name for m in panel()]


def speed(size: int, version: PhantomVersion) -> dict[str, Any]:
    """Megapixels per second of CPU time: the H&E alone, the truth that shares its tissue, and a whole slide folder."""
    result: dict[str, Any] = {"version": version}
    phantom = Phantom(PhantomConfig(height=4 * size, width=4 * size, seed=21, whole=True, version=version))
    phantom.render("he_a", 0, 0, 32, 32)
    seconds = {"he_a": 0.0, "ihc_a": 0.0, "ihc_b": 0.0}
    for y in range(size, 2 * size, 1024):
        for x in range(size, 2 * size, 1024):
            for product in ("he_a", "ihc_a", "ihc_b"):
                start = time.process_time()
                phantom.render(product, y, x, 1024, 1024)
                seconds[product] += time.process_time() - start
    mp = size * size / 1e6
    result["mp_per_cpu_second"] = {k: round(mp / s, 2) for k, s in seconds.items()}
    result["mp_per_cpu_second_all_three"] = round(3 * mp / sum(seconds.values()), 2)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        make_slide(Path(folder), PhantomConfig(height=size, width=size, seed=21, version=version))
        result["slide_folder_cpu_s"] = round(time.process_time() - start, 1)
        result["slide_folder_mp_per_cpu_second"] = round(3 * mp / (time.process_time() - start), 2)
    return result


def _peak(height: int, width: int) -> float:
    """Peak memory, MB, of a process that makes the two pictures of section A of a slide."""
    code = (
        "import resource,tempfile;from pathlib import Path;from wsistain.phantom.config import PhantomConfig;"
        "from wsistain.phantom.products import _write_pictures;"
        f"c=PhantomConfig(height={height},width={width},seed=3,whole=True);"
        "t=tempfile.TemporaryDirectory();"
        "_write_pictures(Path(t.name),c,('he_a','ihc_a'),map,lambda *a:None);t.cleanup();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(float(out.stdout), 0)


def memory(height: int, width: int) -> dict[str, Any]:
    """Peak memory, MB: growing height must not matter; width costs its strips, extrapolated to 50,000 px."""
    tall, wide = _peak(2 * height, width), _peak(height, 2 * width)
    first = _peak(height, width)
    by_width = (wide - first) / width
    return {
        "interpreter_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_mb": {f"{height}x{width}": first, f"{2 * height}x{width}": tall, f"{height}x{2 * width}": wide},
        "growth_percent_twice_the_height": round(100 * (tall / first - 1), 1),
        "mb_per_1000_px_of_width": round(1000 * by_width, 1),
        "extrapolated_mb_50000_wide": round(wide + by_width * (50_000 - 2 * width)),
    }


def _gray(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def pairing(patches: int, pairing: str) -> dict[str, Any]:
    """Percent gray correlation over 1024 px patches at 0.4661 um per px, one from each slide, markers in turn."""
    weak, truth = [], []
    for k in range(patches):
        marker = NAMES[k % len(NAMES)]
        config = PhantomConfig(height=5120, width=5120, mpp=0.4661, seed=700 + k, marker=marker, pairing=pairing)
        phantom = Phantom(config)
        y, x = choose_places(config, 1024, 1)[0]
        he, ihc_b, ihc_a = (_gray(phantom.render(p, y, x, 1024, 1024)).ravel() for p in ("he_a", "ihc_b", "ihc_a"))
        weak.append(100 * np.corrcoef(he, ihc_b)[0, 1])
        truth.append(100 * np.corrcoef(he, ihc_a)[0, 1])
        print(f"{marker} weak {weak[-1]:.1f} truth {truth[-1]:.1f}", file=sys.stderr, flush=True)
    by_marker = {m: round(float(np.mean(weak[k :: len(NAMES)])), 1) for k, m in enumerate(NAMES)}
    return {
        "weak_percent": round(float(np.mean(weak)), 1),
        "weak_standard_error": round(float(np.std(weak) / np.sqrt(len(weak))), 1),
        "weak_by_marker": by_marker,
        "truth_percent": round(float(np.mean(truth)), 1),
        "usigan_table_1": "8.5 to 11.8",
    }


def _windows(path: Path, count: int, size: int = 512) -> list[tuple[str, np.ndarray, float]]:
    """(name, pixels, um per px) of up to `count` windows of a slide that are full of tissue, spread over it."""
    slide = open_slide(path)
    height, width = slide.info.size_l0
    found = []
    for y in range(0, height - size + 1, size):
        for x in range(0, width - size + 1, size):
            rgb = slide.read_level(0, y, x, size, size)
            if (rgb.mean(axis=2) < 215).mean() > 0.7:
                found.append((f"{path.name} {y},{x}", rgb, slide.info.mpp))
    slide.close()
    return [found[k] for k in np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))] if found else []


def _real(items: list[str]) -> dict[str, tuple[np.ndarray, float | None]]:
    """Pictures given as FILE, FILE:MPP or a slide, brought to 0.5 um per px where they are finer."""
    found: dict[str, tuple[np.ndarray, float | None]] = {}
    for item in items:
        name, _, mpp = item.rpartition(":")
        path = Path(name or item)
        if path.suffix.lower() in (".svs", ".tif", ".tiff"):
            found.update({key: (rgb, um) for key, rgb, um in _windows(path, 4)})
            continue
        rgb = imread(path)[..., :3]
        scale = float(mpp) if name else None
        if scale is not None and scale < 0.45:
            small = rescale(rgb, scale / 0.5, channel_axis=-1, anti_aliasing=True, preserve_range=True)
            rgb, scale = np.clip(small + 0.5, 0, 255).astype(np.uint8), 0.5
        found[path.name] = (rgb, scale)
    return found


def _phantoms(stain: str, count: int, version: PhantomVersion = "v0") -> list[np.ndarray]:
    """512 px of tissue with tumour at 0.5 um per px, one from each slide; IHC: markers in turn."""
    made = []
    for k in range(count):
        config = PhantomConfig(
            height=6144, width=6144, seed=40 + k, whole=True, marker=NAMES[k % len(NAMES)], version=version
        )
        y, x = choose_places(config, 512, 1)[0]
        made.append(Phantom(config).render("he_a" if stain == "he" else "ihc_a", y, x, 512, 512))
    return made


def _rest(pictures: list[np.ndarray]) -> list[float]:
    """Overlap of the histograms of each picture with those of the others, mean of the channels."""
    return [
        float(np.mean(histogram_overlap([one], pictures[:k] + pictures[k + 1 :]))) for k, one in enumerate(pictures)
    ]


def looks(stain: str, items: list[str], count: int, out: Path | None, version: PhantomVersion) -> dict[str, Any]:
    """Prints the table of real and phantom pictures; returns it with the overlap of their histograms.

    Colours are taken from every picture; sizes and the spectrum only where the um per px are known. `out`: a page
    with the real pictures above the phantom's.
    """
    pictures = _real(items)
    real = [rgb for rgb, _ in pictures.values()]
    phantoms = _phantoms(stain, count, version)
    sets = {
        "real": [look_at(rgb, mpp) for rgb, mpp in pictures.values()],
        "phantom": [look_at(p, 0.5) for p in phantoms],
    }
    print(table_of(sets))
    known = [fine_power(rgb, mpp) for rgb, mpp in pictures.values() if mpp is not None]
    finer = np.mean([fine_power(p, 0.5) for p in phantoms]) - np.mean(known) if known else None
    if out is not None:
        rows = []
        for row in (real, phantoms):
            pages = [np.full((420, 420, 3), 255, np.uint8) for _ in range(-(-len(row) // 4) * 4)]
            for page, picture in zip(pages, row, strict=False):
                cut = picture[:420, :420]
                page[: cut.shape[0], : cut.shape[1]] = cut
            rows += [np.hstack(pages[k : k + 4]) for k in range(0, len(pages), 4)]
        imsave(out, np.vstack(rows), check_contrast=False)
    return {
        "stain": stain,
        "version": version,
        "real": {name: mpp for name, (_, mpp) in pictures.items()},
        "table": table_of(sets).splitlines(),
        "power_2_to_10_um_of_real": None if finer is None else round(float(10**finer), 2),
        "histogram_overlap_rgb": [round(v, 3) for v in histogram_overlap(real, phantoms)],
        "overlap_of_one_real_with_the_other_real": round(float(np.median(_rest(real))), 3),
        "overlap_of_one_phantom_with_the_real": round(
            float(np.median([np.mean(histogram_overlap([p], real)) for p in phantoms])), 3
        ),
        "overlap_of_one_phantom_with_the_other_phantoms": round(float(np.median(_rest(phantoms))), 3),
    }


def visibility(value: float, slides: int, version: PhantomVersion) -> dict[str, Any]:
    """AUC of the best reader of morphology, and of a linear reader of what one nucleus itself shows.

    The linear reader learns from half of the slides; all figures are of the other half.
    """
    looks_of, positive, score, group = [], [], [], []
    for seed in range(200, 200 + slides):
        phantom = Phantom(
            PhantomConfig(height=8192, width=8192, seed=seed, whole=True, visibility=value, version=version)
        )
        cells, _, _ = phantom.cells_um("a", 1000.0, 1000.0, 500.0, 500.0)
        c = cells.take((cells.kind == TUMOUR) & (phantom.path_um("a", cells) >= COUNTED_UM))
        shown = (np.log(c.a * c.b), c.a / c.b, c.dark, c.coarse, c.fine, c.nucleolus, c.rough, c.plump)
        looks_of.append(np.stack(shown, 1))
        positive.append(c.positive)
        score.append(c.score)
        group.append(np.full(len(c), seed))
    x, yes, best, seeds = (np.concatenate(v) for v in (looks_of, positive, score, group))
    x = (x - x.mean(0)) / x.std(0)
    x = np.hstack([x, x[:, :3] ** 2, np.ones((len(x), 1))])
    fit = seeds < 200 + slides // 2
    result: dict[str, Any] = {"cells": int((~fit).sum()), "visibility": value, "version": version}
    for k, marker in enumerate(NAMES):
        w = np.linalg.lstsq(x[fit], yes[fit, k].astype(float), rcond=None)[0]
        result[marker] = {
            "positive": round(float(yes[~fit, k].mean()), 2),
            "best_attainable_auc": round(rank_auc(best[~fit, k], yes[~fit, k]) or 0.0, 3),
            "own_nucleus_auc": round(rank_auc(x[~fit] @ w, yes[~fit, k]) or 0.0, 3),
            "size_alone_auc": round(rank_auc(-x[~fit, 0], yes[~fit, k]) or 0.0, 3),
        }
    return result


def sheet(out: Path, size: int) -> dict[str, Any]:
    """Writes a page: a row a marker (H&E, weak pair, truth)."""
    rows = []
    for k, marker in enumerate(NAMES):
        config = PhantomConfig(height=6144, width=6144, seed=31 + k, marker=marker, her2_score=3)
        y, x = choose_places(config, 1024, 1)[0]
        rows.append(np.hstack([Phantom(config).render(p, y + 256, x + 256, size, size) for p in PRODUCTS]))
    imsave(out, np.vstack(rows), check_contrast=False)
    return {"sheet": str(out)}


def versions(out: Path) -> dict[str, Any]:
    """Writes a picture: H&E and IHC of the same three places, v0 above and v1 below; 240 x 360 px at 0.5 um per px each."""
    rows = []
    for version in ("v0", "v1"):
        row = []
        for seed, marker in ((41, "ER"), (46, "Ki67"), (43, "HER2")):
            config = PhantomConfig(
                height=6144, width=6144, seed=seed, whole=True, marker=marker, her2_score=3, version=version
            )
            y, x = choose_places(config, 512, 1)[0]
            row += [Phantom(config).render(p, y + 76, x + 136, 360, 240) for p in ("he_a", "ihc_a")]
        rows.append(np.hstack(row))
    out.write_bytes(encode_jpeg(np.vstack(rows), 80))
    return {"picture": str(out)}


def main() -> None:
    """Run one of the measurements and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "pairing", "looks", "visibility", "sheet", "versions"])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--height", type=int, default=4096)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--patches", type=int, default=12)
    parser.add_argument("--pairing", default="mist")
    parser.add_argument("--visibility", type=float, default=0.85)
    parser.add_argument("--real", nargs="*", default=[], help="FILE (um per px unknown), FILE:UM_PER_PX or a slide")
    parser.add_argument("--stain", choices=["he", "ihc"], default="he")
    parser.add_argument(
        "--version", choices=["v0", "v1"], default="v0", help="of the phantom: looks, visibility, speed"
    )
    parser.add_argument("--out", type=Path, help="PNG of sheet (default phantom.png) and of looks, JPEG of versions")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    a = parser.parse_args()
    if a.what == "speed":
        result = speed(a.size, a.version)
    elif a.what == "memory":
        result = memory(a.height, a.width)
    elif a.what == "pairing":
        result = pairing(a.patches, a.pairing)
    elif a.what == "looks":
        result = looks(a.stain, a.real, a.patches, a.out, a.version)
    elif a.what == "visibility":
        result = visibility(a.visibility, a.patches, a.version)
    elif a.what == "versions":
        result = versions(a.out or Path("phantom_versions.jpg"))
    else:
        result = sheet(a.out or Path("phantom.png"), min(a.size, 512))
    print(json.dumps(result, indent=2))
    if a.output:
        key = {"looks": f"looks_{a.stain}", "visibility": f"visibility_{a.visibility}"}.get(a.what, a.what)
        key += "" if a.version == "v0" else f"_{a.version}"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        known = json.loads(a.output.read_text())["results"] if a.output.is_file() else {}
        with redirect_stdout(sys.stderr):
            common.report("phantom", {**known, key: {"date": date, **result}}, a.output)


if __name__ == "__main__":
    main()
