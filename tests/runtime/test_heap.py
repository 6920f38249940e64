"""Threads of a run share one heap, and workers use freed memory again."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from concurrent.futures import ThreadPoolExecutor
from wsistain.runtime.heap import share_arenas
if sys.argv[1] == "shared":
    share_arenas()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda n: bytes(n), [3_000_000] * 64))
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are glibc's")
@pytest.mark.parametrize(("how", "is_one"), [("shared", True), ("own", False)])
def test_threads_share_one_heap_once_told_to(how: str, is_one: bool) -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    assert "Arena 0:" in told.stderr
    assert ("Arena 1:" not in told.stderr) is is_one


AGAIN = """
import resource, sys
from wsistain.runtime.heap import undo_trimming
undo_trimming()
for _ in range(50):
    b"x" * 10_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are glibc's")
@pytest.mark.parametrize(("threshold", "again"), [("65536", True), ("65535", False)])
def test_a_worker_of_dask_uses_freed_memory_again(threshold: str, again: bool) -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": threshold}
    told = subprocess.run([sys.executable, "-c", AGAIN], check=True, capture_output=True, text=True, env=environment)
    assert (int(told.stdout) < 250_000_000) is again  # 500 MB were asked for, ten at a time


def test_the_threshold_is_still_the_one_that_dask_gives_its_workers() -> None:
    import distributed  # noqa: F401  its defaults
    from dask import config

    assert str(config.get("distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_")) == "65536"
