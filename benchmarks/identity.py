"""The whole run with the identity generator: read, overlap blended, pyramid written. Target: 60 MP/s on 2 cores.

python benchmarks/identity.py --size 20000
"""

import statistics

import common


def main() -> None:
    """Run the identity generator over a slide some times and print the median, with MONAI's sliding window beside it."""
    options = common.parser(__doc__ or "")
    options.add_argument("--size", type=int, default=20000, help="edge of the slide, px")
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args()
    slide = common.slide(args.work, args.size, args.size)
    runs = [common.run_child([str(slide), "-w", "identity"], args.work / "identity") for _ in range(args.repeats)]
    whole = [
        common.run_child([str(slide), "-w", "identity", "--all-tiles"], args.work / "identity")
        for _ in range(args.repeats)
    ]
    results = {
        "megapixels": runs[0]["megapixels"],
        "mp_per_second": statistics.median(r["mp_per_second"] for r in runs),
        "mp_per_second_all_tiles": statistics.median(r["mp_per_second"] for r in whole),
        "process_seconds": statistics.median(r["process_seconds"] for r in runs),
        "peak_rss_mb": max(r["peak_rss_mb"] for r in [*runs, *whole]),
        "peak_rss_mb_beyond_interpreter_and_torch": max(r["peak_rss_mb"] for r in [*runs, *whole])
        - common.import_rss_mb("torch"),
        "tiles_generated_once": all(r["tiles_generated"] == r["tiles_planned"] for r in [*runs, *whole]),
        "seconds": runs[0]["seconds"],
        "monai_mp_per_second": monai(slide),
    }
    if results["monai_mp_per_second"]:
        results["times_monai"] = round(results["mp_per_second_all_tiles"] / results["monai_mp_per_second"], 2)
    common.report("identity", results, args.output)


def monai(slide, size: int = 4096) -> float | None:
    """MP/s of MONAI's sliding window with an identity predictor on a 4096 px square in memory; None without MONAI."""
    import time

    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError:
        return None
    from wsistain.slide.reader import open_slide

    pixels = open_slide(slide).read_level(0, 0, 0, size, size)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        sliding_window_inference(x, (512, 512), 4, lambda t: t, overlap=0.25, mode="gaussian")
        seconds.append(time.perf_counter() - start)
    return round(size * size / 1e6 / statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
