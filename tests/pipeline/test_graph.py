"""How much a run holds: blocks whose pixels wait to be written, on slides with ragged tissue."""

import sys
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
from dask.sizeof import sizeof
from scipy import ndimage

from wsistain.pipeline import graph
from wsistain.pipeline.engine import (
    LOCAL_AHEAD,
    LOCAL_THREADS,
    connect,
    dashboard_of,
    run_in_threads,
    run_on_cluster,
)
from wsistain.pipeline.graph import build_graph
from wsistain.pipeline.job import Generated, Job, Stained, Times, Written
from wsistain.pipeline.tasks import take_tails
from wsistain.slide.resample import Sampling
from wsistain.tiling.blend import Frame, blend_pieces
from wsistain.tiling.plan import RunPlan, make_tiling

TILES = 64
BLOCK = 2
BOUND = LOCAL_AHEAD + LOCAL_THREADS  # those ahead, and those that are written but whose tails are still being taken


class Held:
    """Pixels of a block; counts how many are alive."""

    lock = threading.Lock()
    alive: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def __init__(self) -> None:
        with Held.lock:
            Held.alive += 1
            Held.most = max(Held.most, Held.alive)

    def __del__(self) -> None:
        with Held.lock:
            Held.alive -= 1


def generate(job: Job, row: int, col: int, *, edges_only: bool = False, after: Any = ()) -> Held | str:
    return "edges" if edges_only else Held()


def take(generated: Any) -> str:
    return "tails"


def write(job: Job, row: int, col: int, generated: Any, *, after: Any = (), **near: Any) -> Written:
    assert all(part in ("tails", None) for part in near.values())
    return Written(row, col, (), (), 1, frozenset(), Times(), "", 0.0)


@pytest.fixture
def ragged(monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job over islands of tissue with holes, whose tasks do nothing."""
    for name, stub in (("generate_block", generate), ("take_tails", take), ("write_block_task", write)):
        monkeypatch.setattr(graph, name, stub)
    Held.alive = Held.most = 0
    noise = np.random.default_rng(3).normal(size=(TILES, TILES))
    tissue = ndimage.gaussian_filter(noise, 2) > 0
    tiling = make_tiling(stride=512, overlap=128, halo=0, size_multiple=4, block=512 * BLOCK)
    edge = TILES * 512
    near = np.ones((edge // 64 + 1, edge // 64 + 1), bool)
    plan = RunPlan("simulated", "0", Sampling(0, 1.0, 0.5, (edge, edge)), tiling, (0, 0, edge, edge), tissue, near)
    return Job(plan, 0.5, (), (), (), "cpu")


def test_few_blocks_wait_to_be_written_however_ragged_the_tissue(ragged: Job) -> None:
    seen: list[Written] = []
    run_in_threads(build_graph(ragged, ahead=LOCAL_AHEAD), seen.append)
    assert sorted((w.row, w.col) for w in seen) == [(b.row, b.col) for b in ragged.plan.blocks()]
    assert 1 < Held.most <= BOUND


def plain_job(blocks: int) -> Job:
    """A job over `blocks` x `blocks` blocks of tissue."""
    edge = blocks * 1024
    tiling = make_tiling(stride=512, overlap=128, halo=0, size_multiple=4, block=1024)
    tissue, near = np.ones((edge // 512,) * 2, bool), np.ones((edge // 64 + 1,) * 2, bool)
    plan = RunPlan("simulated", "0", Sampling(0, 1.0, 0.5, (edge, edge)), tiling, (0, 0, edge, edge), tissue, near)
    return Job(plan, 0.5, (), (), (), "cpu")


def calls_to_build(blocks: int) -> int:
    """Python functions that are called while the graph of `blocks` x `blocks` blocks is built."""
    job, count = plain_job(blocks), 0

    def counting(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counting)
    try:
        build_graph(job, ahead=LOCAL_AHEAD)
    finally:
        sys.setprofile(None)
    return count


def test_the_work_of_building_a_graph_grows_with_the_blocks_and_no_faster() -> None:
    small, large = calls_to_build(8), calls_to_build(24)
    assert small > 0
    assert large / small < 1.1 * 9


def test_a_scheduler_is_told_what_goes_first() -> None:
    graph = build_graph(plain_job(3))
    (layer,) = graph.annotated(on_gpu=True).layers.values()
    priority, resources = layer.annotations["priority"], layer.annotations["resources"]
    assert [priority(key) for key in graph.generates] == [-n for n in range(9)]
    assert {priority(key) for key in graph.writes} == {1}
    assert [key for key in graph.tasks if resources(key)] == list(graph.generates)
    assert "resources" not in graph.annotated(on_gpu=False).layers["run"].annotations


def test_without_bonds_blocks_pile_up(ragged: Job) -> None:
    # what the bonds are there for: if Dask's own order ever holds this few, they can go
    run_in_threads(build_graph(ragged), lambda written: None)
    assert Held.most > BOUND


def test_bonds_leave_no_block_out_when_some_are_finished(ragged: Job) -> None:
    blocks = [(b.row, b.col) for b in ragged.plan.blocks()]
    finished = set(blocks[::3])
    seen: list[Written] = []
    run_in_threads(build_graph(ragged, finished, ahead=LOCAL_AHEAD), seen.append)
    assert sorted((w.row, w.col) for w in seen) == [b for b in blocks if b not in finished]
    assert 1 < Held.most <= BOUND


def test_a_cluster_goes_row_by_row_too(ragged: Job) -> None:
    from distributed import Client, LocalCluster

    seen: list[Written] = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        run_on_cluster(build_graph(ragged), seen.append, client)
    assert len(seen) == len(list(ragged.plan.blocks()))
    assert 1 < Held.most <= BOUND


def test_the_dashboard_of_a_scheduler_of_ones_own_is_told_and_answers() -> None:
    from urllib.request import urlopen

    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        connect(cluster.scheduler_address, 1) as client,
    ):
        told = dashboard_of(client)
        assert told is not None and f":{cluster.scheduler.services['dashboard'].port}/" in told
        with urlopen(told, timeout=10) as page:
            assert page.status == 200
        cluster.scheduler.services.clear()  # as a scheduler begun with --no-dashboard tells it
        assert dashboard_of(client) is None


def test_dask_knows_what_a_block_holds() -> None:
    # or it would take a block for some bytes, and have workers send it to one another to be written
    blender = blend_pieces({}, Frame(4, 64, 16, False, False))
    assert blender.pixels is not None
    generated = Generated((Stained(blender.pixels, blender.heads, blender.tails),) * 2, 1, frozenset(), Times())
    tails = take_tails(generated)
    pixels, heads = 3 * 256 * 256, 2 * (4 * 3 * 16 * 256)
    strips = 2 * (2 * 3 * 16 * 256) + 3 * 16 * 16
    assert 2 * strips < sizeof(tails) < 2 * strips + 500
    assert 2 * (pixels + heads + strips) < sizeof(generated) < 2 * (pixels + heads + strips) + 500
