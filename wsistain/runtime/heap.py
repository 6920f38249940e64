"""How glibc keeps memory: settings that a long run of large arrays needs. Nothing happens with another C library."""

import ctypes
import os
import sys
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def _mallopt(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).mallopt(option, value)
    except (OSError, AttributeError):
        return


@lru_cache(maxsize=1)
def share_arenas() -> None:
    """Let threads share one heap instead of having one each: freed blocks of pixels are then used again by all of them.

    Takes about a fifth off the peak of a run. A heap of its own would also cost the thread that stains in it a fifth of
    its time: only the first one can hold blocks of more than 64 MB, so larger ones would be asked of the system and
    given back each time. Call it before threads are made.
    """
    _mallopt(_M_ARENA_MAX, 1)


@lru_cache(maxsize=1)
def undo_trimming() -> None:
    """Let freed arrays be used again in a process that Dask's nanny started.

    It starts workers with MALLOC_TRIM_THRESHOLD_=65536. Told any value, glibc no longer learns from the sizes that it
    is asked for: every array then comes from the system page by page, and goes back. Identity on two workers took half
    as long again. Set here is what glibc comes to by itself. Any other value is left: somebody chose it.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") == "65536":
        _mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        _mallopt(_M_TRIM_THRESHOLD, 64 << 20)


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Keep freed activations instead of returning them to the system after every layer.

    Page faults on fresh activations cost a CPU generator 30 to 50 %.
    """
    _mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    _mallopt(_M_TRIM_THRESHOLD, 1 << 30)
