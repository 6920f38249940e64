r"""Peak memory of the largest process against the slide's height, on threads and with two worker processes.

Target: under 5 % more when the height doubles.

    python benchmarks/memory.py --width 16384 --height 16384

Of a network: the peak of a run over 25 megapixels at 1 um per px, once.

    python benchmarks/memory.py --weights runs/lpstain/weights.safetensors --markers ER,PR,Ki67,HER2 --probability \
        --width 10080 --height 10000 --repeats 1 --once

The highest of several runs is compared: what is read, blended and written at one moment differs from run to run, by a
tenth of the memory.
"""

import common


def main() -> None:
    """Print peak memory of runs over a slide and one of twice its height, both ways."""
    options = common.parser(__doc__ or "")
    options.add_argument("--width", type=int, default=16384)
    options.add_argument("--height", type=int, default=16384)
    options.add_argument("--repeats", type=int, default=8)
    options.add_argument("--weights", default="identity")
    options.add_argument("--markers", default="ER", help="ER among them")
    options.add_argument("--probability", action="store_true")
    options.add_argument("--once", action="store_true", help="that height alone, on threads")
    args = options.parse_args()
    results = {"width": args.width, "imports_mb": common.import_rss_mb()}
    ways: dict[str, list[str]] = (
        {"threads": []} if args.once else {"threads": [], "worker_processes": ["--workers", "2"]}
    )
    heights = (args.height,) if args.once else (args.height, 2 * args.height)
    for name, extra in ways.items():
        peaks = {}
        for height in heights:
            slide = common.slide(args.work, height, args.width)
            command = [str(slide), "-w", args.weights, "--marker", args.markers, "--all-tiles", *extra]
            command += ["--probability"] * args.probability
            runs = [common.run_child(command, args.work / "memory") for _ in range(args.repeats)]
            peaks[height] = sorted(r["peak_rss_mb"] for r in runs)
        low, high = peaks[heights[0]][-1], peaks[heights[-1]][-1]
        results[name] = {
            "peak_rss_mb": {str(k): v for k, v in peaks.items()},
            **({} if args.once else {"growth_percent": round(100 * (high / low - 1), 2)}),
        }
    common.report("memory", results, args.output)


if __name__ == "__main__":
    main()
