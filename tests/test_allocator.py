"""Threads of a run share one heap."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from concurrent.futures import ThreadPoolExecutor
from wsistain.allocator import share_arenas
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
