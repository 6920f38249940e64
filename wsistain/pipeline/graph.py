"""The Dask graph of a run, and the engines that execute it: threads here, a local cluster, or a scheduler's workers.

Two tasks a block of about 4096 px (generate; write with the neighbours' tails) and a third that only takes the tails
out of the first, so that a block's pixels do not wait in memory for its neighbours.
"""

import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from logging import getLogger
from typing import Any

import dask
from dask.base import annotate, compute
from dask.callbacks import Callback
from dask.delayed import Delayed, delayed

from wsistain.errors import ConfigError, WsistainError
from wsistain.pipeline.tasks import (
    Job,
    Written,
    generate_block,
    release_kits,
    stopping_on_error,
    take_tails,
    write_block_task,
)

LOCAL_THREADS = 3
"""Tasks at once in one process: one generates, one writes, one waits to generate. Each may use all the job's threads."""

LOCAL_AHEAD = LOCAL_THREADS
"""Blocks that may be generated and not yet written in one process. Each holds its pixels, 50 MB a marker."""

GPU = "GPU"
"""Where a scheduler's workers declare this resource, a generate task takes one; dask-cuda starts one worker a GPU."""

_LOG = getLogger(__name__)

OnDone = Callable[[Written], None]


def build_graph(
    job: Job, finished: Collection[tuple[int, int]] = (), *, ahead: int | None = None, on_gpu: bool = False
) -> list[Delayed]:
    """One delayed `Written` for each block that is to be written and is not in `finished`, row by row.

    ahead  : blocks are written in order, two at once, and none is generated before all that lie so many places
             earlier are written. None: no such bonds.
    on_gpu : generate tasks ask the scheduler for the resource `GPU`.

    Blocks go row by row, or those that wait for a neighbour would pile up, more of them the larger the slide: Dask's
    own order does not see how much each holds. On threads `ahead` sees to it. A cluster goes by priorities instead,
    since a bond would have a lost worker's finished blocks done again; threads know no priorities.

    Of finished neighbours only the tiles at their lower and right edges are generated again. Keys are new with every
    call: a scheduler that several runs share takes tasks of one key for one task.
    """
    run = uuid.uuid4().hex
    plan = job.plan
    wanted = [(b.row, b.col) for b in plan.blocks() if (b.row, b.col) not in finished]
    mine = set(wanted)
    shared = delayed(job, name=f"job-{run}", pure=True, traverse=False)
    generated: dict[tuple[int, int], Delayed | None] = {}
    tails: dict[tuple[int, int], Delayed | None] = {}
    writes: list[Delayed] = []

    def generate(row: int, col: int) -> Delayed | None:
        key = (row, col)
        if key not in generated:
            edges_only = key not in mine
            has_tiles = bool(plan.tiles_in(row, col, edges_only=edges_only))
            call = delayed(generate_block, pure=False)
            name = f"generate-{run}-{row}-{col}"
            n = len(writes)
            after = [] if ahead is None else writes[max(n - ahead - 1, 0) : max(n - ahead + 1, 0)]
            with annotate(priority=-n, **({"resources": {GPU: 1}} if on_gpu else {})):
                generated[key] = (
                    call(shared, row, col, edges_only=edges_only, after=after, dask_key_name=name)
                    if has_tiles
                    else None
                )
        return generated[key]

    def tail(row: int, col: int) -> Delayed | None:
        key = (row, col)
        if key not in tails:
            block = generate(row, col)
            take = delayed(take_tails, pure=False)
            with annotate(priority=1):  # what frees pixels goes before what makes them
                tails[key] = None if block is None else take(block, dask_key_name=f"tails-{run}-{row}-{col}")
        return tails[key]

    names = {(-1, 0): "above", (0, -1): "left", (-1, -1): "corner"}
    for row, col in wanted:
        near = {names[r - row, c - col]: tail(r, c) for r, c in plan.sources(row, col) if (r, c) != (row, col)}
        pixels = generate(row, col)
        call = delayed(write_block_task, pure=False)
        with annotate(priority=1):
            after = [] if ahead is None else writes[-2:-1]  # two are written at once
            name = f"write-{run}-{row}-{col}"
            writes.append(call(shared, row, col, pixels, near, after=after, dask_key_name=name))
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
    """Execute the graph in this process. Nothing runs any more when this returns or raises."""
    with (
        _Report(on_done),
        dask.config.set({"optimization.fuse.active": False}),
        ThreadPoolExecutor(LOCAL_THREADS, thread_name_prefix="block") as pool,
        stopping_on_error(),
    ):
        compute(*writes, scheduler="threads", pool=pool, optimize_graph=False)


def run_on_cluster(writes: list[Delayed], on_done: OnDone, client: Any) -> None:
    """Execute the graph on the workers of a `distributed.Client`; a lost worker's blocks run again elsewhere."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    waiting = set(client.compute(writes, optimize_graph=False))
    try:
        for future, result in as_completed(list(waiting), with_results=True):
            if isinstance(result, BaseException):  # a future that was cancelled, not one that failed
                raise WsistainError(
                    f"the connection to the Dask scheduler was lost ({result}); start it again and pass --resume"
                )
            on_done(result)
            waiting.discard(future)
            future.release()  # or a worker that dies would have its finished blocks done again
    except KilledWorker as error:
        raise WsistainError(
            f"workers were lost again and again on one block ({error}); look at their memory limit, then pass --resume"
        ) from None
    except OSError as error:
        raise WsistainError(
            f"the connection to the Dask scheduler was lost ({error}); start it again and pass --resume"
        ) from None
    finally:
        if client.status == "running":
            with suppress(OSError, TimeoutError):
                client.cancel(list(waiting))
                client.run(release_kits, on_error="ignore")


def most_on_one_machine(client: Any) -> int:
    """Most worker processes that one machine has, at least 1: they share its cores."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    hosts = [worker["host"] for worker in workers]
    return max((hosts.count(h) for h in hosts), default=1)


def has_gpus(client: Any) -> bool:
    """Do the workers declare the resource `GPU`?"""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(GPU in (worker.get("resources") or {}) for worker in workers)


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
            if not client.scheduler_info(n_workers=-1)["workers"]:
                _LOG.warning("the scheduler at %s has no workers yet; waiting for the first", scheduler)
                client.wait_for_workers(1)
            yield client
        return
    one_heap = {"distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1}  # as `share_arenas`, before any thread
    with (
        dask.config.set(one_heap),
        LocalCluster(
            n_workers=workers, threads_per_worker=LOCAL_THREADS, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
