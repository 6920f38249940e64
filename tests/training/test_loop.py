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
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.data.made_patches import make_mist, save, tissue
from tests.training.made_runs import tiny_run
from wsistain.config import TrainConfig, dump_yaml, load_config
from wsistain.errors import ConfigError, DataError, OutputError, TrainingError
from wsistain.systems import cyclegan, pix2pix
from wsistain.training import loop
from wsistain.training.checkpoint import find_checkpoints
from wsistain.training.folder import lasting_values, may_steer
from wsistain.training.loop import train
from wsistain.weights.file import load_network, read_header


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _numbers(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in _lines(run)]


def test_a_run_leaves_what_it_promises(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, licence="CC0-1.0")
    weights = train(cfg, tmp_path, tiny=True)
    assert weights == tmp_path / "weights.safetensors"
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in _lines(tmp_path)] == [0, 0, 1, 2, 2, 3]
    assert [line["lr"] for line in _lines(tmp_path)] == pytest.approx([2e-4] * 3 + [4e-4 / 3] * 2 + [2e-4 / 3])
    assert {"gan", "l1", "d"} < set(_lines(tmp_path)[0])
    assert (tmp_path / "samples" / "step_000006.jpg").is_file()
    assert list((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.rglob("*.part"))
    header = read_header(weights)
    assert (header.system, header.markers, header.step, header.licence) == ("pix2pix", ["ER"], 6, "CC0-1.0")
    assert (header.mpp, header.tile_px, header.size_multiple, header.norm) == (0.4661, 64, 16, "frozen")
    assert header.training_data.startswith("5 mist patches of 2 slides") and header.note == ""
    assert json.loads((tmp_path / "data.json").read_text())["slides_in_both"] == []
    network, _ = load_network(weights)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_the_resolved_configuration_trains_the_same_run_again(tmp_path: Path, patches: Path) -> None:
    train(tiny_run(patches), tmp_path / "a", tiny=True)
    train(load_config(TrainConfig, tmp_path / "a" / "config.yaml"), tmp_path / "b", tiny=True)
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()
    train(tiny_run(patches, seed=1), tmp_path / "c", tiny=True)
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() != (
        tmp_path / "c" / "weights.safetensors"
    ).read_bytes()


class _KilledError(RuntimeError):
    pass


@pytest.mark.parametrize("system", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch, system: str, stop: int
) -> None:
    cfg = tiny_run(patches, system=system, steps=9, checkpoint_every=3, data={"stain_jitter": 0.5})
    train(cfg, tmp_path / "whole", tiny=True)
    original = loop.check_finite

    def killed(healthy: Any, values: Any, terms: Any, done: int, *rest: Any) -> None:
        if done > stop:
            raise _KilledError
        original(healthy, values, terms, done, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_finite", killed)
        with pytest.raises(_KilledError):
            train(cfg, tmp_path / "broken", tiny=True)
    assert len(find_checkpoints(tmp_path / "broken" / "checkpoint")) == stop // 3
    train(cfg, tmp_path / "broken", tiny=True, resume=True)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert (whole / "weights.safetensors").read_bytes() == (broken / "weights.safetensors").read_bytes()
    assert _numbers(whole) == _numbers(broken)
    last = find_checkpoints(whole / "checkpoint")[-1].name
    for name in ("parameters", "optimizers", "process_0"):
        a, b = (load_file(run / "checkpoint" / last / f"{name}.safetensors") for run in (whole, broken))
        assert a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def test_a_run_survives_kill_9(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, system="cyclegan", steps=48, checkpoint_every=3)
    (tmp_path / "cfg.yaml").write_text(dump_yaml(cfg))
    command = [
        sys.executable,
        "-m",
        "wsistain",
        "train",
        str(tmp_path / "cfg.yaml"),
        "--tiny",
        "-o",
        str(tmp_path / "b"),
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while len(find_checkpoints(tmp_path / "b" / "checkpoint")) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert int(find_checkpoints(tmp_path / "b" / "checkpoint")[-1].name[5:]) < 48
    assert "training is not finished" in read_header(tmp_path / "b" / "weights.safetensors").note
    train(cfg, tmp_path / "b", tiny=True, resume=True)
    train(cfg, tmp_path / "a", tiny=True)
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()
    assert _numbers(tmp_path / "a") == _numbers(tmp_path / "b")
    assert [line["step"] for line in _lines(tmp_path / "b")] == list(range(1, 49))


def test_a_finished_run_resumes_to_nothing(tmp_path: Path, patches: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = tiny_run(patches)
    before = train(cfg, tmp_path, tiny=True).read_bytes()
    assert train(cfg, tmp_path, tiny=True, resume=True).read_bytes() == before
    assert "nothing to do" in capfd.readouterr().err
    assert len(_lines(tmp_path)) == 6


def test_an_earlier_run_is_never_overwritten_unasked(tmp_path: Path, patches: Path) -> None:
    train(tiny_run(patches), tmp_path, tiny=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="--resume or replace it with --overwrite"):
        train(tiny_run(patches), tmp_path, tiny=True)
    with pytest.raises(OutputError, match="exclude each other"):
        train(tiny_run(patches), tmp_path, tiny=True, resume=True, overwrite=True)
    with pytest.raises(OutputError, match=r"seed was 0 and is 5"):
        train(tiny_run(patches, seed=5), tmp_path, tiny=True, resume=True)
    train(tiny_run(patches, seed=5, steps=3), tmp_path, tiny=True, overwrite=True)
    assert len(_lines(tmp_path)) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_does_not_change_numbers_may_change_on_resume(tmp_path: Path, patches: Path) -> None:
    train(tiny_run(patches, checkpoint_every=2), tmp_path, tiny=True)
    state = find_checkpoints(tmp_path / "checkpoint")[-1] / "state.json"
    begun_before = json.loads(state.read_text())
    begun_before["run"]["data"]["any_stain"] = False  # what is only checked was once a part of it
    state.write_text(json.dumps(begun_before))
    assert train(tiny_run(patches, checkpoint_every=3, device="auto"), tmp_path, tiny=True, resume=True).is_file()


def test_what_data_are_to_a_run_gets_no_new_key_that_would_strand_those_of_before() -> None:
    begun_with = {
        "layout", "pairing", "load_px", "crop_px", "flip", "mpp", "stain_jitter", "split", "val_share", "split_seed", "masks",
        "filter", "shrink_in_decay",
    }  # fmt: skip
    now = lasting_values(tiny_run(Path("patches")))["data"]
    assert {key for key in now if not may_steer(f"data.{key}")} <= begun_with


def test_bfloat16_trains_and_saves_float32(tmp_path: Path, patches: Path) -> None:
    weights = train(tiny_run(patches, system="cyclegan", precision="bfloat16"), tmp_path, tiny=True)
    assert {t.dtype for t in load_file(weights).values()} == {torch.float32}
    assert all(torch.isfinite(t).all() for t in load_file(weights).values())
    reference = tmp_path / "float32"
    train(tiny_run(patches, system="cyclegan"), reference, tiny=True)
    for low, high in zip(_lines(tmp_path), _lines(reference), strict=True):
        assert low["cycle"] == pytest.approx(high["cycle"], rel=0.03)
        assert low["cycle"] != high["cycle"]


def test_the_exponential_mean_is_what_is_saved(tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_run(patches, system="cyclegan", steps=6, checkpoint_every=3)
    plain = load_file(train(cfg, tmp_path / "plain", tiny=True))
    monkeypatch.setattr(cyclegan.CycleGAN, "ema_decay", 0.5, raising=False)
    mean = load_file(train(cfg, tmp_path / "mean", tiny=True))
    assert all((plain[n] != t).any() for n, t in mean.items() if "weight" in n)
    last = find_checkpoints(tmp_path / "mean" / "checkpoint")[-1]
    parameters = load_file(last / "parameters.safetensors")
    for name, tensor in mean.items():
        assert torch.equal(parameters[f"ema/{name}"], tensor)
        assert torch.equal(parameters[f"parameter/G_ihc.{name}"], plain[name])


def test_a_loss_that_is_not_finite_stops_the_run_by_name(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pix2pix.Pix2Pix.training_step

    def broken(self: Any, batch: Any, progress: Any, update: Any) -> dict[str, torch.Tensor]:
        terms = original(self, batch, progress, update)
        return {**terms, "l1": terms["l1"] * float("nan")} if progress.step == 4 else terms

    monkeypatch.setattr(pix2pix.Pix2Pix, "training_step", broken)
    with pytest.raises(TrainingError, match=r"not finite by step 5 \(l1\); lower the learning rate"):
        train(tiny_run(patches), tmp_path, tiny=True)
    assert [p.name for p in find_checkpoints(tmp_path / "checkpoint")] == ["step_00000003"]


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), TrainingError, r"not enough memory .* lower batch_size \(2\)"),
        (OSError(28, "No space left on device"), OutputError, "the disk is full; free .* go on with --resume"),
        (SafetensorError("I/O error: No space left"), OutputError, "make room and go on with --resume"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), TrainingError, "lower data.workers"),
        (RuntimeError("a fault of ours"), RuntimeError, "a fault of ours"),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_sentence_and_the_run_can_go_on(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, kind: type[Exception], text: str
) -> None:
    original = loop.write_weights

    def fail(output: Path, system: Any, ema: Any, header: Any, step: int, steps: int) -> None:
        if step == steps:
            raise fault
        original(output, system, ema, header, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_weights", fail)
        with pytest.raises(kind, match=text):
            train(tiny_run(patches), tmp_path, tiny=True)
    assert read_header(tmp_path / "weights.safetensors").step == 3
    train(tiny_run(patches), tmp_path, tiny=True, resume=True)
    assert len(_lines(tmp_path)) == 6
    assert (read_header(tmp_path / "weights.safetensors").step, read_header(tmp_path / "weights.safetensors").note) == (
        6,
        "",
    )


def test_crops_that_the_network_cannot_take_are_refused_with_one_that_it_can(tmp_path: Path, patches: Path) -> None:
    with pytest.raises(ConfigError, match=r"crop_px 56 is not a multiple of 16, as pix2pix needs; 64 would be"):
        train(tiny_run(patches, data={"crop_px": 56}), tmp_path, tiny=True)


def test_a_resized_patch_is_coarser_in_the_header(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, steps=1, data={"load_px": 72, "mpp": 0.5})
    assert read_header(train(cfg, tmp_path, tiny=True)).mpp == pytest.approx(0.5 * 96 / 72, abs=1e-6)


def test_unreadable_patches_end_the_run_with_counts_names_and_a_list(tmp_path: Path) -> None:
    base = make_mist(tmp_path / "data", n_train=6) / "ER" / "TrainValAB" / "trainA"
    files = sorted(base.iterdir())
    for path in files[:4]:
        path.write_bytes(b"damaged")
    with pytest.raises(DataError) as error:
        train(tiny_run(tmp_path / "data"), tmp_path / "run", tiny=True)
    text = str(error.value)
    assert "4 files of 6 patches cannot be used" in text
    assert all(f.name in text for f in files[:3]) and files[3].name not in text
    listed = (tmp_path / "run" / "unreadable.txt").read_text()
    assert all(str(f) in listed for f in files[:4]) and str(files[4]) not in listed
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["unreadable.txt"]


def test_damage_that_only_decoding_shows_names_the_patch(tmp_path: Path) -> None:
    base = make_mist(tmp_path / "data", n_train=1, px=256) / "ER" / "TrainValAB" / "trainA"
    (path,) = base.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=f"{path.name} cannot be decoded"):
        train(tiny_run(tmp_path / "data"), tmp_path / "run", tiny=True)


def test_bad_data_and_options_leave_nothing_behind(tmp_path: Path, patches: Path) -> None:
    cases: list[tuple[TrainConfig, type[Exception], str]] = [
        (tiny_run(tmp_path / "absent"), DataError, "there is no folder"),
        (tiny_run(patches, marker="PR", data={"root": str(patches / "x")}), DataError, "there is no folder"),
        (tiny_run(patches, system="pixpix"), ConfigError, "did you mean 'pix2pix'"),
        (tiny_run(patches, marker="CD3"), ConfigError, "marker 'CD3' is not known"),
        (tiny_run(patches, options={"lrr": 1}), ConfigError, "lrr is not a known key; did you mean 'lr'"),
        (tiny_run(patches, options={"weights": {"gan": "much"}}), ConfigError, "weights.gan"),
    ]
    for cfg, kind, text in cases:
        with pytest.raises(kind, match=text):
            train(cfg, tmp_path / "run", tiny=True)
        assert not (tmp_path / "run").exists()


def test_crops_larger_than_patches_are_refused(tmp_path: Path) -> None:
    make_mist(tmp_path / "data", px=48)
    with pytest.raises(DataError, match="patches of 48 px are smaller than the crop 64"):
        train(tiny_run(tmp_path / "data"), tmp_path / "run", tiny=True)
    save(tissue(0, 96)[0], tmp_path / "data" / "ER" / "TrainValAB" / "trainA" / "trainSlide0_9_9.png")
    save(tissue(0, 96)[1], tmp_path / "data" / "ER" / "TrainValAB" / "trainB" / "trainSlide0_9_9.png")
    with pytest.raises(DataError, match="needs patches of one size, found 48 x 48, 96 x 96"):
        train(tiny_run(tmp_path / "data", data={"load_px": 72}), tmp_path / "run", tiny=True)


def test_masks_of_the_data_reach_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_mist(tmp_path / "data", n_train=2, n_val=2)
    for part in ("train", "val"):
        for path in (data / "ER" / "TrainValAB" / f"{part}A").iterdir():
            save((tissue(3, 96)[0][..., 0] > 200).astype("uint8") * 255, data / "masks" / path.name)
    seen = []
    original = pix2pix.Pix2Pix.training_step

    def watch(self: Any, batch: Any, progress: Any, update: Any) -> dict[str, torch.Tensor]:
        seen.append(batch.mask)
        return original(self, batch, progress, update)

    monkeypatch.setattr(pix2pix.Pix2Pix, "training_step", watch)
    train(tiny_run(data, steps=1, data={"masks": "masks"}), tmp_path / "run", tiny=True)
    (mask,) = seen
    assert mask.shape == (2, 1, 64, 64) and set(mask.unique().tolist()) == {0.0, 1.0}


def test_what_helps_against_a_full_device_depends_on_the_system(patches: Path) -> None:
    ot = tiny_run(patches, system="ot_stainnet", options={"model": {"checkpointing": False}})
    text = loop.out_of_memory(ot, "cuda:0")
    assert text.index("options.model.checkpointing") < text.index("options.turbo_steps") < text.index("data.crop_px")
    assert "bfloat16" not in loop.out_of_memory(ot.model_copy(update={"precision": "bfloat16"}), "cuda:0")
    cut = loop.out_of_memory(tiny_run(patches, system="cut", batch_size=4), "cuda:0")
    assert "options" not in cut and "batch_size (4)" in cut
