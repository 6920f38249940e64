"""What Dask costs: the graph of a simulated large slide with tasks that do nothing. Target: under 2 % of the wall time.

    python benchmarks/scheduler.py --width 100000 --height 80000

The wall time it is compared with is that of the same slide at the speed of the identity run (`--mp-per-second`), which
is the least that any generator can take.
"""

import time
from unittest import mock

import common
import numpy as np


def main() -> None:
    """Print tasks, tasks a megapixel, scheduling seconds on threads and on a local cluster, and their share."""
    options = common.parser(__doc__ or "")
    options.add_argument("--width", type=int, default=100_000)
    options.add_argument("--height", type=int, default=80_000)
    options.add_argument("--mp-per-second", type=float, default=60.0)
    args = options.parse_args()
    megapixels = args.width * args.height / 1e6
    wall = megapixels / args.mp_per_second
    start = time.perf_counter()
    writes = graph(args.height, args.width)
    build = time.perf_counter() - start
    tasks = len({key for w in writes for key in dict(w.__dask_graph__())})
    results = {
        "megapixels": megapixels,
        "tasks": tasks,
        "megapixels_per_task": round(megapixels / tasks, 2),
        "seconds_to_build": round(build, 2),
        "seconds_in_threads": round(threads(writes), 2),
        "seconds_on_two_workers": round(cluster(args.height, args.width), 2),
        "seconds_of_the_run": round(wall, 1),
    }
    for name in ("threads", "two_workers"):
        key = f"seconds_in_{name}" if name == "threads" else f"seconds_on_{name}"
        results[f"share_{name}_percent"] = round(100 * results[key] / wall, 2)
    common.report("scheduler", results, args.output)


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


def nothing_generated(job, row, col, *, edges_only=False, after=()):
    """Stands in for `generate_block`."""
    return row, col


def nothing_taken(generated):
    """Stands in for `take_tails`."""
    return generated


def nothing_written(job, row, col, generated, near, *, after=()):
    """Stands in for `write_block_task`."""
    return None


def graph(height: int, width: int):
    """The run's own graph with tasks that do nothing."""
    from wsistain.pipeline import graph as module
    from wsistain.pipeline.tasks import Job

    job = Job(plan(height, width), 0.5, "auto", (), (), (), "cpu", "float32", False, None, False, 1)
    with (
        mock.patch.object(module, "generate_block", nothing_generated),
        mock.patch.object(module, "take_tails", nothing_taken),
        mock.patch.object(module, "write_block_task", nothing_written),
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
