import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.data.made_patches import make_mist
from tests.training.made_runs import tiny_run
from wsistain.config import dump_yaml
from wsistain.errors import TrainingError
from wsistain.training.loop import train
from wsistain.training.processes import derived_seed, make_update, seed_everything, start_processes


def test_seeds_differ_by_every_part() -> None:
    seeds = {derived_seed(s, k, step, p) for s in (0, 1) for k in (0, 1) for step in range(200) for p in (0, 1)}
    assert len(seeds) == 2 * 2 * 200 * 2
    seed_everything(3, 4)
    first = torch.rand(3)
    seed_everything(3, 4)
    assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"device": "cuda"}, "no CUDA device is here"),
        ({"device": "cuda:3"}, "no CUDA device is here"),
        ({"device": "meta"}, "wanted auto, cpu, cuda"),
        ({"device": "toaster"}, "wanted auto, cpu, cuda"),
        ({"device": "cpu", "precision": "float16"}, "float16 needs a CUDA device"),
    ],
)
def test_a_device_that_is_not_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], text: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=text):
        start_processes(tiny_run(tmp_path, **keys))


def test_runs_of_one_interpreter_may_differ_in_precision(tmp_path: Path) -> None:
    for precision, wanted in (("float32", "no"), ("bfloat16", "bf16"), ("float32", "no")):
        assert start_processes(tiny_run(tmp_path, precision=precision)).mixed_precision == wanted


def test_an_update_clears_steps_and_clips(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    update = make_update(start_processes(tiny_run(tmp_path)), clip_norm=0.5)
    for _ in range(2):
        nn.init.zeros_(layer.weight)
        update(optimizer, 10 * layer(torch.tensor([[3.0, 4.0]])).sum())
        assert layer.weight.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_a_forward_after_an_update_sees_the_new_weights_under_autocast(tmp_path: Path) -> None:
    accelerator = start_processes(tiny_run(tmp_path, precision="bfloat16"))
    layer = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    x = torch.ones(1, 4)
    with accelerator.autocast():
        before = layer(x)
        make_update(accelerator)(optimizer, before.float().sum())
        after = layer(x)
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after.float(), x @ layer.weight.T, rtol=0.02, atol=0.02)
    assert (after.float() - before.float()).abs().min() > 2


def _terms(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("gan", "cycle", "identity", "d")} for line in lines]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    root = make_mist(tmp_path / "data", n_train=4)
    options = {"pool_size": 50}  # never full: what is shown does not depend on chance
    cfg = tiny_run(root, system="cyclegan", batch_size=1, steps=4, options=options, checkpoint_every=2)
    (tmp_path / "cfg.yaml").write_text(dump_yaml(cfg))
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("one_process.py")
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                str(script),
                str(tmp_path / "cfg.yaml"),
                str(tmp_path / "two"),
                str(tmp_path / f"rank{r}"),
            ],
            env={**environment, "RANK": str(r), "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    first, second = (load_file(tmp_path / f"rank{r}" / "parameters.safetensors") for r in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())

    train(cfg.model_copy(update={"batch_size": 2}), tmp_path / "one", tiny=True)
    one, two = (load_file(tmp_path / run / "weights.safetensors") for run in ("one", "two"))
    # The same patches a step, means over halves. Sums in another order differ in the last bit, and Adam turns a
    # gradient of almost 0 (biases under a norm) into a full step, so kernels are compared on the mean.
    for name, tensor in one.items():
        if name.endswith("weight"):
            assert (two[name] - tensor).abs().mean() < 2e-6
    for a, b in zip(_terms(tmp_path / "one"), _terms(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=2e-4)
    (last,) = (tmp_path / "two" / "checkpoint").glob("step_00000004")
    assert {p.name for p in last.glob("process_*")} == {"process_0.safetensors", "process_1.safetensors"}


@pytest.mark.parametrize(
    ("launcher", "port", "n"),
    [
        (["torch.distributed.run", "--nproc-per-node", "2"], "--master-port", 2),
        pytest.param(  # which starts several processes only on GPUs, and on CPUs with MPI
            ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"],
            "--main_process_port",
            1,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["torchrun", "accelerate"],
)
def test_the_launchers_of_the_pages_train(tmp_path: Path, launcher: list[str], port: str, n: int) -> None:
    cfg = tiny_run(make_mist(tmp_path / "data", n_train=4), steps=2, trackers=[])
    (tmp_path / "cfg.yaml").write_text(dump_yaml(cfg))
    train_it = ["-m", "wsistain", "train", str(tmp_path / "cfg.yaml"), "-o", str(tmp_path / "run"), "--tiny"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, port, str(_free_port()), *train_it],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights: ") == 1 and f"({n} process" in done.stderr
    (last,) = (tmp_path / "run" / "checkpoint").glob("step_00000002")
    assert len(list(last.glob("process_*"))) == n
