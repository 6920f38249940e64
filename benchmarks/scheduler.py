"""What Dask costs: the graph of a simulated large slide with tasks that do nothing. Target: under 2 % of the wall time.

    python benchmarks/scheduler.py --width 100000 --height 80000

The graph is the one that the product runs (on threads with the bonds that keep blocks in order), and building it counts.

The wall time is that of identity, the cheapest generator, and extrapolated: real runs over two smaller slides tell what
a further megapixel takes, without the start. All is measured in turns, and the fastest of each is taken, because the
speed of a machine drifts.
"""

import os
import time
from unittest import mock

import common
import empty_tasks
import numpy as np


def main() -> None:
    """Print tasks, scheduling seconds on threads and on a local cluster, seconds of real runs, and the shares."""
    options = common.parser(__doc__ or "")
    options.add_argument("--width", type=int, default=100_000)
    options.add_argument("--height", type=int, default=80_000)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument(
        "--real",
        type=int,
        nargs=2,
        default=(8192, 20_000),
        metavar="PX",
        help="edges of the two slides that are really run",
    )
    args = options.parse_args()
    megapixels = args.width * args.height / 1e6
    slides = [common.slide(args.work, edge, edge) for edge in args.real]
    tasks, build = building(args.height, args.width)
    results = {
        "megapixels": megapixels,
        "tasks": tasks,
        "megapixels_per_task": round(megapixels / tasks, 2),
        "cpu_seconds_to_build": round(build, 3),
        "cpu_seconds_to_build_900_blocks": round(building(30 * 4096, 30 * 4096)[1], 3),
        "edges_of_real_runs_px": list(args.real),
        "load_average": round(os.getloadavg()[0], 1),
    }
    empty: dict[str, list[float]] = {"threads": [], "two_workers": []}
    real: dict[str, list[list[float]]] = {"threads": [], "two_workers": []}
    for _ in range(args.repeat):
        empty["threads"].append(threads(args.height, args.width))
        empty["two_workers"].append(cluster(args.height, args.width))
        real["threads"].append([seconds_of_run(args, slide, 1) for slide in slides])
        real["two_workers"].append([seconds_of_run(args, slide, 2) for slide in slides])
    for name in empty:
        small, large = (min(seconds) for seconds in zip(*real[name], strict=True))
        speed = (args.real[1] ** 2 - args.real[0] ** 2) / 1e6 / (large - small)
        scheduling, wall = min(empty[name]), megapixels / speed
        results[name] = {
            "seconds_of_building_and_scheduling": [round(s, 2) for s in empty[name]],
            "seconds_of_real_runs": [[round(s, 2) for s in pair] for pair in real[name]],
            "mp_per_second": round(speed, 1),
            "seconds_of_the_large_run": round(wall, 1),
            "share_percent": round(100 * scheduling / wall, 2),
        }
    common.report("scheduler", results, args.output)


def seconds_of_run(args, slide, workers: int) -> float:
    """Wall seconds that a run of identity over every tile of `slide` reports."""
    arguments = [str(slide), "-w", "identity", "--all-tiles", "--workers", str(workers)]
    return float(common.run_child(arguments, args.work / "scheduler_out")["seconds"]["total"])


def plan(height: int, width: int):
    """The plan of a slide of that size, all of it tissue."""
    from wsistain.slide.resample import Sampling
    from wsistain.tiling.plan import RunPlan, make_tiling

    tiling = make_tiling(stride=512, overlap=128, halo=0, size_multiple=4, block=4096)
    tissue = np.ones((-(-height // 512), -(-width // 512)), bool)
    return RunPlan(
        "simulated",
        "0",
        Sampling(0, 1.0, 0.5, (height, width)),
        tiling,
        (0, 0, height, width),
        tissue,
        np.ones((-(-height // 64) + 1, -(-width // 64) + 1), bool),
    )


def graph(height: int, width: int, ahead: int | None):
    """The run's own graph with tasks that do nothing."""
    from wsistain.pipeline import graph as module
    from wsistain.pipeline.job import Job

    job = Job(plan(height, width), 0.5, (), (), (), "cpu")
    with (
        mock.patch.object(module, "generate_block", empty_tasks.generated),
        mock.patch.object(module, "take_tails", empty_tasks.taken),
        mock.patch.object(module, "write_block_task", empty_tasks.written),
    ):
        return module.build_graph(job, ahead=ahead)


def building(height: int, width: int) -> tuple[int, float]:
    """Tasks of the graph that threads run, and the CPU seconds of building it."""
    from wsistain.pipeline.engine import LOCAL_AHEAD

    start = time.process_time()
    tasks = len(graph(height, width, LOCAL_AHEAD).tasks)
    return tasks, time.process_time() - start


def threads(height: int, width: int) -> float:
    """Seconds to build the graph and to take it through the threaded scheduler."""
    from wsistain.pipeline.engine import LOCAL_AHEAD, run_in_threads

    start = time.perf_counter()
    run_in_threads(graph(height, width, LOCAL_AHEAD), print)
    return time.perf_counter() - start


def cluster(height: int, width: int) -> float:
    """Seconds to build the graph and to take it through a scheduler with two worker processes, once that is up."""
    from wsistain.pipeline.engine import connect, run_on_cluster

    with connect(None, 2) as client:
        run_on_cluster(graph(8192, 8192, None), lambda w: None, client)  # the workers import what they need
        start = time.perf_counter()
        run_on_cluster(graph(height, width, None), lambda w: None, client)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
