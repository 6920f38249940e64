"""What goes wrong on other people's machines: nothing is lost, nothing half-done looks finished, and it is said."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuzzing import weights as made_weights
from tests.pipeline.slides import level0, small_config, tissue_picture, tree_hash, write_slide
from wsistain.errors import OutputError, SlideError, WeightsError, WsistainError
from wsistain.generators.device import Device
from wsistain.generators.load import find_generator
from wsistain.generators.network import NetworkGenerator
from wsistain.networks.facts import NetworkFacts
from wsistain.pipeline import engine
from wsistain.pipeline.run import run

ROOT = Path(__file__).parents[2]
NAME = "case.ER.ome.zarr"


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "case.tiff", tissue_picture(700, 700))


@pytest.fixture(scope="module")
def unbroken(slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    run(slide, "ER", out, config=small_config())
    return tree_hash(out / NAME)


def python(*arguments, **more):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=600, **more)


def at_block(number, action):
    """An `on_event` that acts once, when so many blocks are done."""
    acted = []

    def watch(event):
        if event.done == number and not acted:
            acted.append(event)
            action()

    return watch


def looks_finished(folder):
    return (folder / "zarr.json").exists()


def test_kills_at_random_moments_give_the_bytes_of_an_unbroken_run(slide, tmp_path):
    child = python("-m", "tests.pipeline.killing", slide, tmp_path, 8, 3)
    assert child.returncode == 0, child.stderr
    facts = json.loads(child.stdout)
    assert facts["kills"] == 8 and len(facts["moments"]) > 1
    assert all(digests == facts["unbroken"] for digests in facts["resumed"])


@pytest.mark.parametrize("done", [1, 9])
def test_a_full_disk_is_said_and_the_run_resumes(slide, unbroken, tmp_path, done):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))

    try:
        with pytest.raises(OutputError, match="cannot be written"):
            run(slide, "ER", tmp_path, config=small_config(), on_event=at_block(done, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not looks_finished(tmp_path / NAME)
    (report,) = run(slide, "ER", tmp_path, config=small_config(), resume=True)
    assert report.resumed_blocks >= done and tree_hash(tmp_path / NAME) == unbroken


def test_a_disk_that_is_really_full(slide, unbroken, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("a file system with a limit cannot be mounted here")
    try:
        with pytest.raises(OutputError, match="disk is full"):
            run(slide, "ER", small, config=small_config())
        assert not looks_finished(small / NAME)
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        run(slide, "ER", small, config=small_config(), resume=True)
        assert tree_hash(small / NAME) == unbroken
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_is_full_for_a_worker_is_one_sentence(slide, tmp_path):
    (tmp_path / "run.yaml").write_text(json.dumps(small_config().model_dump(mode="json")))

    def little_room():  # a journal fits, a shard does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    arguments = [
        "-m",
        "wsistain",
        "run",
        slide,
        "-o",
        tmp_path / "o",
        "--workers",
        "2",
        "--config",
        tmp_path / "run.yaml",
    ]
    child = python(*arguments, preexec_fn=little_room)
    assert child.returncode == 2, child.stderr
    said = [
        line for line in child.stderr.strip().splitlines() if "left" not in line
    ]  # how far it is, on a slow machine
    assert len(said) == 1 and "cannot be written" in said[0] and "--resume" in said[0], child.stderr


@pytest.mark.parametrize("how", ["removed", "replaced by a file", "a shard removed"])
def test_an_output_that_vanishes_is_an_error(slide, unbroken, tmp_path, how):
    def vanish():
        if how == "a shard removed":
            next(p for p in (tmp_path / NAME / "0").rglob("*") if p.is_file()).unlink()
            return
        (tmp_path / NAME).rename(tmp_path / "gone")
        while how == "replaced by a file" and not (tmp_path / NAME).is_file():
            try:
                (tmp_path / NAME).write_text("")
            except IsADirectoryError:  # a thread that was about to write has made the folder again
                shutil.rmtree(tmp_path / NAME, ignore_errors=True)

    with pytest.raises(OutputError):
        run(slide, "ER", tmp_path, config=small_config(), on_event=at_block(3, vanish))
    assert not looks_finished(tmp_path / NAME) and not (tmp_path / "case.ER.run.json").exists()
    if how == "a shard removed":
        run(slide, "ER", tmp_path, config=small_config(), resume=True)
        assert tree_hash(tmp_path / NAME) == unbroken


@contextmanager
def ordinary_user():
    """Nothing; root, who may write anywhere, is nobody meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_output_that_becomes_read_only_is_an_error_and_the_run_resumes(slide, unbroken):
    with tempfile.TemporaryDirectory() as name:  # everybody may enter it, unlike pytest's folders
        place = Path(name)
        place.chmod(0o777)
        mine = place / "case.tiff"
        mine.write_bytes(slide.read_bytes())
        mine.chmod(0o644)
        output = place / "out" / NAME

        def set_mode(mode):
            for folder in [output, *(p for p in output.rglob("*") if p.is_dir())]:
                folder.chmod(mode)

        with ordinary_user():
            with pytest.raises(OutputError, match="permission denied"):
                run(mine, "ER", place / "out", config=small_config(), on_event=at_block(2, lambda: set_mode(0o555)))
            with pytest.raises(OutputError, match="permission denied"):
                run(mine, "ER", place / "out", config=small_config(), resume=True)
            assert not looks_finished(output)
            set_mode(0o755)
            (report,) = run(mine, "ER", place / "out", config=small_config(), resume=True)
        assert report.resumed_blocks >= 2 and tree_hash(output) == unbroken


def test_an_output_folder_that_cannot_be_made_is_an_error(slide, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / NAME).write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path):
        with pytest.raises(OutputError):
            run(slide, "ER", place, config=small_config(), overwrite=True)
    assert (tmp_path / NAME).is_file()


def test_a_slide_that_is_cut_while_it_is_read_is_an_error_and_its_blocks_are_not_kept(slide, unbroken, tmp_path):
    mine = tmp_path / "case.tiff"
    mine.write_bytes(slide.read_bytes())
    cut = at_block(2, lambda: os.truncate(mine, mine.stat().st_size // 3))
    with pytest.raises(SlideError, match="changed while it was read"):
        run(mine, "ER", tmp_path, config=small_config(), on_event=cut)
    assert not looks_finished(tmp_path / NAME)
    mine.write_bytes(slide.read_bytes())
    (report,) = run(mine, "ER", tmp_path, config=small_config(), resume=True)
    assert report.unreadable_tiles == 0 and tree_hash(tmp_path / NAME) == unbroken


def damaged(slide, path):
    """A copy of the slide with two native tiles that cannot be decoded."""
    import tifffile

    raw = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        for k in (7, 21):
            start = page.dataoffsets[k]
            raw[start : start + 64] = bytes(64)
    path.write_bytes(raw)
    return path


def test_undecodable_tiles_are_glass_and_counted_even_over_an_interruption(slide, tmp_path):
    bad = damaged(slide, tmp_path / "case.tiff")
    (report,) = run(bad, "ER", tmp_path / "a", config=small_config(all_tiles=True))
    assert report.unreadable_tiles == 2
    stained, picture = level0(tmp_path / "a" / NAME), tissue_picture(700, 700)
    differs = (stained != picture).any(axis=2)
    assert differs.any() and (stained[differs] == 255).all()

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bad, "ER", tmp_path / "b", config=small_config(all_tiles=True), on_event=at_block(8, stop))
    (report,) = run(bad, "ER", tmp_path / "b", config=small_config(all_tiles=True), resume=True)
    assert report.resumed_blocks >= 8 and report.unreadable_tiles == 2
    assert tree_hash(tmp_path / "a" / NAME) == tree_hash(tmp_path / "b" / NAME)


class Small(NetworkGenerator):
    """A generator on a made-up device that holds `room` tiles at once."""

    room = 3

    def _forward(self, tiles, *args):
        if len(tiles) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._forward(tiles, *args)


class Blur(torch.nn.Conv2d):
    facts = NetworkFacts("frozen")


def test_a_batch_that_does_not_fit_on_the_device_is_halved():
    torch.manual_seed(0)
    generator = Small(Blur(3, 3, 3, padding=1), find_generator("identity", "ER"), device="cpu")
    tiles = np.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), dtype=np.uint8)
    places = [(k, 2 * k) for k in range(16)]
    assert np.array_equal(generator._forward_halving(tiles, places, ("ER",))[0], generator.stain(tiles, places))
    generator.room = 0
    with pytest.raises(WsistainError, match="not enough memory for one tile"):
        generator._forward_halving(tiles, places, ("ER",))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_is_refused_and_does_not_become_black(value):
    class Broken(Blur):
        def forward(self, x):
            y = super().forward(x)
            return torch.cat([y[..., :-1], torch.full_like(y[..., -1:], value)], dim=-1)

    generator = NetworkGenerator(Broken(3, 3, 1), find_generator("identity", "ER"), device="cpu")
    with pytest.raises(WeightsError, match="numbers that are not finite of these tiles"):
        generator.stain(np.zeros((2, 16, 16, 3), np.uint8), [(0, 0), (0, 16)])


def test_a_run_whose_device_runs_out_of_memory_says_so_and_resumes(slide, tmp_path, monkeypatch):
    (weights,) = made_weights(tmp_path)
    room = {"tiles": 3}
    begin, forward = NetworkGenerator.__init__, NetworkGenerator._forward

    def elsewhere(self, *args, device, **kwargs):
        begin(self, *args, device="cpu", **kwargs)
        self.device = "made-up device"  # so that the pipeline feeds it batches

    def in_little_room(self, tiles, *args):
        if len(tiles) > room["tiles"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, tiles, *args)

    monkeypatch.setattr(engine, "find_device", lambda wanted, **_: Device("made-up device", "made up"))
    monkeypatch.setattr(NetworkGenerator, "__init__", elsewhere)
    monkeypatch.setattr(NetworkGenerator, "_forward", in_little_room)
    monkeypatch.setattr(NetworkGenerator, "stain_markers", NetworkGenerator._forward_halving)
    config = small_config(weights=str(weights), norm="tile", batch_size=8)
    run(slide, "ER", tmp_path / "a", config=config)
    with pytest.raises(WsistainError, match="made-up device has not enough memory for one tile"):
        run(slide, "ER", tmp_path / "b", config=config, on_event=at_block(2, lambda: room.update(tiles=0)))
    assert not looks_finished(tmp_path / "b" / NAME)
    room["tiles"] = 3
    (report,) = run(slide, "ER", tmp_path / "b", config=config, resume=True)
    assert report.resumed_blocks >= 2 and tree_hash(tmp_path / "b" / NAME) == tree_hash(tmp_path / "a" / NAME)


def test_two_runs_on_one_output_are_refused_and_the_first_goes_on(slide, unbroken, tmp_path):
    refused = []

    def second():
        for more in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another run"):
                run(slide, "ER", tmp_path, config=small_config(), **more)
            refused.append(more)

    run(slide, "ER", tmp_path, config=small_config(), on_event=at_block(2, second))
    assert len(refused) == 2 and tree_hash(tmp_path / NAME) == unbroken


def test_clocks_that_jump_do_not_matter(slide, unbroken, tmp_path, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3e8)
    with pytest.raises(ZeroDivisionError):
        run(slide, "ER", tmp_path, config=small_config(), on_event=at_block(3, lambda: 1 // 0))
    monkeypatch.setattr(time, "time", lambda: real() + 3e8)
    (report,) = run(slide, "ER", tmp_path, config=small_config(), resume=True)
    assert report.resumed_blocks >= 3 and report.seconds["total"] < 1e6
    assert tree_hash(tmp_path / NAME) == unbroken


def test_time_zones_and_locales_do_not_matter(slide, tmp_path):
    strange = tmp_path / "Schnitt ß 組織.tiff"
    shutil.copy(slide, strange)
    small = [
        word
        for pair in ("tiling.stride=64", "tiling.overlap=16", "tiling.block=256", "output.chunk=64")
        for word in ("--set", pair)
    ]
    arguments = [
        "-m",
        "wsistain",
        "run",
        strange,
        "-w",
        "identity",
        "-o",
        tmp_path,
        "--set",
        "output.shard=128",
        *small,
    ]
    for env in (
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Pacific/Kiritimati"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "America/St_Johns"},
    ):
        child = python(*arguments, "--overwrite", env=env)
        assert child.returncode == 0, child.stderr
        facts = json.loads((tmp_path / "Schnitt ß 組織.ER.run.json").read_text(encoding="utf-8"))
        assert facts["provenance"]["date"].endswith("+00:00")


CTRL_C = """
import signal, sys, time
import wsistain.generators.load as generators
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests themselves run in the background
def slow(self, tiles, positions):
    time.sleep(0.05)
    return tiles
generators.IdentityGenerator.stain = slow
from wsistain.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_an_output_that_resumes_and_say_so(slide, unbroken, tmp_path, how):
    small = small_config()
    (tmp_path / "run.yaml").write_text(json.dumps(small.model_dump(mode="json")))
    arguments = ["run", slide, "-m", "ER", "-o", tmp_path, "--config", tmp_path / "run.yaml"]
    command = [sys.executable, "-c", CTRL_C, *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    journal = tmp_path / NAME / ".wsistain" / "journal.jsonl"
    while child.poll() is None and not (journal.is_file() and b"block" in journal.read_bytes()):
        time.sleep(0.02)
    child.send_signal(how)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert "--resume" in said and "Traceback" not in said
    assert not looks_finished(tmp_path / NAME)
    (report,) = run(slide, "ER", tmp_path, config=small, resume=True)
    assert report.resumed_blocks >= 1 and tree_hash(tmp_path / NAME) == unbroken
