"""What a process keeps open for the tasks of a run: the slide, the generators, threads. Opened once, closed when idle."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from wsistain.errors import SlideError
from wsistain.generators.load import build_generator
from wsistain.generators.spec import Generator
from wsistain.pipeline.job import Job
from wsistain.runtime.heap import share_arenas, undo_trimming
from wsistain.slide.base import Slide
from wsistain.slide.reader import open_slide

IDLE_KITS = 2
"""What a process keeps open besides what is in use: runs that share a cluster's workers take turns."""


@dataclass
class Kit:
    """What a process keeps open for a job; `users` tasks are at it.

    blocks : places for blocks that are generated at once. One fills the cores, since its tiles run in parallel; a GPU
             gets a second, so that it has work while the first is blended.
    """

    slide: Slide
    generators: tuple[Generator, ...]
    pool: ThreadPoolExecutor
    blocks: threading.Semaphore
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0

    @property
    def is_on_cpu(self) -> bool:
        return all(g.device == "cpu" for g in self.generators)

    def close(self) -> None:
        """Ends the threads, dropping what they have not begun, and closes the slide."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.slide.close()


_kits: dict[tuple[object, ...], Kit] = {}
_kits_lock = threading.Lock()


def load_generators(job: Job) -> tuple[Generator, ...]:
    """The generators of a job on its device, with each tile's own norm statistics as yet."""
    loaded: list[Generator] = []
    for spec, made in zip(job.generators, job.made, strict=True):
        loaded.append(
            build_generator(
                spec, device=job.device, precision=made.precision, compiled=made.compile, beside=tuple(loaded)
            )
        )
    return tuple(loaded)


def check_generators(job: Job) -> None:
    """Raises WsistainError children where the generators of a job cannot be loaded in this process."""
    load_generators(job)


def _freeze_norms(job: Job, generators: tuple[Generator, ...]) -> None:
    """Give the generators the statistics that were measured for the run."""
    for k, generator in enumerate(generators):
        path = job.norm_file(k)
        if path is not None:
            from wsistain.generators.network import NetworkGenerator
            from wsistain.pipeline.norm_file import load_norm

            if not isinstance(generator, NetworkGenerator):
                raise TypeError(f"{generator.spec.name} has no norm to freeze")
            generator.freeze_norm(load_norm(path))


def _open_kit(job: Job, generators: tuple[Generator, ...] | None = None) -> Kit:
    # Before the pool is made: a thread keeps the heap that it began with.
    share_arenas()
    undo_trimming()
    with ExitStack() as undo:
        made = job.made[0]
        slide = open_slide(job.plan.slide, mpp=job.mpp, reader=made.reader, series=made.series)
        undo.callback(slide.close)
        if slide.info.fingerprint != job.plan.fingerprint:
            raise SlideError(f"{job.plan.slide} is not the slide that was planned: its content has changed")
        generators = load_generators(job) if generators is None else generators
        _freeze_norms(job, generators)
        # From here on the kit closes the slide.
        undo.pop_all()
    pool = ThreadPoolExecutor(job.threads, thread_name_prefix="tile")
    on_cpu = all(g.device == "cpu" for g in generators)
    return Kit(slide, generators, pool, threading.Semaphore(1 if on_cpu else 2))


def _key(job: Job) -> tuple[object, ...]:
    norms = tuple(job.norm_file(k) for k in range(len(job.generators)))
    return job.plan.slide, job.plan.fingerprint, job.mpp, job.generators, job.made, norms, job.device


def install_kit(job: Job, generators: tuple[Generator, ...]) -> None:
    """Open this process's kit for `job` with generators that are loaded already; it takes them over."""
    with _kits_lock:
        _kits[_key(job)] = _open_kit(job, generators)


@contextmanager
def kit_for(job: Job) -> Iterator[Kit]:
    """The slide, generators and threads of this process for `job`, opened on first use.

    They stay open for the next task; kits of other jobs are closed when too many are idle.
    """
    key = _key(job)
    with _kits_lock:
        kit = _kits.pop(key, None) or _open_kit(job)
        _kits[key] = kit  # the last one is the latest used
        kit.users += 1
        _close_idle(IDLE_KITS)
    try:
        yield kit
    finally:
        with _kits_lock:
            kit.users -= 1


def _close_idle(keep: int) -> None:
    # The dictionary is kept in order of use, so the first are those not used for longest.
    idle = [key for key, kit in _kits.items() if not kit.users]
    for key in idle[: max(len(idle) - keep, 0)]:
        _kits.pop(key).close()


@contextmanager
def stopping_on_error() -> Iterator[None]:
    """Nothing; an error or Ctrl-C inside ends what this process is staining after the tiles that are under way."""
    try:
        yield
    except BaseException:
        with _kits_lock:
            while _kits:
                _kits.popitem()[1].close()
        raise


def release_kits() -> None:
    """Close what this process keeps open and no task uses."""
    with _kits_lock:
        _close_idle(0)
