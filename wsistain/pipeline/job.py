"""What the tasks of a run carry and give back: frozen values that travel between processes.

A `Job` holds paths and specs, never slides or networks: a process opens those itself (`kit`).
"""

import os
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.generators.spec import GeneratorSpec
from wsistain.output.layout import WORK
from wsistain.output.store import BlockDone, OutputSpec
from wsistain.pipeline.made import MadeWith
from wsistain.tiling.blend import Heads, Tails
from wsistain.tiling.plan import RunPlan
from wsistain.tiling.seams import SeamSums

RGB = NDArray[np.uint8]


def available_cores() -> int:
    """Cores that this process may use: a scheduler such as SLURM gives a job a part of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Job:
    """Everything a worker needs for any block of a run; picklable.

    mpp                       : of the slide, um per px.
    generators, made, outputs : one a marker, in the same order; all markers share plan, reader and device.
    device                    : what torch calls the device that stains, "cuda:1" for one of several.
    strict                    : a native tile that cannot be decoded ends the run.
    share                     : processes that share a machine's cores; each takes its part of them.
    run                       : name of this pass, under which its tasks tell how far they are (`watch`).
    """

    plan: RunPlan
    mpp: float
    generators: tuple[GeneratorSpec, ...]
    made: tuple[MadeWith, ...]
    outputs: tuple[OutputSpec, ...]
    device: str
    strict: bool = False
    share: int = 1
    run: str = ""

    @property
    def threads(self) -> int:
        """Threads of this process for reading, staining on the CPU and encoding."""
        return max(1, available_cores() // self.share)

    @property
    def channels(self) -> int:
        """Channels of stained tiles; the same for all markers of a run."""
        return self.generators[0].channels

    def norm_file(self, k: int) -> Path | None:
        """Where the frozen norm statistics of generator `k` lie; None where it uses the tile's own."""
        return None if self.made[k].norm == "tile" else self.outputs[k].folder / WORK / "norm.safetensors"


@dataclass(frozen=True)
class Times:
    """Seconds by stage, summed over threads."""

    read: float = 0.0
    generate: float = 0.0
    blend: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def __add__(self, other: "Times") -> "Times":
        return Times(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Stained:
    """One marker's block: pixels whose leading bands are still open, and the sums for them.

    pixels is None where only the tails were wanted.
    """

    pixels: RGB | None
    heads: Heads
    tails: Tails

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return (0 if self.pixels is None else self.pixels.nbytes) + self.heads.nbytes + self.tails.nbytes


@dataclass(frozen=True)
class Generated:
    """What `generate_block` returns: one `Stained` a marker, and what it cost."""

    stained: tuple[Stained, ...]
    n_tiles: int
    unreadable: frozenset[tuple[int, ...]]
    times: Times

    def __sizeof__(self) -> int:
        """What it holds: a scheduler that took it for small would send it to other workers to be written."""
        return object.__sizeof__(self) + sum(s.nbytes for s in self.stained)


@dataclass(frozen=True)
class Written:
    """What `write_block_task` returns: one record a marker, and the sums for the report."""

    row: int
    col: int
    done: tuple[BlockDone, ...]
    seams: tuple[SeamSums, ...]
    n_tiles: int
    unreadable: frozenset[tuple[int, ...]]
    times: Times
    process: str
    peak_rss_mb: float


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    try:  # not getrusage, whose peak a child takes over from the process that started it
        with Path("/proc/self/status").open(encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
