"""Several writers fed from one stream of strips, in step."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class Together:
    """Feeds several writers, each in its own thread, from one stream of strips that is made once for all.

    A strip is made when the first writer asks for it and dropped when the last has taken it; no writer gets more
    than one strip ahead of another, so at most two strips are held.
    """

    def __init__(self, names: Iterable[str], strips: Iterator[Mapping[Any, Any]]) -> None:
        self.strips = strips
        self.waiting: dict[str, list[Any]] = {name: [] for name in names}
        self.turn = threading.Condition()
        self.failure: BaseException | None = None

    def take(self, name: str) -> Any:
        """The next strip of one writer; raises RuntimeError where another writer has failed."""
        with self.turn:
            while not self.waiting[name] and any(self.waiting.values()) and self.failure is None:
                self.turn.wait()
            if self.failure is not None:
                raise RuntimeError("another writer failed") from self.failure
            if not self.waiting[name]:
                for other, strip in next(self.strips).items():
                    self.waiting[other].append(strip)
            strip = self.waiting[name].pop()
            self.turn.notify_all()
            return strip

    def run(self, writers: Mapping[Any, Callable[[], object]]) -> None:
        """Run all writers to their end; raises what the first to fail raised."""

        def guarded(write: Callable[[], object]) -> None:
            try:
                write()
            except BaseException as error:  # noqa: BLE001 - handed to the caller below, never dropped
                with self.turn:
                    self.failure = self.failure or error
                    self.turn.notify_all()

        threads = [threading.Thread(target=guarded, args=(write,)) for write in writers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
