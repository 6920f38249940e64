"""Measuring norm statistics on a slide; `norm_file` keeps them beside the output for workers and resumed runs."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.generators.network import NetworkGenerator
from wsistain.generators.spec import Generator
from wsistain.networks.slide_norm import NormField
from wsistain.pipeline.job import Job
from wsistain.pipeline.kit import load_generators
from wsistain.pipeline.norm_file import save_norm
from wsistain.pipeline.watch import Teller
from wsistain.runtime.files import reporting
from wsistain.slide.base import Slide
from wsistain.slide.reader import open_slide
from wsistain.tiling.plan import RunPlan

WINDOW_PX = 160
"""Edge of a statistics window: many small windows represent a slide better than few large ones, for less memory."""

MEASURING = "measuring the slide's norm"
"""The stage, as `RunEvent` names it."""

MAX_NODES = 400
NODE_WINDOWS = 9


def measure_missing(job: Job, slide: Slide, generators: Sequence[Generator]) -> None:
    """Measure and keep the statistics of every generator that freezes them, unless a run that is resumed has them.

    generators : of the job, with their own norm as yet; left as they are.

    Raises ConfigError where one has none to freeze, OutputError where they cannot be written.
    """
    for k, (generator, made) in enumerate(zip(generators, job.made, strict=True)):
        path = job.norm_file(k)
        if path is None or path.is_file():
            continue
        if not isinstance(generator, NetworkGenerator) or not generator.has_instance_norm:
            name = generator.spec.name
            raise ConfigError(f"--norm {made.norm}: {name} has no instance norm to freeze; use --norm tile")
        if made.norm_tiles is None:
            raise ValueError(f"norm {made.norm!r} needs a number of tiles")
        mode: Literal["slide", "field"] = "slide" if made.norm == "slide" else "field"
        field = measure(generator, slide, job.plan, mode, made.norm_tiles, run=job.run)
        with reporting(path):
            save_norm(path, field)


def measure_on_worker(job: Job) -> None:
    """The same in a process that has neither the slide nor the generators open."""
    made = job.made[0]
    with closing(open_slide(job.plan.slide, mpp=job.mpp, reader=made.reader, series=made.series)) as slide:
        measure_missing(job, slide, load_generators(job))


def measure(
    generator: NetworkGenerator,
    slide: Slide,
    plan: RunPlan,
    mode: Literal["slide", "field"],
    n_tiles: int,
    *,
    run: str = "",
) -> NormField:
    """Norm statistics of `generator` on the slide: one set, or a lattice of sets.

    n_tiles : tissue tiles for the one set, spread evenly over the slide's tissue; each gives one window.
    run     : to which it is told how far this is (`watch`).
    """
    places = [(int(i), int(j)) for i, j in zip(*np.nonzero(plan.has_tissue), strict=True)]
    edge = _window_edge(generator.spec.size_multiple)
    if mode == "slide":
        chosen = _spread(places, n_tiles)
        tell = Teller(run, MEASURING, len(chosen) + generator.n_norms)
        statistics = generator.measure_norm(_windows(slide, plan, chosen, edge, n_tiles, tell), tell)
        tell.flush()
        return NormField({k: v[None, None] for k, v in statistics.items()}, 1.0)
    return _measure_field(generator, slide, plan, places, edge, run)


def _window_edge(multiple: int) -> int:
    return max(multiple, -(-WINDOW_PX // multiple) * multiple)


def _spread(places: Sequence[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """At most `n` of `places`, evenly spaced in reading order, which runs over the whole slide."""
    if len(places) <= n:
        return list(places)
    return [places[int(k)] for k in np.linspace(0, len(places) - 1, n).round()]


def _windows(
    slide: Slide,
    plan: RunPlan,
    tiles: Sequence[tuple[int, int]],
    edge: int,
    at_least: int,
    on_tile: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """Windows from `tiles`, uint8 (k, edge, edge, 3); several a tile where there are few tiles.

    Windows lie on a grid inside each tile's stride, centred first; those that are mostly glass come last and are
    dropped when enough others remain, since glass would drag the statistics of pale slides.
    """
    # A grid of places in each tile: one in the middle, more where there are few tiles.
    stride = plan.tiling.stride
    per_tile = -(-at_least // max(len(tiles), 1))
    side = max(1, min(int(np.ceil(np.sqrt(per_tile))), stride // edge))
    offsets = [int((k + 0.5) * stride / side - edge / 2) for k in range(side)]
    found = []
    for i, j in tiles:
        found += [plan.read(slide, i * stride + dy, j * stride + dx, edge, edge) for dy in offsets for dx in offsets]
        on_tile()

    # Glass last, the others in reading order.
    glassy = [float((w.min(axis=2) > 225).mean()) for w in found]
    order = sorted(range(len(found)), key=lambda k: (glassy[k] > 0.5, k))
    good = [k for k in order if glassy[k] <= 0.5]
    keep = good if len(good) >= max(1, at_least // 2) else order
    return np.stack([found[k] for k in sorted(keep[: max(at_least, 1)])])


def _measure_field(
    generator: NetworkGenerator, slide: Slide, plan: RunPlan, places: Sequence[tuple[int, int]], edge: int, run: str
) -> NormField:
    """A lattice of statistics, each node pooled over the tissue tiles in the 3 x 3 nodes round it."""
    # A lattice over the tiles, as fine as the number of nodes allows.
    stride = plan.tiling.stride
    step = 1
    while -(-plan.has_tissue.shape[0] // step) * -(-plan.has_tissue.shape[1] // step) > MAX_NODES:
        step += 1
    rows, cols = -(-plan.has_tissue.shape[0] // step), -(-plan.has_tissue.shape[1] // step)

    # Statistics of the nodes that hold tissue, each with those round it.
    nodes: dict[tuple[int, int], dict[str, NDArray[np.float32]]] = {}
    tell = Teller(run, MEASURING, len({(i // step, j // step) for i, j in places}))
    for r in range(rows):
        for c in range(cols):
            inside = [p for p in places if p[0] // step == r and p[1] // step == c]
            if not inside:
                continue
            near = [p for p in places if abs(p[0] // step - r) <= 1 and abs(p[1] // step - c) <= 1]
            nodes[r, c] = generator.measure_norm(_windows(slide, plan, _spread(near, NODE_WINDOWS), edge, NODE_WINDOWS))
            tell()
    tell.flush()

    # The full lattice, one array a layer.
    known = np.array(sorted(nodes))
    table: dict[str, NDArray[np.float32]] = {}
    for name, first in nodes[tuple(known[0])].items():
        lattice = np.empty((rows, cols, *first.shape), np.float32)
        for r in range(rows):
            for c in range(cols):
                # A node without tissue takes its nearest neighbour's statistics.
                nearest = known[np.argmin(((known - (r, c)) ** 2).sum(axis=1))]
                lattice[r, c] = nodes[int(nearest[0]), int(nearest[1])][name]
        table[name] = lattice
    return NormField(table, float(stride * step))
