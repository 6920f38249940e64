"""What executes the graph of a run: threads here, a local cluster of processes, or the workers of a scheduler."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import dask
from dask.callbacks import Callback
from dask.threaded import get as get_in_threads

from wsistain.errors import ConfigError, WsistainError
from wsistain.generators.device import Device, find_device
from wsistain.pipeline.graph import GPU, BlockGraph
from wsistain.pipeline.job import Job, Written
from wsistain.pipeline.kit import release_kits, stopping_on_error

LOCAL_THREADS = 3
"""Tasks at once in one process: one generates, one writes, one waits to generate. Each may use all the job's threads."""

LOCAL_AHEAD = LOCAL_THREADS
"""Blocks that may be generated and not yet written in one process. Each holds its pixels: 50 MB for
one stain, at most 128 MiB for all of one file of weights (`planning.default_block`)."""

_LOG = logging.getLogger(__name__)

OnDone = Callable[[Written], None]
T = TypeVar("T")


class _Report(Callback):
    """Hands each finished write to the driver, in the driver's thread."""

    def __init__(self, on_done: OnDone):
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_done = on_done

    def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(value, Written):
            self._on_done(value)


def run_in_threads(graph: BlockGraph, on_done: OnDone) -> None:
    """Execute the graph in this process. Nothing runs any more when this returns or raises."""
    with (
        _Report(on_done),
        ThreadPoolExecutor(LOCAL_THREADS, thread_name_prefix="block") as pool,
        stopping_on_error(),
    ):
        get_in_threads(graph.tasks, graph.writes, pool=pool)


def run_on_cluster(graph: BlockGraph, on_done: OnDone, client: Any, *, on_gpu: bool = False) -> None:
    """Execute the graph on the workers of a `distributed.Client`; a lost worker's blocks run again elsewhere."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    waiting = set(client.get(graph.annotated(on_gpu=on_gpu), graph.writes, sync=False))
    try:
        for future, result in as_completed(list(waiting), with_results=True, loop=client.loop):
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
        # However it ended, the workers neither go on with this run nor keep its slide and weights.
        if client.status == "running":
            with suppress(OSError, TimeoutError):
                client.cancel(list(waiting))
                client.run(release_kits, on_error="ignore")


def most_on_one_machine(client: Any) -> int:
    """Most worker processes that one machine has, at least 1: they share its cores."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    hosts = [worker["host"] for worker in workers]
    return max((hosts.count(h) for h in hosts), default=1)


def staining_workers(client: Any) -> list[str]:
    """Addresses of the workers that generate: those with the resource `GPU` where any has it, else all."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    with_gpu = [address for address, worker in workers.items() if GPU in (worker.get("resources") or {})]
    return with_gpu or list(workers)


def has_gpus(client: Any) -> bool:
    """Do the workers declare the resource `GPU`?"""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(GPU in (worker.get("resources") or {}) for worker in workers)


def find_devices(wanted: str, *, is_network: bool, client: Any) -> list[Device]:
    """The devices that will stain: this process's, or those of the workers of a Dask client.

    Raises ConfigError where one is not there, or where workers have devices of several kinds.
    """
    if client is None:
        return [find_device(wanted, is_network=is_network)]
    found: dict[str, Device] = client.run(
        find_device, wanted, is_network=is_network, workers=staining_workers(client), on_error="raise"
    )
    kinds = {device.kind: address for address, device in found.items()}
    if len(kinds) > 1:
        which = ", ".join(f"{kind} at {address}" for kind, address in sorted(kinds.items()))
        raise ConfigError(
            f"the workers would stain on devices of several kinds ({which}), whose results differ; start those with a GPU "
            "with --resources GPU=1, or pass --device cpu"
        )
    return list(found.values())


def dashboard_of(client: Any) -> str | None:
    """Address of the dashboard of a client's scheduler; None where it has none.

    The schedulers that `connect` starts for `workers` offer none.
    """
    if (
        client is None
        or client.cluster is not None
        or "dashboard" not in client.scheduler_info(n_workers=0).get("services", {})
    ):
        return None
    return str(client.dashboard_link)


def on_one_worker(client: Any, call: Callable[[Job], T], job: Job) -> T:
    """What `call` returns for `job` on one of the workers that generate; its exceptions come through."""
    resources = {GPU: 1} if has_gpus(client) else None
    result: T = client.submit(call, job, pure=False, resources=resources).result()
    return result


@contextmanager
def connect(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A Dask client for `scheduler`, or for a local cluster of `workers` processes; None for this process alone."""
    if scheduler is None and workers <= 1:
        yield None
        return
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            # Not the default client: one that could not connect would stay the scheduler of the caller's own Dask.
            client = Client(scheduler, timeout="8s", set_as_default=False)
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
            n_workers=workers,
            threads_per_worker=LOCAL_THREADS,
            processes=True,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,  # what fails in a worker comes back and is said in one sentence
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
