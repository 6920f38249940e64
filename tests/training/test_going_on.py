"""A run that is stopped, lengthened, steered or begun from another one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.made_runs import tiny_run
from wsistain.cli import main
from wsistain.config import TrainConfig, dump_yaml, load_config
from wsistain.data.splits import slide_hash
from wsistain.errors import ConfigError, OutputError, TrainingError, WeightsError
from wsistain.runtime.lock import locked
from wsistain.systems import cyclegan, pix2pix
from wsistain.training import loop, stopping
from wsistain.training.checkpoint import find_checkpoints, read_state
from wsistain.training.loop import train
from wsistain.training.stopping import Stopped
from wsistain.weights.file import read_header


@pytest.fixture(scope="module")
def ended(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A run of three steps that has ended, and its configuration as it was written."""
    run = tmp_path_factory.mktemp("ended")
    train(tiny_run(patches, steps=3), run, tiny=True)
    return run, (run / "config.yaml").read_bytes()


def _leave(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


def _file(cfg: TrainConfig, folder: Path) -> str:
    path = folder / "cfg.yaml"
    path.write_text(dump_yaml(cfg))
    return str(path)


def _interrupted_at(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process get a signal while it trains step `step` (from 0)."""
    original = pix2pix.Pix2Pix.training_step

    def step_and_signal(self: Any, batch: Any, progress: Any, update: Any) -> dict[str, torch.Tensor]:
        if progress.step == step:
            os.kill(os.getpid(), number)
        return original(self, batch, progress, update)

    monkeypatch.setattr(pix2pix.Pix2Pix, "training_step", step_and_signal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_the_step_and_goes_on_by_its_folder_alone(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    cfg = tiny_run(patches, steps=5, checkpoint_every=100, data={"stain_jitter": 0.3})
    whole = train(cfg, tmp_path / "whole", tiny=True, kept=["checkpoint_every"])
    run, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        _interrupted_at(2, number, patch)
        code, said = _leave(["train", _file(cfg, tmp_path), "-o", str(run), "--tiny"], capsys)
    assert code == 130
    assert f"step 3 of 5 is kept, go on with 'wsistain train --resume --output {run}'" in said
    assert [p.name for p in find_checkpoints(run / "checkpoint")][-1] == "step_00000003"
    assert read_header(run / "weights.safetensors").note == "training is not finished: step 3 of 5"
    code, said = _leave(["train", "--resume", "--output", str(run)], capsys)
    assert code == 0 and f"settings: {run / 'config.yaml'}" in said
    assert (run / "weights.safetensors").read_bytes() == whole.read_bytes()
    signal.signal(signal.SIGTERM, before)


def test_a_second_stop_ends_the_step_under_way(tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(self: Any, batch: Any, progress: Any, update: Any) -> dict[str, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one ends the step")

    monkeypatch.setattr(pix2pix.Pix2Pix, "training_step", twice)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(tiny_run(patches), tmp_path / "run", tiny=True)
    assert not isinstance(stop.value, Stopped) and not find_checkpoints(tmp_path / "run" / "checkpoint")


def test_a_longer_run_at_a_constant_rate_equals_one_that_was_never_shorter(tmp_path: Path, patches: Path) -> None:
    constant = {"epochs": 1, "decay_epochs": 0}
    whole = train(tiny_run(patches, steps=7, **constant), tmp_path / "whole", tiny=True)
    train(tiny_run(patches, steps=3, **constant), tmp_path / "run", tiny=True)
    longer = train(tiny_run(patches, steps=7, **constant), tmp_path / "run", tiny=True, resume=True)
    same = [load_file(path) for path in (whole, longer)]
    assert all(torch.equal(tensor, same[1][name]) for name, tensor in same[0].items())
    header = read_header(longer)
    assert (header.step, header.note) == (7, "") and header.training_data.endswith("; steps 3 until step 3")


def test_what_a_run_may_be_steered_by_is_used_said_and_remembered(
    tmp_path: Path, patches: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_run(patches, steps=3), tmp_path, tiny=True)
    changed = tiny_run(
        patches, steps=6, options={"lr": 1e-5, "weights": {"l1": 50.0}}, precision="bfloat16", batch_size=1
    )
    train(changed, tmp_path, tiny=True, resume=True)
    said = capfd.readouterr().err
    assert "from step 3 on options.lr is 1e-05 (was 0.0002)" in said and "precision is bfloat16 (was float32)" in said
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == pytest.approx(2e-4) and max(rates[3:]) <= 1e-5
    (turn,) = read_state(find_checkpoints(tmp_path / "checkpoint")[-1])["history"]
    assert turn["from_step"] == 3 and turn["changes"]["options.weights.l1"] == [100.0, 50.0]
    with pytest.raises(OutputError, match=r"options.ngf was .* start another run from its weights with start_from"):
        train(tiny_run(patches, options={"ngf": 6}), tmp_path, tiny=True, resume=True)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"steps": 2}, "has 3 steps already, and 2 are asked for"),
        (
            {"steps": 3, "options": {"lr": 1e-5}},
            "ended after 3 steps, so options.lr would change nothing; --set steps=6",
        ),
        ({"steps": 3, "batch_size": 1, "precision": "bfloat16"}, "batch_size, precision would change nothing"),
        (
            {"steps": 6, "start_from": "other"},
            "began from nothing and goes on from its own checkpoint, so start_from other",
        ),
    ],
)
def test_what_no_step_would_follow_is_refused_and_the_record_stays(
    ended: tuple[Path, bytes], patches: Path, keys: dict[str, Any], text: str
) -> None:
    run, record = ended
    with pytest.raises(ConfigError, match=text):
        train(tiny_run(patches, **keys), run, tiny=True, resume=True)
    assert (run / "config.yaml").read_bytes() == record and read_header(run / "weights.safetensors").step == 3


def test_a_run_whose_rate_was_far_too_high_goes_on_as_the_error_says(
    tmp_path: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _file(tiny_run(patches, options={"lr": 1e16}, checkpoint_every=1), tmp_path)
    run = str(tmp_path / "run")
    code, said = _leave(["train", path, "-o", run, "--tiny"], capsys)
    assert code == 2 and "lower the learning rate (now 1e+16)" in said and "go on with --resume" in said
    code, said = _leave(["train", "--resume", "-o", run, "--set", "options.lr=1e-4"], capsys)
    assert code == 0, said
    assert read_header(Path(run) / "weights.safetensors").step == 6


@pytest.mark.parametrize("system", ["pix2pix", "cyclegan", "cut", "usigan"])
def test_every_system_begins_from_weights_alone(tmp_path: Path, patches: Path, system: str) -> None:
    first = train(tiny_run(patches, system=system, steps=1), tmp_path / "a", tiny=True)
    rate = {"options": {"lr": 1e-30}, "seed": 5, "steps": 1}
    second = train(tiny_run(patches, system=system, start_from=str(tmp_path / "a"), **rate), tmp_path / "b", tiny=True)
    a, b = load_file(first), load_file(second)
    trained = [n for n in a if "running" not in n and "num_batches" not in n]
    for name in trained:  # USIGAN's spectral norms: the same kernels, each to its own scale
        assert (
            torch.equal(a[name], b[name]) or torch.cosine_similarity(a[name].flatten(), b[name].flatten(), 0) > 0.9999
        )
    assert f"began from weights of {system} for ER at step 1" in read_header(second).training_data


def test_a_run_begins_from_all_networks_of_another_and_its_optimisers(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(tmp_path / "a")
    train(tiny_run(patches, system="cyclegan", steps=2), tmp_path / "a", tiny=True)
    stored = load_file(find_checkpoints(tmp_path / "a" / "checkpoint")[-1] / "parameters.safetensors")
    seen: list[tuple[bool, bool]] = []
    original = cyclegan.CycleGAN.training_step

    def watch(self: Any, batch: Any, progress: Any, update: Any) -> dict[str, torch.Tensor]:
        same = all(torch.equal(p, stored[f"parameter/{n}"]) for n, p in self.named_parameters())
        seen.append((same, bool(self.optimizers["G"].state)))
        return original(self, batch, progress, update)

    monkeypatch.setattr(cyclegan.CycleGAN, "training_step", watch)
    for start_with in ("networks", "all"):
        cfg = tiny_run(patches, system="cyclegan", steps=1, seed=3, start_from=source, start_with=start_with)
        train(cfg, tmp_path / start_with, tiny=True)
    assert seen == [(True, False), (True, True)]
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        train(tiny_run(patches, start_from=str(patches), start_with="all"), tmp_path / "c", tiny=True)
    with pytest.raises(WeightsError, match="does not fit"):
        train(tiny_run(patches, system="cut", start_from=source), tmp_path / "c", tiny=True)
    assert not (tmp_path / "c").exists()


def test_a_run_that_began_from_another_resumes_when_that_one_is_gone(tmp_path: Path, patches: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(train(tiny_run(patches, steps=1), tmp_path / "a", tiny=True).read_bytes())
    train(tiny_run(patches, steps=2, start_from=str(source)), tmp_path / "b", tiny=True)
    source.unlink()
    resumed = train(tiny_run(patches, steps=4, start_from=str(source)), tmp_path / "b", tiny=True, resume=True)
    assert read_header(resumed).step == 4


@pytest.mark.parametrize(
    "keys",
    [
        {"start_from": "a/weights.safetensors"},
        {"start_from": "a", "start_with": "networks"},
        {"system": "aligned", "options": {"start_from": "a/weights.safetensors"}},
    ],
)
def test_slides_that_the_first_weights_saw_are_seen_by_what_is_trained_from_them(
    tmp_path: Path, patches: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").write_text("trainSlide0_0_0\n")
    (tmp_path / "other").write_text("trainSlide1_1_0\n")
    kind = {"system": keys.get("system", "pix2pix"), "steps": 1, "licence": "CC-BY-NC-4.0"}
    first = train(tiny_run(patches, data={"names": "one"}, **kind), tmp_path / "a", tiny=True)
    run = {**kind, **keys, "licence": "unstated"}
    second = train(tiny_run(patches, data={"names": "other"}, **run), tmp_path / "b", tiny=True)
    run["steps"] = 2
    second = train(tiny_run(patches, data={"names": "other"}, **run), tmp_path / "b", tiny=True, resume=True)
    seen = [read_header(weights).slides for weights in (first, second)]
    assert seen == [[slide_hash("trainSlide0")], sorted([slide_hash("trainSlide0"), slide_hash("trainSlide1")])]
    told = read_header(second).training_data
    assert "start_with" in keys or ("began from weights of" in told and "licence CC-BY-NC-4.0" in told)


def test_a_folder_in_use_is_refused(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, steps=1)
    train(cfg, tmp_path, tiny=True)
    with locked(tmp_path, "held"):
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another process is training into"):
                train(cfg, tmp_path, tiny=True, **how)
    assert train(cfg, tmp_path, tiny=True, resume=True).is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--resume"], "--resume without a configuration needs --output"),
        (["--resume", "-o", "absent"], "holds no run to go on with"),
        (["cut", "--resume", "-o", "RUN"], "holds a run of pix2pix, and cut trains cut"),
        ([], "give a configuration"),
    ],
)
def test_what_cannot_go_on_is_said(
    tmp_path: Path, patches: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    train(tiny_run(patches, steps=1), tmp_path / "run", tiny=True)
    code, said = _leave(["train", *(str(tmp_path / "run") if a == "RUN" else a for a in arguments)], capsys)
    assert code == 2 and text in said


def test_what_is_set_beside_tiny_is_honoured(tmp_path: Path, patches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tiny_run(patches, steps=5000), tmp_path)
    sets = ["--set", "steps=70", "--set", "batch_size=3", "--set", "log_every=70", "--set", "data.crop_px=32"]
    sets += ["--set", "options.n_levels=2", "--set", "checkpoint_every=70"]
    code, said = _leave(["train", path, "-o", str(tmp_path / "run"), "--tiny", *sets], capsys)
    assert code == 0, said
    cfg = load_config(TrainConfig, tmp_path / "run" / "config.yaml")
    assert (cfg.steps, cfg.batch_size, cfg.data.crop_px) == (70, 3, 32)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    code, said = _leave(["train", "--resume", "-o", str(tmp_path / "run"), "--tiny", "--set", "steps=71"], capsys)
    assert code == 0 and read_header(tmp_path / "run" / "weights.safetensors").step == 71
    assert load_config(TrainConfig, tmp_path / "run" / "config.yaml").batch_size == 3


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), r"not enough memory to train"),
        (MemoryError(), r"not enough memory to train"),
        (RuntimeError("Kernel size can't be greater than actual input size"), "crops of 64 px are too small"),
    ],
)
def test_what_the_cpu_lacks_and_what_is_too_small_are_sentences(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, text: str
) -> None:
    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(pix2pix.Pix2Pix, "training_step", fail)
    with pytest.raises((TrainingError, ConfigError), match=text):
        train(tiny_run(patches), tmp_path, tiny=True)


@pytest.mark.parametrize(
    ("system", "crop"), [("usigan", 64), ("cut", 16), ("asp", 16), ("asp_dgrank", 16), ("miu_diff", 16)]
)
def test_crops_too_small_for_a_network_are_refused_with_one_that_would_do(
    tmp_path: Path, patches: Path, system: str, crop: int
) -> None:
    narrow: dict[str, Any] = {"ngf": 4, "ndf": 4, "head_width": 8}
    if system == "miu_diff":
        narrow = {"score": {"base": 32, "multipliers": [1], "n_blocks": 1, "attention": []}, "estimator": {"patch": 16}}
    data = {"crop_px": crop, "pairing": "none" if system in ("cut", "miu_diff") else "weak"}
    with pytest.raises(
        ConfigError, match=rf"data.crop_px {crop} is less than the \d+ px that {system} needs; \d+ would"
    ):
        train(tiny_run(patches, system=system, options=narrow, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


_HOLDS = """
import os, sys, time
from pathlib import Path
from wsistain.config import TrainConfig, load_config
from wsistain.training import loop, stopping

def main():
    original = loop.to_batch
    def told(samples, *rest, **keys):
        import multiprocessing
        pids = [p.pid for p in multiprocessing.active_children()]
        Path(sys.argv[3]).write_text(" ".join(map(str, pids)))
        return original(samples, *rest, **keys)
    loop.to_batch = told
    loop.train(load_config(TrainConfig, Path(sys.argv[1])), Path(sys.argv[2]), tiny=True, kept=["data.workers", "steps"])

if __name__ == "__main__":
    main()
"""


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what runs is read from /proc")
def test_no_decoding_process_outlives_a_run_that_is_killed(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, steps=100_000, data={"workers": 1}, log_every=1000)
    script, told = tmp_path / "run.py", tmp_path / "pids"
    script.write_text(_HOLDS)
    process = subprocess.Popen(
        [sys.executable, str(script), _file(cfg, tmp_path), str(tmp_path / "run"), str(told)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        while not (told.is_file() and told.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        pids = [int(word) for word in told.read_text().split()]
        assert pids and all(map(_is_alive, pids))
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while any(map(_is_alive, pids)):
        assert time.monotonic() < deadline, "decoding processes are left"
        time.sleep(0.01)


def test_the_loop_asks_nothing_of_signals_outside_the_main_thread(tmp_path: Path, patches: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(loop.train, tiny_run(patches, steps=1), tmp_path, tiny=True).result().is_file()


def test_a_signal_that_a_launcher_hands_on_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Place:
        num_processes, is_main_process, device = 2, False, "cpu"

        def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
            return tensor

    with stopping.stop_asked(Place()) as now:
        assert not now(10)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # SLURM told the process, then torchrun did
        assert now(10)
        monkeypatch.setattr(stopping, "_TOLD_TWICE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    Place.num_processes = 1
    with stopping.stop_asked(Place()), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
