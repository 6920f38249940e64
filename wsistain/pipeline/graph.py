"""The Dask graph of a run, and the engines that execute it: threads here, a local cluster, or a scheduler's workers.

Two tasks a block of about 4096 px (generate; write with the neighbours' tails) and a third that only takes the tails
out of the first, so that a block's pixels do not wait in memory for its neighbours.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import Delayed, delayed

from wsistain.errors import ConfigError, WsistainError
from wsistain.pipeline.tasks import Job, Written, generate_block, take_tails, write_block_task

LOCAL_THREADS = 2
"""Tasks at once in one process: one generates while another writes. Each may use all of the job's threads."""

OnDone = Callable[[Written], None]


def build_graph(job: Job, finished: Collection[tuple[int, int]] = ()) -> list[Delayed]:
    """One delayed `Written` for each block that is to be written and is not in `finished`, row by row.

    Of finished neighbours only the tiles at their lower and right edges are generated again.
    """
    plan = job.plan
    wanted = [(b.row, b.col) for b in plan.blocks() if (b.row, b.col) not in finished]
    mine = set(wanted)
    shared = delayed(job, name="job", pure=True, traverse=False)
    generated: dict[tuple[int, int], Delayed | None] = {}
    tails: dict[tuple[int, int], Delayed | None] = {}

    def generate(row: int, col: int) -> Delayed | None:
        key = (row, col)
        if key not in generated:
            edges_only = key not in mine
            has_tiles = bool(plan.tiles_in(row, col, edges_only=edges_only))
            call = delayed(generate_block, pure=False)
            generated[key] = (
                call(shared, row, col, edges_only=edges_only, dask_key_name=f"generate-{row}-{col}")
                if has_tiles
                else None
            )
        return generated[key]

    def tail(row: int, col: int) -> Delayed | None:
        key = (row, col)
        if key not in tails:
            block = generate(row, col)
            take = delayed(take_tails, pure=False)
            tails[key] = None if block is None else take(block, dask_key_name=f"tails-{row}-{col}")
        return tails[key]

    names = {(-1, 0): "above", (0, -1): "left", (-1, -1): "corner"}
    writes = []
    for row, col in wanted:
        near = {names[r - row, c - col]: tail(r, c) for r, c in plan.sources(row, col) if (r, c) != (row, col)}
        call = delayed(write_block_task, pure=False)
        writes.append(call(shared, row, col, generate(row, col), near, dask_key_name=f"write-{row}-{col}"))
    return writes


class _Report(Callback):
    """Hands each finished write to the driver, in the driver's thread."""

    def __init__(self, on_done: OnDone):
        super().__init__()
        self._on_done = on_done

    def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(value, Written):
            self._on_done(value)


def run_in_threads(writes: list[Delayed], on_done: OnDone) -> None:
    """Execute the graph in this process."""
    with _Report(on_done), dask.config.set({"optimization.fuse.active": False}):
        compute(*writes, scheduler="threads", num_workers=LOCAL_THREADS, optimize_graph=False)


def run_on_cluster(writes: list[Delayed], on_done: OnDone, client: Any) -> None:
    """Execute the graph on the workers of a `distributed.Client`; a lost worker's blocks run again elsewhere."""
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    futures = client.compute(writes, optimize_graph=False)
    try:
        for _, result in as_completed(futures, with_results=True):
            on_done(result)
    except KilledWorker as error:
        raise WsistainError(
            f"workers were lost again and again on one block ({error}); look at their memory limit, then pass --resume"
        ) from None
    except (FutureCancelledError, OSError) as error:
        raise WsistainError(
            f"the connection to the Dask scheduler was lost ({error}); start it again and pass --resume"
        ) from None
    finally:
        client.cancel(futures) if client.status == "running" else None


@contextmanager
def connect(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A Dask client for `scheduler`, or for a local cluster of `workers` processes; None for this process alone."""
    if scheduler is None and workers <= 1:
        yield None
        return
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="8s")
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {scheduler} ({error}); is it running, as tcp://HOST:PORT?"
            ) from None
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=LOCAL_THREADS, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
