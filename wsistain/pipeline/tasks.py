"""The two tasks of a block: generate, and write with what the neighbours' tiles add."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice

import numpy as np

from wsistain.errors import SlideError
from wsistain.generators.spec import stain_all
from wsistain.output.layout import PROBABILITY
from wsistain.output.store import write_block
from wsistain.pipeline.job import RGB, Generated, Job, Stained, Times, Written, peak_rss_mb
from wsistain.pipeline.kit import Kit, kit_for
from wsistain.pipeline.watch import Teller
from wsistain.runtime.ahead import in_order
from wsistain.runtime.event import STAINING
from wsistain.slide.base import Slide
from wsistain.tiling.blend import BlockBlender, Frame, Tails, blend_pieces, join
from wsistain.tiling.fade import fade
from wsistain.tiling.plan import RunPlan, Tile
from wsistain.tiling.seams import seam_sums

_NEIGHBOURS = {"above": (-1, 0), "left": (0, -1), "corner": (-1, -1)}


def read_tile(slide: Slide, plan: RunPlan, tile: Tile) -> RGB:
    """The pixels of a tile with its halo, uint8 (tile, tile, 3); 255 outside the slide and where it was not scanned."""
    t = plan.tiling
    return plan.read(slide, tile.y_out - t.halo, tile.x_out - t.halo, t.tile, t.tile)


def _frame(job: Job, row: int, col: int) -> Frame:
    """Blending geometry of a block of stained tiles."""
    return replace(job.plan.frame(row, col), channels=job.channels)


def _cores(job: Job, kit: Kit, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, list[RGB], float, float]]:
    """Each tile with its stained core for every marker, and the seconds for reading and generating."""
    t = job.plan.tiling
    core = t.core  # a tile may be longer to the right and below, to be a multiple of what the network takes

    def read(tile: Tile) -> tuple[RGB, float]:
        start = time.perf_counter()
        return read_tile(kit.slide, job.plan, tile), time.perf_counter() - start

    def corner(tile: Tile) -> tuple[int, int]:
        return tile.y_out - t.halo, tile.x_out - t.halo

    def read_and_stain(tile: Tile) -> tuple[Tile, list[RGB], float, float]:
        pixels, seconds = read(tile)
        start = time.perf_counter()
        stained = [s[0][:core, :core] for s in stain_all(kit.generators, pixels[None], [corner(tile)], t.halo)]
        return tile, stained, seconds, time.perf_counter() - start

    # On the CPU a tile is read and stained by one thread, all of it; two tiles a thread are under way.
    if kit.is_on_cpu:
        yield from in_order(kit.pool, read_and_stain, tiles, 2 * job.threads)
        return

    # On a GPU threads read ahead, and the tiles go through the network in batches.
    size = job.made[0].batch_size
    pairs = zip(tiles, in_order(kit.pool, read, tiles, 2 * size), strict=True)
    while group := list(islice(pairs, size)):
        # Always the same batch shape, so that the device always picks the same algorithm.
        pixels = np.full((size, t.tile, t.tile, 3), 255, np.uint8)
        for k, (_, (picture, _)) in enumerate(group):
            pixels[k] = picture
        places = [corner(tile) for tile, _ in group]
        places += [places[-1]] * (size - len(places))
        start = time.perf_counter()
        # Two blocks are generated at once; the network takes one batch at a time.
        with kit.lock:
            results = stain_all(kit.generators, pixels, places, t.halo)
        seconds = (time.perf_counter() - start) / len(group)
        for k, (tile, (_, seconds_read)) in enumerate(group):
            yield tile, [r[k][:core, :core] for r in results], seconds_read, seconds


def generate_block(
    job: Job, row: int, col: int, *, edges_only: bool = False, after: Sequence[Written] = ()
) -> Generated:
    """Read, stain and blend the tiles of one block.

    edges_only : only the tiles that other blocks need; the result holds tails and no pixels.
    after      : what had to be written first; its pixels are no longer held.
    """
    # The block's tiles; a block above or left of the first ones only has edges that others need.
    frame = _frame(job, row, col)
    edges_only = edges_only or row < 0 or col < 0
    tiles = job.plan.tiles_in(row, col, edges_only=edges_only)
    row0, col0 = job.plan.origin[0] + row * frame.n, job.plan.origin[1] + col * frame.n
    seconds_read = seconds_generate = seconds_blend = 0.0
    tell = Teller(job.run, STAINING)

    # Tiles come row by row, and each row is blended as soon as it is whole: no more than one of cores is held.
    with kit_for(job) as kit, kit.blocks:
        blenders = [BlockBlender(frame, edges_only=edges_only) for _ in job.generators]
        stained = _cores(job, kit, tiles)
        for i in range(frame.n):
            rows: list[dict[int, RGB]] = [{} for _ in job.generators]
            for tile, cores, read, generate in islice(stained, sum(t.row == row0 + i for t in tiles)):
                seconds_read, seconds_generate = seconds_read + read, seconds_generate + generate
                for mine, pixels in zip(rows, cores, strict=True):
                    mine[tile.col - col0] = pixels
                tell()
            start = time.perf_counter()
            for blender, mine in zip(blenders, rows, strict=True):
                blender.add_row(mine)
            seconds_blend += time.perf_counter() - start
        unreadable = frozenset(kit.slide.unreadable_keys)
    tell.flush()

    # What could not be decoded is glass by now; the run decides whether that may be.
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
    *,
    after: Sequence[Written] = (),
    **near: tuple[Tails, ...] | None,
) -> Written:
    """Complete a block's leading bands with the tails of its neighbours and write its shards, for every marker.

    generated : None for a block without tiles of its own, reached only by its neighbours' tails.
    after     : what had to be written first.
    near      : tails of `above`, `left` and `corner`; None for a neighbour without tissue; absent where the slide ends.
    """
    # One marker after the other: each is joined, measured at its seams, and written.
    frame = _frame(job, row, col)
    done, seams = [], []
    seconds = 0.0
    for k, output in enumerate(job.outputs):
        start = time.perf_counter()
        pixels = _finished_pixels(job, row, col, None if generated is None else generated.stained[k], _of(near, k))
        rgb = pixels[..., :3]
        seams.append(seam_sums(rgb, frame.stride, frame.overlap, begins=(row == 0, col == 0)))
        seconds += time.perf_counter() - start
        written = write_block(output, row, col, rgb, threads=job.threads)
        if job.generators[k].probability:  # carried as 255 less p, so that glass is 255 in all channels
            layer = replace(output, layer=PROBABILITY)
            written = written.with_layer(write_block(layer, row, col, 255 - pixels[..., 3:], threads=job.threads))
        done.append(written)
    times = Times(blend=seconds, encode=sum(d.seconds_encode for d in done), write=sum(d.seconds_write for d in done))
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


def _of(near: dict[str, tuple[Tails, ...] | None], k: int) -> dict[str, Tails | None]:
    """The tails of one marker."""
    return {name: None if tails is None else tails[k] for name, tails in near.items()}


def _finished_pixels(job: Job, row: int, col: int, stained: Stained | None, near: dict[str, Tails | None]) -> RGB:
    """The pixels of one marker's block when all is added up, uint8 (h, w, channels), clipped at the canvas."""
    plan, block, frame = job.plan, job.plan.block(row, col), _frame(job, row, col)
    if stained is None:
        pixels: RGB = np.full((frame.block, frame.block, frame.channels), 255, np.uint8)
        heads = blend_pieces({}, frame, edges_only=True).heads
    elif stained.pixels is None:
        raise ValueError(f"block ({row}, {col}) was generated for its tails only")
    else:
        pixels, heads = stained.pixels, stained.heads
    # A neighbour without tissue still owes glass to the bands that it shares.
    tails = {}
    for name, found in near.items():
        dy, dx = _NEIGHBOURS[name]
        tails[name] = glass_tails(_frame(job, row + dy, col + dx)) if found is None else found

    # Join, clip at the canvas, and fade to glass round the tissue.
    pixels = join(pixels, heads, frame, tails.get("above"), tails.get("left"), tails.get("corner"))
    pixels = pixels[: block.height, : block.width]
    y, x, _, _ = plan.canvas
    return fade(pixels, plan.near_tissue, y + row * frame.block, x + col * frame.block)
