"""What Dask costs: the graph of a simulated large slide with tasks that do nothing. Target: under 2 % of the wall time.

    python benchmarks/scheduler.py --width 100000 --height 80000

The wall time is that of identity, the cheapest generator, and extrapolated: real runs over two smaller slides tell what
a further megapixel takes, without the start. All is measured in turns, and the fastest of each is taken, because the
speed of a machine drifts.
"""

import time
from unittest import mock

import common
import empty_tasks
import numpy as np

REAL = (8192, 20_000)
"""Edges of the slides that are really run, px."""


def main() -> None:
    """Print tasks, scheduling seconds on threads and on a local cluster, seconds of real runs, and the shares."""
    options = common.parser(__doc__ or "")
    options.add_argument("--width", type=int, default=100_000)
    options.add_argument("--height", type=int, default=80_000)
    options.add_argument("--repeat", type=int, default=3)
    args = options.parse_args()
    megapixels = args.width * args.height / 1e6
    slides = [common.slide(args.work, edge, edge) for edge in REAL]
    start = time.perf_counter()
    writes = graph(args.height, args.width)
    build = time.perf_counter() - start
    tasks = len({key for w in writes for key in dict(w.__dask_graph__())})
    results = {
        "megapixels": megapixels,
        "tasks": tasks,
        "megapixels_per_task": round(megapixels / tasks, 2),
        "seconds_to_build": round(build, 2),
    }
    empty: dict[str, list[float]] = {"threads": [], "two_workers": []}
    real: dict[str, list[list[float]]] = {"threads": [], "two_workers": []}
    for _ in range(args.repeat):
        empty["threads"].append(threads(graph(args.height, args.width)))
        empty["two_workers"].append(cluster(args.height, args.width))
        real["threads"].append([seconds_of_run(args, slide, 1) for slide in slides])
        real["two_workers"].append([seconds_of_run(args, slide, 2) for slide in slides])
    for name in empty:
        small, large = (min(seconds) for seconds in zip(*real[name], strict=True))
        speed = (REAL[1] ** 2 - REAL[0] ** 2) / 1e6 / (large - small)
        scheduling, wall = min(empty[name]), megapixels / speed
        results[name] = {
            "seconds_of_scheduling": [round(s, 2) for s in empty[name]],
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


def graph(height: int, width: int):
    """The run's own graph with tasks that do nothing."""
    from wsistain.pipeline import graph as module
    from wsistain.pipeline.tasks import Job

    job = Job(plan(height, width), 0.5, "auto", (), (), (), "cpu", "float32", False, None, False, 1)
    with (
        mock.patch.object(module, "generate_block", empty_tasks.generated),
        mock.patch.object(module, "take_tails", empty_tasks.taken),
        mock.patch.object(module, "write_block_task", empty_tasks.written),
    ):
        return module.build_graph(job)


def threads(writes) -> float:
    """Seconds that the threaded scheduler takes for the graph."""
    from wsistain.pipeline.graph import run_in_threads

    start = time.perf_counter()
    run_in_threads(writes, print)
    return time.perf_counter() - start


def cluster(height: int, width: int) -> float:
    """Seconds that a scheduler with two worker processes takes for the graph, once it is up."""
    from wsistain.pipeline.graph import connect, run_on_cluster

    first, writes = graph(8192, 8192), graph(height, width)
    with connect(None, 2) as client:
        run_on_cluster(first, lambda w: None, client)  # the workers import what they need
        start = time.perf_counter()
        run_on_cluster(writes, lambda w: None, client)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
