"""One very large slide: identity over the whole of it, and the demonstration weights on a list of regions.

    python benchmarks/large.py --size 50000 --regions 8 --output benchmarks/results/large.json

The same runs on a slide of half the height and width tell what grows: time and bytes should by four, memory should
not. The slide is the phantom's (`wsistain phantom slide`), or with --quick the fast synthetic one.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import common


def main() -> None:
    """Make both slides, run, and print wall time, MP/s, peak memory and bytes on disk of each."""
    options = common.parser(__doc__ or "")
    options.add_argument("--size", type=int, default=50_000, help="edge of the large slide, px")
    options.add_argument("--regions", type=int, default=8, help="regions stained with the demonstration weights")
    options.add_argument("--region-px", type=int, default=4096)
    options.add_argument("--quick", action="store_true", help="the fast synthetic slide instead of the phantom")
    options.add_argument("--skip-demo", action="store_true", help="identity alone")
    options.add_argument("--workers", type=int, default=2, help="processes that make the phantom slides")
    options.add_argument("--keep", action="store_true", help="keep the outputs")
    args = options.parse_args()
    results = {}
    for name, size in (("quarter", args.size // 2), ("large", args.size)):
        path, seconds = slide(args, size)
        results[name] = {"size_px": size, "slide_bytes": path.stat().st_size, "seconds_to_make_slide": seconds}
        results[name]["identity"] = stain(args, path, "identity", None)
        if not args.skip_demo:
            roi = regions(size, args.regions, args.region_px, args.work / "regions.geojson")
            results[name]["demo_regions"] = stain(args, path, "demo", roi)
    small, large = results["quarter"]["identity"], results["large"]["identity"]
    results["ratio_large_to_quarter"] = {
        key: round(large[key] / small[key], 3) for key in ("seconds", "peak_rss_mb", "bytes_on_disk")
    }
    common.report("large", results, args.output)


def slide(args, size: int) -> tuple[Path, float]:
    """A slide of that size, made once, and the seconds it took (0 when it was there)."""
    start = time.perf_counter()
    if args.quick:
        return common.slide(args.work, size, size), round(time.perf_counter() - start, 1)
    folder = args.work / f"phantom_{size}"
    path = folder / "he_a.tiff"
    if path.is_file():
        return path, 0.0
    command = [sys.executable, "-m", "wsistain", "phantom", "slide", str(folder), "--size", str(size)]
    subprocess.run([*command, "--seed", "0", "--he-only", "--workers", str(args.workers)], check=True)
    return path, round(time.perf_counter() - start, 1)


def regions(size: int, n: int, edge: int, path: Path) -> Path:
    """GeoJSON, as QuPath writes it, of `n` squares spread over the slide; returns `path`."""
    edge = min(edge, size // 2)
    places = [int((k + 0.5) / n * (size - edge)) for k in range(n)]
    features = []
    for k, x in enumerate(places):
        y = places[(k * 3 + 1) % n]
        ring = [[x, y], [x + edge, y], [x + edge, y + edge], [x, y + edge], [x, y]]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": polygon, "properties": {"name": f"region {k}"}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def stain(args, path: Path, weights: str, roi: Path | None) -> dict[str, float]:
    """One run in its own process: seconds, MP/s, peak memory and bytes on disk."""
    out = args.work / "large_out"
    arguments = [str(path), "--weights", weights, "--marker", "ER"]
    if roi is not None:
        arguments += ["--roi", str(roi)]
    os.sync()  # or this run waits for what the one before it left to be written
    facts = common.run_child(arguments, out)
    measured = {
        "seconds": round(facts["process_seconds"], 2),
        "megapixels": facts["megapixels"],
        "mp_per_second": facts["mp_per_second"],
        "peak_rss_mb": facts["peak_rss_mb"],
        "bytes_on_disk": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
        "tiles_planned": facts["tiles_planned"],
        "tiles_generated": facts["tiles_generated"],
    }
    if not args.keep:
        shutil.rmtree(out)
    return measured


if __name__ == "__main__":
    main()
