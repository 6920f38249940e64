"""The base model from a folder or the hub's cache, its fingerprint, its prompts, and what is said when it is missing."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.networks.turbo_folder import write_base
from wsistain.errors import WeightsError
from wsistain.networks.clip_tower import find_clip
from wsistain.networks.sd_turbo import (
    ALL_PARTS,
    BUILT_IN,
    SD_TURBO,
    base_fingerprint,
    check_fingerprint,
    embed_prompt,
    find_base,
    load_base,
    prompt_tokens,
    tokenize,
)
from wsistain.published import places

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'train' is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "sd-turbo")


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache, no folder of models and no packages that hold some."""
    monkeypatch.setattr("wsistain.published.places.find_spec", lambda _: None)
    monkeypatch.delenv("WSISTAIN_MODELS", raising=False)
    monkeypatch.setenv("WSISTAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)


def test_a_folder_is_read_as_it_was_saved(base: Path) -> None:
    torch.manual_seed(0)
    wanted = load_base("tiny")
    for model, original in zip(load_base(str(base)), wanted, strict=True):
        state = original.state_dict()
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_the_folder_of_models_is_looked_at(base: Path, nothing_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSISTAIN_MODELS", str(base.parent))
    assert find_base(SD_TURBO) == base


def test_the_hubs_cache_is_looked_at(base: Path, nothing_here: None, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--stabilityai--sd-turbo"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(base)
    assert (find_base(SD_TURBO) / "vae" / "config.json").is_file()


@pytest.mark.parametrize("package", ["diffusers", "peft", "transformers"])
def test_a_missing_package_names_the_extra_that_brings_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeightsError, match=rf"need {package}: pip install 'wsistain\[train\]'"):
        load_base("tiny")


def test_a_missing_base_names_the_command_that_fetches_it(nothing_here: None) -> None:
    with pytest.raises(WeightsError, match=r"'hf download stabilityai/sd-turbo'.*WSISTAIN_MODELS"):
        load_base(SD_TURBO)


def test_a_folder_without_the_model_is_refused(nothing_here: None, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(WeightsError, match=r"holds no unet/config\.json"):
        load_base(str(tmp_path / "other"))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "sd-turbo")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"vae is not a readable AutoencoderKL"):
        load_base(str(folder))


@pytest.mark.parametrize("form", [".fp16.safetensors", ".bin", ".fp16.bin"])
def test_other_forms_of_the_same_weights_are_read(form: str, tmp_path: Path) -> None:
    """The hub has SD-Turbo in half precision beside the whole, and many folders hold `.bin` files alone."""
    folder = write_base(tmp_path / "sd-turbo")
    wanted = [model.state_dict() for model in load_base(str(folder))]
    prompt = embed_prompt(str(folder), "er stain")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        whole = folder / part / f"{stem}.safetensors"
        tensors = {n: t.half() if "fp16" in form and t.is_floating_point() else t for n, t in load_file(whole).items()}
        whole.unlink()
        stem = "pytorch_model" if part == "text_encoder" and form.endswith(".bin") else stem
        name = f"{stem}{form}" if form.endswith("safetensors") or "fp16" not in form else f"{stem}.fp16.bin"
        if form.endswith("safetensors"):
            save_file(tensors, folder / part / name, metadata={"format": "pt"})
        else:
            torch.save(tensors, folder / part / name)
    for model, state in zip(load_base(str(folder)), wanted, strict=True):
        for n, t in model.state_dict().items():
            assert t.dtype == state[n].dtype
            torch.testing.assert_close(t, state[n], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(embed_prompt(str(folder), "er stain"), prompt, atol=2e-2, rtol=2e-2)
    assert len(base_fingerprint(str(folder))) == 64


def test_all_that_a_folder_lacks_is_named_at_once(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "sd-turbo")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    wanted = r"lacks text_encoder/config\.json, vae/diffusion_pytorch_model\.safetensors.*tokenizer/vocab\.json"
    with pytest.raises(WeightsError, match=wanted):
        find_base(str(folder), ALL_PARTS)
    with pytest.raises(WeightsError, match=r"lacks vae/diffusion_pytorch_model\.safetensors \("):
        load_base(str(folder))


def test_a_file_in_an_older_snapshot_of_the_hub_is_found(nothing_here: None, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--openai--clip-vit-base-patch32"
    for name, file in (("a" * 40, "pytorch_model.bin"), ("b" * 40, "model.safetensors")):
        (repository / "snapshots" / name).mkdir(parents=True)
        (repository / "snapshots" / name / file).touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    found = places.find_hub_folder("openai/clip-vit-base-patch32", "model.safetensors", "pytorch_model.bin")
    assert found.name == "b" * 40  # safetensors first, wherever they are
    assert find_clip("openai/clip-vit-base-patch32").name == "model.safetensors"
    (found / "model.safetensors").unlink()
    assert find_clip("openai/clip-vit-base-patch32").name == "pytorch_model.bin"


def test_the_fingerprint_tells_models_apart(base: Path, tmp_path: Path) -> None:
    found = base_fingerprint(str(base))
    assert found == base_fingerprint(str(base)) and len(found) == 64
    other = write_base(tmp_path / "other", seed=1)
    check_fingerprint(str(base), found)
    with pytest.raises(WeightsError, match="another one than these weights were trained on"):
        check_fingerprint(str(other), found)
    assert base_fingerprint("tiny") == ""


def test_a_prompt_is_embedded_by_the_bases_text_encoder(base: Path) -> None:
    from transformers import CLIPTextModel

    found = embed_prompt(str(base), "ki67 stain")
    ids = tokenize(str(base), "ki67 stain")
    assert found.shape == (1, 77, 16) == (1, prompt_tokens(str(base)), 16)
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder").eval()
    with torch.no_grad():
        torch.testing.assert_close(found, encoder(torch.tensor([ids])).last_hidden_state)
    assert not found.requires_grad
    assert not torch.equal(found, embed_prompt(str(base), "er stain"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_base_has_fixed_embeddings(name: str) -> None:
    first = embed_prompt(name, "a text")
    assert first.shape[:2] == (1, prompt_tokens(name))
    assert torch.equal(first, embed_prompt(name, "a text"))
    assert not torch.equal(first, embed_prompt(name, "another text"))


def test_missing_vgg_and_lpips_name_the_command_that_fetches_them(nothing_here: None) -> None:
    with pytest.raises(WeightsError, match=r"curl -L .*https://download\.pytorch\.org/models/vgg16.*WSISTAIN_MODELS"):
        places.require_net("vgg16")
    with pytest.raises(WeightsError, match=r"curl -L .*lpips_vgg\.pth"):
        places.require_net("lpips_vgg")


def test_vgg_and_lpips_are_found_in_the_folder_of_models(
    nothing_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))
    lin = tmp_path / "lpips" / "weights" / "v0.1" / "vgg.pth"
    lin.parent.mkdir(parents=True)
    lin.touch()
    (tmp_path / "vgg16-397923af.pth").touch()
    assert places.require_net("lpips_vgg") == lin
    assert places.require_net("vgg16") == tmp_path / "vgg16-397923af.pth"
