"""The two tasks of a block: generate, and write with what the neighbours' tiles add.

Tasks carry a `Job`: paths and frozen specs, never slides or networks. A process opens the slide and loads the
generators once (`kit_for`).
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import SlideError
from wsistain.generators.load import build_generator
from wsistain.generators.spec import Generator, GeneratorSpec
from wsistain.output.store import BlockDone, OutputSpec, write_block
from wsistain.runtime.ahead import in_order
from wsistain.runtime.heap import share_arenas, undo_trimming
from wsistain.slide.base import Slide
from wsistain.slide.reader import open_slide
from wsistain.slide.resample import read_window
from wsistain.tiling.blend import BlockBlender, Frame, Heads, Tails, blend_pieces, join
from wsistain.tiling.fade import fade
from wsistain.tiling.plan import RunPlan, Tile
from wsistain.tiling.seams import SeamSums, seam_sums

RGB = NDArray[np.uint8]
CUDA_BATCH = 16
IDLE_KITS = 2
"""What a process keeps open besides what is in use: runs that share a cluster's workers take turns."""


def available_cores() -> int:
    """Cores that this process may use: a scheduler such as SLURM gives a job a part of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Job:
    """Everything a worker needs for any block of a run; picklable.

    generators, outputs : one a marker, in the same order; all markers share the plan.
    norm_files          : file with the frozen norm statistics of each generator, or "" for the tile's own.
    share               : processes that share a machine's cores; each takes its part of them.
    """

    plan: RunPlan
    mpp: float
    reader: str
    generators: tuple[GeneratorSpec, ...]
    outputs: tuple[OutputSpec, ...]
    norm_files: tuple[str, ...]
    device: str
    precision: str
    compiled: bool
    batch_size: int | None
    strict: bool
    share: int

    @property
    def threads(self) -> int:
        """Threads of this process for reading, staining on the CPU and encoding."""
        return max(1, available_cores() // self.share)


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


@dataclass(frozen=True)
class Times:
    """Seconds by stage, summed over threads."""

    read: float = 0.0
    generate: float = 0.0
    blend: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def __add__(self, other: "Times") -> "Times":
        return Times(
            self.read + other.read,
            self.generate + other.generate,
            self.blend + other.blend,
            self.encode + other.encode,
            self.write + other.write,
        )


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


_kits: dict[tuple[object, ...], Kit] = {}
_kits_lock = threading.Lock()


def _load_generator(job: Job, k: int) -> Generator:
    generator = build_generator(job.generators[k], device=job.device, precision=job.precision, compiled=job.compiled)
    if job.norm_files[k]:
        from wsistain.pipeline.norm import load_norm

        generator.freeze_norm(load_norm(job.norm_files[k]))  # type: ignore[attr-defined]
    return generator


def _open_kit(job: Job) -> Kit:
    share_arenas()
    undo_trimming()
    with ExitStack() as undo:
        slide = open_slide(job.plan.slide, mpp=job.mpp, reader=job.reader)
        undo.callback(slide.close)
        if slide.info.fingerprint != job.plan.fingerprint:
            raise SlideError(f"{job.plan.slide} is not the slide that was planned: its content has changed")
        generators = tuple(_load_generator(job, k) for k in range(len(job.generators)))
        undo.pop_all()
    pool = ThreadPoolExecutor(job.threads, thread_name_prefix="tile")
    on_cpu = all(g.device == "cpu" for g in generators)
    return Kit(slide, generators, pool, threading.Semaphore(1 if on_cpu else 2))


@contextmanager
def kit_for(job: Job) -> Iterator[Kit]:
    """The slide, generators and threads of this process for `job`, opened on first use.

    They stay open for the next task; kits of other jobs are closed when too many are idle.
    """
    key = (
        *(job.plan.slide, job.plan.fingerprint, job.mpp, job.reader, job.generators, job.norm_files),
        *(job.device, job.precision, job.compiled),
    )
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


def read_tile(slide: Slide, plan: RunPlan, tile: Tile) -> RGB:
    """The pixels of a tile with its halo, uint8 (tile, tile, 3); 255 outside the slide."""
    t = plan.tiling
    return read_window(slide, plan.sampling, tile.y_out - t.halo, tile.x_out - t.halo, t.tile, t.tile)


def _cores(job: Job, kit: Kit, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, list[RGB], float, float]]:
    """Each tile with its stained core for every marker, and the seconds for reading and generating."""
    t = job.plan.tiling
    core = slice(t.halo, t.halo + t.core)

    def read(tile: Tile) -> tuple[RGB, float]:
        start = time.perf_counter()
        return read_tile(kit.slide, job.plan, tile), time.perf_counter() - start

    def corner(tile: Tile) -> tuple[int, int]:
        return tile.y_out - t.halo, tile.x_out - t.halo

    def read_and_stain(tile: Tile) -> tuple[Tile, list[RGB], float, float]:
        pixels, seconds = read(tile)
        start = time.perf_counter()
        stained = [g.stain(pixels[None], [corner(tile)])[0][core, core] for g in kit.generators]
        return tile, stained, seconds, time.perf_counter() - start

    if kit.is_on_cpu:
        yield from in_order(kit.pool, read_and_stain, tiles, 2 * job.threads)
        return
    size = job.batch_size or CUDA_BATCH
    pairs = zip(tiles, in_order(kit.pool, read, tiles, 2 * size), strict=True)
    while group := list(islice(pairs, size)):
        # always the same batch shape, so that the device always picks the same algorithm
        pixels = np.full((size, t.tile, t.tile, 3), 255, np.uint8)
        for k, (_, (picture, _)) in enumerate(group):
            pixels[k] = picture
        places = [corner(tile) for tile, _ in group]
        places += [places[-1]] * (size - len(places))
        start = time.perf_counter()
        with kit.lock:
            results = [g.stain(pixels, places) for g in kit.generators]
        seconds = (time.perf_counter() - start) / len(group)
        for k, (tile, (_, seconds_read)) in enumerate(group):
            yield tile, [r[k][core, core] for r in results], seconds_read, seconds


def generate_block(
    job: Job, row: int, col: int, *, edges_only: bool = False, after: Sequence["Written"] = ()
) -> Generated:
    """Read, stain and blend the tiles of one block.

    edges_only : only the tiles that other blocks need; the result holds tails and no pixels.
    after      : what had to be written first; its pixels are no longer held.
    """
    frame = job.plan.frame(row, col)
    edges_only = edges_only or row < 0 or col < 0
    tiles = job.plan.tiles_in(row, col, edges_only=edges_only)
    row0, col0 = job.plan.origin[0] + row * frame.n, job.plan.origin[1] + col * frame.n
    seconds_read = seconds_generate = seconds_blend = 0.0
    with kit_for(job) as kit, kit.blocks:
        blenders = [BlockBlender(frame, edges_only=edges_only) for _ in job.generators]
        stained = _cores(job, kit, tiles)
        for i in range(frame.n):
            rows: list[dict[int, RGB]] = [{} for _ in job.generators]
            for tile, cores, read, generate in islice(stained, sum(t.row == row0 + i for t in tiles)):
                seconds_read, seconds_generate = seconds_read + read, seconds_generate + generate
                for mine, pixels in zip(rows, cores, strict=True):
                    mine[tile.col - col0] = pixels
            start = time.perf_counter()
            for blender, mine in zip(blenders, rows, strict=True):
                blender.add_row(mine)
            seconds_blend += time.perf_counter() - start
        unreadable = frozenset(kit.slide.unreadable_keys)
    if job.strict and unreadable:
        raise SlideError(f"{job.plan.slide}: {len(unreadable)} native tiles cannot be decoded, and --strict was given")
    blocks = tuple(Stained(b.pixels, b.heads, b.tails) for b in blenders)
    return Generated(blocks, len(tiles), unreadable, Times(seconds_read, seconds_generate, seconds_blend))


def take_tails(generated: Generated) -> tuple[Tails, ...]:
    """The tails alone, so that a block's pixels need not wait in memory for its neighbours."""
    return tuple(s.tails for s in generated.stained)


@lru_cache(maxsize=8)
def glass_tails(frame: Frame) -> Tails:
    """The tails of a block without any tissue."""
    return blend_pieces({}, frame, edges_only=True).tails


def write_block_task(
    job: Job,
    row: int,
    col: int,
    generated: Generated | None,
    near: dict[str, tuple[Tails, ...] | None],
    *,
    after: Sequence[Written] = (),
) -> Written:
    """Complete a block's leading bands with the tails of its neighbours and write its shards, for every marker.

    generated : None for a block without tiles of its own, reached only by its neighbours' tails.
    near      : tails by "above", "left", "corner"; None for a neighbour without tissue; absent where the slide ends.
    after     : what had to be written first.
    """
    block, frame = job.plan.block(row, col), job.plan.frame(row, col)
    offset = {"above": (-1, 0), "left": (0, -1), "corner": (-1, -1)}
    done, seams = [], []
    blend = 0.0
    for k, output in enumerate(job.outputs):
        start = time.perf_counter()
        if generated is None:
            pixels = np.full((frame.block, frame.block, 3), 255, np.uint8)
            heads = blend_pieces({}, frame, edges_only=True).heads
        else:
            stained = generated.stained[k]
            if stained.pixels is None:
                raise ValueError(f"block ({row}, {col}) was generated for its tails only")
            pixels, heads = stained.pixels, stained.heads
        tails = {
            name: (glass_tails(job.plan.frame(row + dy, col + dx)) if near[name] is None else near[name][k])  # type: ignore[index]
            for name, (dy, dx) in offset.items()
            if name in near
        }
        pixels = join(pixels, heads, frame, tails.get("above"), tails.get("left"), tails.get("corner"))
        y, x, _, _ = job.plan.canvas
        pixels = pixels[: block.height, : block.width]
        pixels = fade(pixels, job.plan.near_tissue, y + row * frame.block, x + col * frame.block)
        seams.append(seam_sums(pixels, frame.stride, frame.overlap))
        blend += time.perf_counter() - start
        done.append(write_block(output, row, col, pixels, threads=job.threads))
    times = Times(blend=blend, encode=sum(d.seconds_encode for d in done), write=sum(d.seconds_write for d in done))
    return Written(
        row=row,
        col=col,
        done=tuple(done),
        seams=tuple(seams),
        n_tiles=generated.n_tiles if generated else 0,
        unreadable=generated.unreadable if generated else frozenset(),
        times=times + (generated.times if generated else Times()),
        process=f"{os.uname().nodename}:{os.getpid()}",
        peak_rss_mb=peak_rss_mb(),
    )


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    try:  # not getrusage, whose peak a child takes over from the process that started it
        with Path("/proc/self/status").open(encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
