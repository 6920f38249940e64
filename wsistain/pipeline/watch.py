"""How the tiles of a run tell of themselves: at once in the process that drives it, by the scheduler from its workers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from wsistain.runtime.event import STAINING, OnEvent, RunEvent

TOPIC = "wsistain"
"""Of the events at a scheduler: one for all runs, so that what it keeps of them is bounded."""

EVERY_S = 0.5
"""A worker tells at most so often, lest a fast network keep the scheduler busy."""

OnTold = Callable[[str, int, int], None]
"""Called with (stage, parts done since the last call, parts in all or 0 where the run knows them)."""

_listening: dict[str, OnTold] = {}


class Teller:
    """Tells the run of the work of one task."""

    def __init__(self, run: str, stage: str, total: int = 0) -> None:
        """run : as in `listening`. total : parts of the stage, where the run does not know them."""
        self._run, self._stage, self._total = run, stage, total
        self._kept, self._last = 0, time.monotonic()

    def __call__(self, parts: int = 1) -> None:
        """So many more parts are done."""
        heard = _listening.get(self._run)
        if heard is not None:
            heard(self._stage, parts, self._total)
            return
        self._kept += parts
        if time.monotonic() - self._last >= EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Send what was kept back. Nothing where nobody can listen: no worker, or a test's call of a task."""
        if not self._kept:
            return
        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:
            return
        worker.log_event(TOPIC, [self._run, self._stage, self._kept, self._total])
        self._kept, self._last = 0, time.monotonic()


@contextmanager
def listening(run: str, heard: OnTold, client: Any) -> Iterator[None]:
    """Inside, `heard` is told what tasks of `run` tell, here or at the workers of a Dask client (None: here alone).

    It is called from threads of tasks, and from one that waits for what the scheduler passes on: the client's own thread
    must never wait for whoever watches.
    """
    _listening[run] = heard
    try:
        if client is None:
            yield
        else:
            with _passed_on(run, heard, client):
                yield
    finally:
        del _listening[run]


@contextmanager
def _passed_on(run: str, heard: OnTold, client: Any) -> Iterator[None]:
    told: SimpleQueue[tuple[str, int, int] | None] = SimpleQueue()

    def of_scheduler(event: tuple[float, Any]) -> None:
        name, *rest = event[1]
        if name == run:  # others share the cluster
            told.put(tuple(rest))

    def hear() -> None:
        while (event := told.get()) is not None:
            heard(*event)

    client.subscribe_topic(TOPIC, of_scheduler)
    thread = threading.Thread(target=hear, name="tiles", daemon=True)
    thread.start()
    try:
        yield
    finally:
        if client.status == "running":
            client.unsubscribe_topic(TOPIC)
        told.put(None)
        thread.join()


@dataclass
class Progress:
    """How far one pass of a run is; tells `on_event`, from whichever thread, one call at a time."""

    on_event: OnEvent
    blocks: int
    total_megapixels: float
    n_blocks: int = 0
    megapixels: float = 0.0
    tiles: int = 0
    total_tiles: int = 0
    _parts: Counter[str] = field(default_factory=Counter)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def heard(self, stage: str, parts: int, total: int) -> None:
        """So many more parts of a stage are done; see `OnTold`."""
        with self._lock:
            if stage == STAINING:
                self.tiles += parts
                self.show()
                return
            self._parts[stage] += parts
            self.on_event(RunEvent(stage, self._parts[stage], total))

    def wrote(self, megapixels: float) -> None:
        """One more block is written."""
        with self._lock:
            self.n_blocks, self.megapixels = self.n_blocks + 1, self.megapixels + megapixels
            if self.n_blocks == self.blocks:  # what the last worker told may still be on its way
                self.tiles = self.total_tiles
            self.show()

    def show(self) -> None:
        """Tell where it stands."""
        with self._lock:
            self.on_event(
                RunEvent(
                    STAINING,
                    self.n_blocks,
                    self.blocks,
                    self.megapixels,
                    self.total_megapixels,
                    min(self.tiles, self.total_tiles),  # a lost worker's tiles are made and told again
                    self.total_tiles,
                )
            )
