"""Doing many independent jobs in several processes, each with the phantom that it needs kept open."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.runtime.children import end_with_parent


def quiet(what: str, done: int, total: int) -> None:
    """An `OnProgress` that shows nothing."""


@lru_cache(maxsize=2)
def _open(text: str) -> Phantom:
    return Phantom(PhantomConfig.model_validate_json(text))


def phantom_of(config: PhantomConfig) -> Phantom:
    """The phantom of a configuration, kept open in this process for the next job."""
    return _open(config.model_dump_json())


@contextmanager
def mapper(workers: int) -> Iterator[Any]:
    """An ordered `map`: in this process for one worker, else over spawned processes."""
    if workers <= 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=end_with_parent) as pool:
        # A few neighbours at a time go to one process, which keeps what they share.
        yield partial(pool.imap, chunksize=4)
