"""A real Dask scheduler and workers, each its own process on the loopback interface: same bytes, whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pytest

from tests.pipeline.slides import small_config, tissue_picture, tree_hash, write_slide
from wsistain.errors import WsistainError
from wsistain.pipeline.engine import connect, has_gpus, most_on_one_machine
from wsistain.pipeline.run import run

PATIENCE = 240.0
SLOW = Path(__file__).parent / "slow_worker.py"


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: list[subprocess.Popen] = []
        (folder / "stained_by").touch()
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._wait_for_address()

    def _start(self, *arguments: str) -> subprocess.Popen:
        root = Path(__file__).parents[2]
        # workers run elsewhere than the client: relative paths must not matter
        env = {**os.environ, "PYTHONPATH": str(root), "STAINED_BY": str(self.folder / "stained_by")}
        log = (self.folder / f"{arguments[0]}{len(self.processes)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, env=env, cwd=self.folder
        )
        log.close()
        self.processes.append(process)
        return process

    def _wait_for_address(self) -> str:
        log = self.folder / "scheduler0.log"
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for line in log.read_text().splitlines():
                if "Scheduler at:" in line:
                    return line.split()[-1]
            time.sleep(0.1)
        raise TimeoutError(log.read_text())

    def worker(self, *more: str) -> subprocess.Popen:
        """A worker without a nanny, so that dead is dead."""
        options = ["--no-nanny", "--no-dashboard", "--nthreads", "2", "--memory-limit", "0", "--preload", str(SLOW)]
        return self._start("worker", self.address, *options, *more)

    def wait_for_workers(self, n: int) -> None:
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=PATIENCE)

    def stained_by(self) -> set[int]:
        return {int(pid) for pid in (self.folder / "stained_by").read_text().split()}

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return [write_slide(folder / f"case{n}.tiff", tissue_picture(700, 700, seed=n)) for n in (1, 2)]


@pytest.fixture(scope="module")
def expected(slides, tmp_path_factory):
    """What one process makes of each slide."""
    out = tmp_path_factory.mktemp("expected")
    for slide in slides:
        run(slide, "ER", out, config=small_config())
    return [tree_hash(out / f"{slide.stem}.ER.ome.zarr") for slide in slides]


def test_two_runs_share_a_cluster_and_only_gpu_workers_stain(slides, expected, cluster, tmp_path, monkeypatch):
    gpu = cluster.worker("--resources", "GPU=1")
    cluster.worker()
    cluster.wait_for_workers(2)
    with connect(cluster.address, 1) as client:
        assert has_gpus(client) and most_on_one_machine(client) == 2
    monkeypatch.chdir(tmp_path)
    reports, seen = {}, {slide: [] for slide in slides}

    def stain(slide):
        (reports[slide],) = run(
            slide, "ER", "out", config=small_config(), scheduler=cluster.address, on_event=seen[slide].append
        )

    threads = [threading.Thread(target=stain, args=(slide,)) for slide in slides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for slide, wanted in zip(slides, expected, strict=True):
        assert tree_hash(tmp_path / "out" / f"{slide.stem}.ER.ome.zarr") == wanted
        assert reports[slide].tiles_generated == reports[slide].tiles_planned
        assert any(0 < e.tiles < e.total_tiles for e in seen[slide]), "no worker told of its tiles"
        assert seen[slide][-1].tiles == seen[slide][-1].total_tiles == reports[slide].tiles_planned
    assert cluster.stained_by() == {gpu.pid}


def test_workers_may_die_and_join_and_the_scheduler_may_die(slides, expected, cluster, tmp_path):
    first = cluster.worker()
    cluster.wait_for_workers(1)
    late = []
    (tmp_path / "hold").write_text("60")

    def trouble(event):
        if event.done == 1 and not late:
            late.append(cluster.worker())
            cluster.wait_for_workers(2)
            first.kill()
            (tmp_path / "hold").unlink()

    (report,) = run(slides[0], "ER", tmp_path / "a", config=small_config(), scheduler=cluster.address, on_event=trouble)
    assert tree_hash(tmp_path / "a" / "case1.ER.ome.zarr") == expected[0]
    assert report.blocks == 9 and first.wait(PATIENCE) == -signal.SIGKILL
    assert cluster.stained_by() == {first.pid, late[0].pid}

    (tmp_path / "hold").write_text(str(len((tmp_path / "stained_by").read_text().split()) + 60))

    def end_of_scheduler(event):
        if event.done == 1:
            cluster.scheduler.kill()

    with pytest.raises(WsistainError, match="--resume"):
        run(
            slides[1], "ER", tmp_path / "b", config=small_config(), scheduler=cluster.address, on_event=end_of_scheduler
        )
    assert not (tmp_path / "b" / "case2.ER.ome.zarr" / "zarr.json").exists()
    (report,) = run(slides[1], "ER", tmp_path / "b", config=small_config(), resume=True)
    assert 1 <= report.resumed_blocks < 9
    assert tree_hash(tmp_path / "b" / "case2.ER.ome.zarr") == expected[1]
    assert dask.config.get("scheduler", None) is None  # of whoever called: a dead scheduler is not its default
