"""The whole run with the ResNet-6 on the CPU over the generator alone on the same tiles. Target: at most 1.05.

    python benchmarks/overhead.py --size 3072

The generator alone takes the run's own tiles out of memory, on the run's own threads. MONAI's sliding window, where it
is installed, runs the same network in the same process on the same square.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common


def main() -> None:
    """Print the ratio, and MONAI's."""
    options = common.parser(__doc__ or "")
    options.add_argument("--size", type=int, default=3072, help="edge of the square, px")
    options.add_argument("--ngf", type=int, default=64)
    options.add_argument("--norm", default="tile", choices=["tile", "slide", "field"])
    options.add_argument("--repeat", type=int, default=2, help="times that each is measured; the fastest counts")
    args = options.parse_args()
    slide = common.slide(args.work, args.size, args.size)
    weights = common.random_resnet(args.work, ngf=args.ngf)
    generator, runs = [], []
    for k in range(args.repeat):  # in turns, so that a change of the machine's speed meets both
        generator.append(alone(slide, weights, args.norm)["seconds"])
        arguments = [str(slide), "-w", str(weights), "--all-tiles", "--norm", args.norm]
        facts = common.run_child(arguments, args.work / f"resnet_{k}")
        runs.append(facts["seconds"]["total"])
    results = {
        "tiles": facts["tiles_generated"],
        "run_seconds": runs,
        "generator_alone_seconds": generator,
        "ratio": round(min(runs) / min(generator), 3),
        "norm_statistics_seconds": facts["seconds"]["norm"],
        "peak_rss_mb": facts["peak_rss_mb"],
        "monai": monai(slide, weights, args.size),
    }
    common.report("overhead", results, args.output)


def alone(slide: Path, weights: Path, norm: str) -> dict[str, float]:
    """Seconds of the generator alone on the tiles of the run, already in memory."""
    from wsistain.config import RunConfig, validate
    from wsistain.generators.load import build_generator
    from wsistain.generators.spec import stain_all
    from wsistain.pipeline.planning import make_spec, plan_groups
    from wsistain.pipeline.tasks import read_tile
    from wsistain.runtime.heap import share_arenas
    from wsistain.slide.reader import open_slide

    config = validate(RunConfig, {"weights": str(weights), "all_tiles": True, "norm": norm}, "benchmark")
    share_arenas()  # as a run does: without it, threads fault in fresh pages and the generator alone looks slow
    opened = open_slide(slide)
    (group,) = plan_groups(opened, [make_spec(config, "ER")], config, None, crop=True)
    tiles = [t for b in group.plan.blocks() for t in group.plan.tiles_in(b.row, b.col)]
    pixels = [read_tile(opened, group.plan, t) for t in tiles]
    generator, halo = build_generator(group.specs[0], device="cpu"), group.plan.tiling.halo
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda p: stain_all([generator], p[None], [(0, 0)], halo), pixels[:2]))
        start = time.perf_counter()
        list(pool.map(lambda p: stain_all([generator], p[None], [(0, 0)], halo), pixels))
        return {"seconds": round(time.perf_counter() - start, 2), "tiles": len(tiles)}


def monai(slide: Path, weights: Path, size: int) -> dict[str, float] | None:
    """MONAI's sliding window (512 px, 25 %) over the network alone on its windows; None without MONAI."""
    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError:
        return None
    from wsistain.slide.reader import open_slide
    from wsistain.weights.file import load_network

    network = load_network(weights)[0]
    torch.set_num_threads(os.cpu_count() or 1)
    x = torch.from_numpy(open_slide(slide).read_level(0, 0, 0, size, size)).permute(2, 0, 1)[None].float() / 127.5 - 1
    inside = [0.0, 0]

    def timed(t):
        start = time.perf_counter()
        y = network(t)
        inside[0] += time.perf_counter() - start
        inside[1] += len(t)
        return y

    with torch.no_grad():
        network(x[..., :512, :512])
        start = time.perf_counter()
        sliding_window_inference(x, (512, 512), 1, timed, overlap=0.25, mode="gaussian")
        total = time.perf_counter() - start
    return {"seconds": round(total, 2), "ratio": round(total / inside[0], 3), "windows": inside[1]}


if __name__ == "__main__":
    main()
