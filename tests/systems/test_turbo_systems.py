"""What holds for all three turbo systems: who is updated by what, saving, resuming, staining, and real base models."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.made_patches import make_mist
from tests.networks.turbo_folder import write_base
from tests.systems.turbo_runs import START, Recorder, batch, build, one_step, plain_update
from tests.training.made_runs import tiny_run
from wsistain.errors import WeightsError
from wsistain.markers import find_marker
from wsistain.networks.clip_tower import ClipImageTower
from wsistain.systems import find_system, system_class
from wsistain.training.loop import train
from wsistain.weights.file import Header, load_network, load_tensors, read_header, save_weights

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'train' is not installed")

NAMES = ("ot_stainnet", "cyclegan_turbo", "pix2pix_turbo")
TWO_WAY = NAMES[:2]
ORDER = {"ot_stainnet": "GGGDD", "cyclegan_turbo": "GGGDD", "pix2pix_turbo": "GGDD"}


@pytest.mark.parametrize("name", NAMES)
def test_critics_and_generator_take_turns_and_leave_each_other_alone(name: str) -> None:
    system = build(name)
    record = Recorder(system)
    terms = system.training_step(batch(), START, record)
    assert record.calls == ["D", "G"]
    assert all(n.startswith("critic.heads.") for n in record.touched[0])
    assert all(n.startswith("translators.") for n in record.touched[1])
    assert all(torch.isfinite(t) and t > 0 for t in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_codes_order_of_updates_is_an_option(name: str) -> None:
    system = build(name, {"turbo_steps": True})
    record = Recorder(system)
    system.training_step(batch(), START, record)
    assert "".join(record.calls) == ORDER[name]
    for call, touched in zip(record.calls, record.touched, strict=True):
        assert touched and all(n.startswith("critic.heads." if call == "D" else "translators.") for n in touched)
    assert find_system(name).Config.preset("official", {}).turbo_steps
    assert not find_system(name).Config.preset("paper", {}).turbo_steps


@pytest.mark.parametrize("name", ("ot_stainnet", "pix2pix_turbo"))
def test_every_adapter_and_every_skip_takes_part(name: str) -> None:
    system, images = build(name), batch()
    for step in range(2):
        one_step(system, images, step)
    record = Recorder(system)
    system.training_step(images, START, record)
    trained = {n for n, p in system.named_parameters() if p.requires_grad}
    # at 64 px the middle block has one place: attention to itself does not depend on query and key
    alone = {n for n in trained if "mid_block" in n and (".attn1.to_q" in n or ".attn1.to_k" in n) and "unet" in n}
    assert trained - alone == record.touched[0] | record.touched[1]


@pytest.mark.parametrize("name", ("ot_stainnet", "pix2pix_turbo"))
def test_a_system_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    images = batch()
    straight = build(name)
    one_step(straight, images, 1)
    resumed = build(name, seed=9)
    resumed.load_state_dict(straight.state_dict())
    for key, optimizer in straight.optimizers.items():
        resumed.optimizers[key].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert one_step(straight, images, 2) == one_step(resumed, images, 2)
    wanted, found = straight.state_dict(), resumed.state_dict()
    assert [n for n, tensor in wanted.items() if not torch.equal(tensor, found[n])] == []


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_stain_as_the_system_does(name: str, tmp_path: Path) -> None:
    system, images = build(name), batch(2)
    one_step(system, images)
    ways = [(system.header_options(), system.generator_state(), system.generator())]
    if name in TWO_WAY:
        ways.append((system.reverse_header_options(), system.reverse_generator_state(), system.reverse_generator()))
    for options, state, wanted in ways:
        path = tmp_path / "w.safetensors"
        save_weights(path, Header(system=name, options=options, markers=["ER"], mpp=1.8, tile_px=64), state)
        network, _ = load_network(path)
        with torch.no_grad():
            torch.testing.assert_close(network(images.he), wanted(images.he), atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", TWO_WAY)
def test_the_two_directions_differ(name: str) -> None:
    system, images = build(name), batch()
    with torch.no_grad():
        assert not torch.equal(system.generator()(images.he), system.reverse_generator()(images.he))


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches")
    make_mist(root, marker="ER", n_train=3, n_val=1, px=64)
    return root


def test_training_resumes_to_the_same_bytes_and_its_weights_load(patches: Path, tmp_path: Path) -> None:
    cfg = tiny_run(patches, system="ot_stainnet", steps=2, checkpoint_every=1, batch_size=1)
    output = tmp_path / "run"
    straight = train(cfg, output, tiny=True).read_bytes()
    shutil.rmtree(output / "checkpoint" / "step_00000002")  # as if killed after the first step
    resumed = train(cfg, output, tiny=True, resume=True)
    assert straight == resumed.read_bytes()
    network, header = load_network(resumed)
    assert header.size_multiple == 64 and header.norm == "tile"
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_a_run_in_half_precision_ends_with_its_sample_sheet_and_weights(patches: Path, tmp_path: Path) -> None:
    """The sheet is stained while the base is still kept in bfloat16, outside of any training step."""
    options = {"model": {"train_base": False}}
    cfg = tiny_run(patches, system="cyclegan_turbo", steps=1, batch_size=1, precision="bfloat16", options=options)
    weights = train(cfg, tmp_path / "run", tiny=True)
    assert [p.name for p in (tmp_path / "run" / "samples").iterdir()] == ["step_000001.jpg"]
    tensors = load_tensors(weights)
    assert tensors and all(t.isfinite().all() for t in tensors.values())


# --- a real base model: a folder in SD-Turbo's layout, at a thousandth of the size -----------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_base(folder / "sd-turbo")
    return folder


def on_base(name: str, options: dict[str, Any] | None = None) -> Any:
    values = {"model": {"base": "stabilityai/sd-turbo"}, **(options or {})}
    return build(name, values)


@pytest.mark.parametrize("name", NAMES[1:])
def test_weights_hold_what_was_trained_and_the_prompt_but_not_the_base(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSISTAIN_MODELS", str(models))
    system, images = on_base(name), batch()
    one_step(system, images)
    header = Header(system=name, options=system.header_options(), markers=["ER"], mpp=1.8, tile_px=64)
    path = tmp_path / "w.safetensors"
    save_weights(path, header, system.generator_state())
    names = set(load_tensors(path))
    free = ("conv_in.", "skip_conv")
    assert all(n == "prompt" or "lora_" in n or any(f in n for f in free) for n in names)
    assert load_tensors(path)["prompt"].shape == (1, 77, 16)
    assert str(models) not in str(read_header(path))
    network, _ = load_network(path)
    with torch.no_grad():
        torch.testing.assert_close(network(images.he), system.generator()(images.he), atol=5e-4, rtol=0)

    (models / "sd-turbo" / "text_encoder").rename(models / "away")  # staining needs no text encoder
    try:
        load_network(path)
    finally:
        (models / "away").rename(models / "sd-turbo" / "text_encoder")

    other = tmp_path / "other"
    write_base(other / "sd-turbo", seed=1)
    monkeypatch.setenv("WSISTAIN_MODELS", str(other))
    with pytest.raises(WeightsError, match="another one than these weights were trained on"):
        load_network(path)
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match="'hf download stabilityai/sd-turbo'"):
        load_network(path)


def test_a_folder_given_as_base_is_written_as_the_hubs_model(models: Path) -> None:
    system = build("cyclegan_turbo", {"model": {"base": str(models / "sd-turbo")}})
    assert system.header_options()["base"] == "stabilityai/sd-turbo"
    assert len(system.header_options()["fingerprint"]) == 64


def test_clip_and_lpips_are_read_from_their_files(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    import wsistain.systems.turbo_parts  # noqa: F401  it takes its tower before the next line but one changes it
    from wsistain.networks import clip_tower

    torch.manual_seed(8)
    tower = ClipImageTower(width=16, layers=2, heads=2, patch=8, image_px=56, out=8, taps=(1, 2))
    save_file(
        {f"visual.{n}": t.contiguous() for n, t in tower.state_dict().items()}, str(tmp_path / "clip.safetensors")
    )
    monkeypatch.setattr(clip_tower, "ClipImageTower", ClipImageTower.tiny)  # ViT-B/32 is too large for a test
    system = build("cyclegan_turbo", {"critic": {"clip": str(tmp_path / "clip.safetensors")}})
    assert all(torch.equal(t, tower.state_dict()[n]) for n, t in system.critic.tower.state_dict().items())
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path / "nothing"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=r"vgg16-397923af\.pth is not on this machine"):
        build("cyclegan_turbo", {"critic": {"lpips": "published"}})


def test_half_precision_stays_within_reach_of_full(models: Path) -> None:
    system, images = build("cyclegan_turbo"), batch()
    with torch.no_grad():
        full = system.generator()(images.he)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = system.generator()(images.he)
    assert half.dtype == torch.float32
    assert np.abs((full - half).numpy()).mean() < 0.05


def test_half_precision_trains() -> None:
    system, images = build("ot_stainnet"), batch()

    def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        with torch.autocast("cpu", enabled=False):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = system.training_step(images, START, update)
    assert all(torch.isfinite(t) for t in terms.values())


@pytest.mark.parametrize("name", ["cyclegan_turbo", "ot_stainnet"])
def test_the_skip_convolutions_rest_and_their_adapters_learn_as_in_the_authors_code(name: str) -> None:
    """In their code `add_adapter` freezes all but the adapters, the skip convolutions too; Pix2Pix-Turbo's train."""
    free = {n for n, p in build(name).translators.vae("ihc").named_parameters() if p.requires_grad and "skip_conv" in n}
    assert free and all("lora_" in n for n in free)
    paired = {n for n, p in build("pix2pix_turbo").translators.vae("ihc").named_parameters() if p.requires_grad}
    assert {f"skip_conv_{k}.base_layer.weight" for k in range(1, 5)} <= paired


@pytest.mark.parametrize("name", NAMES)
def test_a_base_kept_in_half_precision_computes_what_autocast_does(name: str) -> None:
    losses = []
    for stored in (False, True):
        system, images = build(name, {"model": {"train_base": False}}), batch()
        if stored:
            system.store_frozen(torch.bfloat16)
            kinds = {p.dtype for p in system.translators.unet.parameters() if not p.requires_grad}
            assert torch.bfloat16 in kinds
            assert all(p.dtype == torch.float32 for p in system.parameters() if p.requires_grad)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            terms = system.training_step(images, START, plain_update)
        losses.append({n: t.detach().item() for n, t in terms.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_all_missing_networks_are_named_at_once_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WSISTAIN_MODELS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("wsistain.systems.turbo_parts.load_base", lambda _: pytest.fail("loaded"))
    with pytest.raises(WeightsError) as found:
        system_class("ot_stainnet")(find_system("ot_stainnet").Config(), find_marker("ER"))
    for word in ("published networks are missing", "stabilityai/sd-turbo", "clip-vit-base-patch32", "vgg16"):
        assert word in str(found.value)
