"""One very large slide: identity over the whole of it, and the demonstration weights on a list of regions.

    python benchmarks/large.py --size 50000 --regions 8 --output benchmarks/results/large.json

The same runs on a slide of half the height and width tell what grows: time and bytes should by four, memory should
not. The slide is the phantom's (`wsistain phantom slide`), or with --quick the fast synthetic one.
"""

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
            parts = [stain(args, path, "demo", box) for box in boxes(size, args.regions, args.region_px)]
            results[name]["demo_regions"] = total(parts)
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


def boxes(size: int, n: int, edge: int) -> list[tuple[int, int, int, int]]:
    """`n` regions (x, y, w, h) evenly spread along the diagonal band of a slide."""
    edge = min(edge, size // 2)
    places = [int((k + 0.5) / n * (size - edge)) for k in range(n)]
    return [(x, places[(k * 3 + 1) % n], edge, edge) for k, x in enumerate(places)]


def stain(args, path: Path, weights: str, box: tuple[int, int, int, int] | None) -> dict[str, float]:
    """One run in its own process: seconds, MP/s, peak memory and bytes on disk."""
    out = args.work / "large_out"
    arguments = [str(path), "--weights", weights, "--marker", "ER"]
    if box is not None:
        arguments += ["--region", ",".join(map(str, box)), "--all-tiles"]
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


def total(parts: list[dict[str, float]]) -> dict[str, float]:
    """The sums of several runs; of memory the largest."""
    added = {key: sum(p[key] for p in parts) for key in ("seconds", "megapixels", "bytes_on_disk", "tiles_generated")}
    added |= {"regions": len(parts), "peak_rss_mb": max(p["peak_rss_mb"] for p in parts)}
    added["mp_per_second"] = round(added["megapixels"] / max(added["seconds"], 1e-9), 3)
    return {key: round(value, 3) for key, value in added.items()}


if __name__ == "__main__":
    main()
