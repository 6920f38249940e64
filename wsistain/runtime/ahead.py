"""Work on threads a few items ahead of whoever takes the results, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class _Inline(Executor):
    """The caller's own thread as a pool: `submit` runs the call at once, `map` when its result is asked for."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  told where the result is taken, as a thread's would be
            future.set_exception(error)
        return future

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **_: Any) -> Iterator[T]:
        return map(fn, *iterables)


@contextmanager
def thread_pool(threads: int, name: str) -> Iterator[Executor]:
    """A pool of `threads` named after `name`, the caller's own thread for one; ValueError below 1.

    Where the block ends early, what has not begun is dropped; no thread outlives the block.
    """
    if threads < 1:
        raise ValueError(f"threads {threads} is not positive")
    if threads == 1:
        yield _Inline()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """`function` of each item, run on `pool`, in the order of `items`.

    depth : items that may be begun and not yet taken, the next one among them; 1 begins an item when it is asked for.

    An exception of `function` or of `items` comes up in its place. However it ends (exhausted, by an exception, closed
    half-way), what has not begun is dropped and what has begun is waited for: afterwards nothing of it runs. ValueError
    for a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth {depth} is not positive")
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) >= depth:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        wait([future for future in begun if not future.cancel()])
