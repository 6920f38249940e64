"""Peak memory of the largest process against the slide's height, on threads and with two worker processes.

Target: under 5 % more when the height doubles.

python benchmarks/memory.py --width 16384 --height 16384

The highest of several runs is compared: what is read, blended and written at one moment differs from run to run, by a
tenth of the memory.
"""

import common


def main() -> None:
    """Print peak memory of identity runs over a slide and one of twice its height, both ways."""
    options = common.parser(__doc__ or "")
    options.add_argument("--width", type=int, default=16384)
    options.add_argument("--height", type=int, default=16384)
    options.add_argument("--repeats", type=int, default=8)
    args = options.parse_args()
    results = {"width": args.width, "imports_mb": common.import_rss_mb()}
    for name, extra in (("threads", []), ("worker_processes", ["--workers", "2"])):
        peaks = {}
        for height in (args.height, 2 * args.height):
            slide = common.slide(args.work, height, args.width)
            command = [str(slide), "-w", "identity", "--all-tiles", *extra]
            runs = [common.run_child(command, args.work / "memory") for _ in range(args.repeats)]
            peaks[height] = sorted(r["peak_rss_mb"] for r in runs)
        low, high = (peaks[height][-1] for height in (args.height, 2 * args.height))
        results[name] = {
            "peak_rss_mb": {str(k): v for k, v in peaks.items()},
            "growth_percent": round(100 * (high / low - 1), 2),
        }
    common.report("memory", results, args.output)


if __name__ == "__main__":
    main()
