"""UNIStainNet's, HistDiST's and D-VST's weights, made here in the form in which they are published."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks.stainer_folders import picture, write_histdist, write_phikon, write_tone_parts
from wsistain.errors import WeightsError
from wsistain.generators.load import build_generator, find_generator
from wsistain.networks.unistainnet import SpadeUNet, UniTower
from wsistain.systems import dvst, unistainnet
from wsistain.weights.file import load_network, read_header
from wsistain.weights.importing import import_checkpoint

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where the published networks lie that the three look through; UNI's file is never read in these tests."""
    folder = tmp_path_factory.mktemp("models")
    write_phikon(folder / "phikon")
    write_tone_parts(folder)
    (folder / "uni").mkdir()
    (folder / "uni" / "pytorch_model.bin").touch()
    return folder


@pytest.fixture(autouse=True)
def places(models, tmp_path, monkeypatch):
    monkeypatch.setenv("WSISTAIN_MODELS", str(models))
    monkeypatch.setenv("WSISTAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(unistainnet, "load_uni", lambda: UniTower(0, 1))


def lightning(path: Path, **changes):
    """A checkpoint of UNIStainNet's training: its generator, the mean of it, what only trains, and the settings."""
    torch.manual_seed(0)
    state = SpadeUNet(width=8, class_dim=4).state_dict()
    state["uni_processor.down_16.0.weight"] = torch.zeros(64, 64, 4, 4)
    state["uni_processor.down_16.0.bias"] = torch.zeros(64)
    content = {f"generator.{n}": t + 1 for n, t in state.items()} | {f"generator_ema.{n}": t for n, t in state.items()}
    content["uncond_discriminator.model.0.bias"] = torch.zeros(2)
    names = ["HER2", "Ki67", "ER", "PR"]
    settings = {"num_classes": 5, "null_class": 4, "label_names": names, "image_size": 512}
    settings |= changes.pop("settings", {})
    torch.save({"state_dict": content | changes, "hyper_parameters": settings, "epoch": 3}, path)
    return state


def test_unistainnets_mean_is_imported_for_its_four_markers(tmp_path):
    state = lightning(tmp_path / "last.ckpt")
    report = import_checkpoint(tmp_path / "last.ckpt", "unistainnet-mist")
    header = read_header(report.path)
    assert header.markers == ["HER2", "Ki67", "ER", "PR"]
    assert (header.mpp, header.tile_px, header.norm) == (0.4661, 512, "tile")
    assert "research" in header.licence
    assert report.surplus == ("uni_processor.down_16.0.bias", "uni_processor.down_16.0.weight")
    assert report.n_tensors == len(state) - 2
    network, _ = load_network(report.path)
    for name, tensor in network.generator.state_dict().items():
        assert torch.equal(tensor, state[name]), name

    # and stains through the generator that `run` uses, one pass for two markers
    er, pr = (find_generator(str(report.path), marker) for marker in ("ER", "PR"))
    first = build_generator(er, device="cpu")
    assert build_generator(pr, device="cpu", beside=[first]).network is first.network


def test_a_checkpoint_of_scores_stains_its_marker_without_a_score(tmp_path):
    lightning(tmp_path / "bci.ckpt", settings={"label_names": None})
    with pytest.raises(WeightsError, match="does not name its stains"):
        import_checkpoint(tmp_path / "bci.ckpt", "unistainnet", mpp=0.46)
    report = import_checkpoint(tmp_path / "bci.ckpt", "unistainnet", marker="her2", mpp=0.46)
    assert read_header(report.path).options["labels"] == {"HER2": 4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generator_ema.enc9.0.weight": torch.zeros(1)}, "surplus enc9.0.weight"),
        ({"generator_ema.enc2.0.weight": torch.zeros(16, 8, 3, 3)}, "shapes differ: enc2.0.weight"),
        ({"generator_ema.output.2.bias": torch.full((3,), float("nan"))}, "not finite"),
        ({"netG.model.1.weight": torch.zeros(1)}, "of another program, as netG.model.1.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_writes_nothing(tmp_path, change, words):
    lightning(tmp_path / "last.ckpt", **change)
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(tmp_path / "last.ckpt", "unistainnet-mist")
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_another_marker_or_no_uni_is_said_before_anything_is_written(tmp_path, monkeypatch):
    lightning(tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match="stains HER2, Ki67, ER, PR, not CD3"):
        monkeypatch.setattr("wsistain.weights.import_stainers.find_marker", lambda n: type("M", (), {"name": n}))
        monkeypatch.setattr("wsistain.weights.importing.find_marker", lambda n: type("M", (), {"name": n}))
        import_checkpoint(tmp_path / "last.ckpt", "unistainnet", marker="CD3", mpp=0.5)
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match="hf download MahmoodLab/uni"):
        import_checkpoint(tmp_path / "last.ckpt", "unistainnet-mist")
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_folder_of_histdist_is_imported_without_phikon(tmp_path):
    folder = write_histdist(tmp_path / "er_model")
    report = import_checkpoint(folder, "histdist-er")
    header = read_header(report.path)
    assert (header.markers, header.tile_px, header.size_multiple) == (["ER"], 512, 8)
    assert "Phikon" in header.licence
    network, _ = load_network(report.path, {"up": 2, "down": 2})
    assert not any(n.startswith("phikon") for n in network.held_state())
    assert network.prompt.abs().sum() > 0
    with torch.no_grad():
        assert network(picture(512)[..., :64, :64]).shape == (1, 3, 64, 64)

    (folder / "unet" / "config.json").write_text(
        (folder / "unet" / "config.json").read_text().replace('"attention_head_dim": 2', '"attention_head_dim": 4')
    )
    with pytest.raises(WeightsError, match="attention_head_dim is 4, wanted 2"):
        import_checkpoint(folder, "histdist-er", overwrite=True)


def published_dvst(path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    network = dvst.generator_network({"size": "tiny", "window": 64})
    state = {}
    for name, tensor in network.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "transformer":
            state[f"module.unet.{rest.replace('.attn2.', '.attn_adapter.')}"] = tensor
        elif part == "hint":
            state[f"module.unet.condition_input_layer.{rest}"] = tensor
    torch.save({"state_dict": state}, path)
    return state


def test_dvsts_transformer_is_imported_with_the_tone_of_a_picture(tmp_path):
    state = published_dvst(tmp_path / "HE2IHC.ckpt")
    brown = np.full((80, 100, 3), (160, 110, 70), np.uint8)
    with pytest.raises(WeightsError, match="pass --reference IHC"):
        import_checkpoint(tmp_path / "HE2IHC.ckpt", "dvst", marker="ER", mpp=0.5)
    report = import_checkpoint(tmp_path / "HE2IHC.ckpt", "dvst", marker="ER", mpp=0.5, reference=brown)
    assert report.n_tensors == len(state)
    network, header = load_network(report.path, {"n_steps": 2, "stride": 64})
    assert "research only" in header.licence
    renamed = network.state_dict()["transformer.transformer_blocks.0.attn2.to_k.weight"]
    assert torch.equal(renamed, state["module.unet.transformer_blocks.0.attn_adapter.to_k.weight"])
    blue = np.full((80, 100, 3), (90, 100, 160), np.uint8)
    other = import_checkpoint(
        tmp_path / "HE2IHC.ckpt", "dvst", marker="ER", mpp=0.5, reference=blue, output=tmp_path / "blue.safetensors"
    )
    tones = [load_network(path)[0].tone for path in (report.path, other.path)]
    assert tones[0].shape == (1, 257, 16)
    assert not torch.allclose(*tones)


def test_what_is_no_such_checkpoint_is_said(tmp_path):
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="wanted Lightning's state_dict"):
        import_checkpoint(tmp_path / "other.pth", "unistainnet-mist")
    with pytest.raises(WeightsError, match="not a folder"):
        import_checkpoint(tmp_path / "other.pth", "histdist-er")
    grey = np.zeros((80, 80, 3), np.uint8)
    with pytest.raises(WeightsError, match="is no part of it"):
        import_checkpoint(tmp_path / "other.pth", "dvst", marker="ER", mpp=0.5, reference=grey)
    with pytest.raises(WeightsError, match="--reference is for D-VST"):
        import_checkpoint(tmp_path / "other.pth", "asp-er", reference=grey)
