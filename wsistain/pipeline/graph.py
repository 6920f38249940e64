"""The Dask graph of a run: two tasks a block of about 4096 px (generate; write with the neighbours' tails) and a third
that only takes the tails out of the first, so that a block's pixels do not wait in memory for its neighbours.

It is one plain dictionary of tasks: `dask.delayed` would look through all the blocks before with every block.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import DataNode, GraphNode, List, Task, TaskRef

from wsistain.pipeline.job import Job
from wsistain.pipeline.tasks import generate_block, take_tails, write_block_task

GPU = "GPU"
"""Where a scheduler's workers declare this resource, a generate task takes one; dask-cuda starts one worker a GPU."""

_NAMES = {(-1, 0): "above", (0, -1): "left", (-1, -1): "corner"}

Place = tuple[int, int]


@dataclass(frozen=True)
class BlockGraph:
    """The tasks of a run.

    tasks     : by key, in the order in which they are to be done.
    writes    : keys of the tasks that write, one a block, row by row: what the run is asked for.
    generates : keys of the tasks that generate, each with its priority on a cluster.
    n_tiles   : tiles that those generate together.
    """

    tasks: dict[str, GraphNode] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    generates: dict[str, int] = field(default_factory=dict)
    n_tiles: int = 0

    def annotated(self, *, on_gpu: bool) -> HighLevelGraph:
        """The same for a scheduler: what frees pixels goes before what makes them, and blocks go row by row.

        on_gpu : generate tasks ask the scheduler for the resource `GPU`.
        """
        annotations: dict[str, Any] = {"priority": {key: self.generates.get(key, 1) for key in self.tasks}.__getitem__}
        if on_gpu:
            wants = {key: {GPU: 1} if key in self.generates else {} for key in self.tasks}
            annotations["resources"] = wants.__getitem__
        return HighLevelGraph({"run": MaterializedLayer(self.tasks, annotations=annotations)}, {"run": set()})


def build_graph(job: Job, finished: Collection[Place] = (), *, ahead: int | None = None) -> BlockGraph:
    """One task that writes for each block that is to be written and is not in `finished`, and what it needs.

    ahead : blocks are written in order, two at once, and none is generated before all that lie so many places
            earlier are written. None: no such bonds.

    Blocks go row by row, or those that wait for a neighbour would pile up, more of them the larger the slide: Dask's
    own order does not see how much each holds. On threads `ahead` sees to it. A cluster goes by priorities instead,
    since a bond would have a lost worker's finished blocks done again; threads know no priorities.

    Of finished neighbours only the tiles at their lower and right edges are generated again. Keys are new with every
    call: a scheduler that several runs share takes tasks of one key for one task.
    """
    # What is to be written. The job stands in the graph once, and every task refers to it.
    run = uuid.uuid4().hex
    plan = job.plan
    wanted = [(b.row, b.col) for b in plan.blocks() if (b.row, b.col) not in finished]
    mine = set(wanted)
    graph = BlockGraph()
    tasks, writes, n_tiles = graph.tasks, graph.writes, 0
    tasks[f"job-{run}"] = DataNode(f"job-{run}", job)
    shared = TaskRef(f"job-{run}")

    # Tasks by place, made when first asked for: a block's pixels and its tails are wanted by several others.
    generated: dict[Place, TaskRef | None] = {}
    tails: dict[Place, TaskRef | None] = {}

    def generate(place: Place) -> TaskRef | None:
        """The task that generates a block; None where it has no tiles."""
        if place not in generated:
            nonlocal n_tiles
            edges_only = place not in mine
            generated[place] = None
            tiles = plan.tiles_in(*place, edges_only=edges_only)
            n_tiles += len(tiles)
            if tiles:
                key, n = f"generate-{run}-{place[0]}-{place[1]}", len(writes)
                tasks[key] = Task(
                    key,
                    generate_block,
                    shared,
                    *place,
                    edges_only=edges_only,
                    # Each write waits for the one two before it, so the last two of those stand for all.
                    after=_after(writes[max(n - ahead - 1, 0) : max(n - ahead + 1, 0)] if ahead is not None else ()),
                )
                graph.generates[key] = -n
                generated[place] = TaskRef(key)
        return generated[place]

    def tail(place: Place) -> TaskRef | None:
        """The task that takes the tails out of a block; None where it has no tiles."""
        if place not in tails:
            block = generate(place)
            tails[place] = None
            if block is not None:
                key = f"tails-{run}-{place[0]}-{place[1]}"
                tasks[key] = Task(key, take_tails, block)
                tails[place] = TaskRef(key)
        return tails[place]

    # One write a block, and on the way to it what generates the block and its neighbours' tails.
    for row, col in wanted:
        near: dict[str, Any] = {
            _NAMES[r - row, c - col]: tail((r, c)) for r, c in plan.sources(row, col) if (r, c) != (row, col)
        }
        pixels = generate((row, col))
        key = f"write-{run}-{row}-{col}"
        before = writes[-2:-1] if ahead is not None else ()  # two are written at once
        tasks[key] = Task(key, write_block_task, shared, row, col, pixels, after=_after(before), **near)
        writes.append(key)
    return replace(graph, n_tiles=n_tiles)


def _after(keys: Collection[str]) -> List | tuple[()]:
    return List(*(TaskRef(k) for k in keys)) if keys else ()
