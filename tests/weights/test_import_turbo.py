"""img2img-turbo checkpoints: written here in the authors' layout, with diffusers' and peft's own calls."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.turbo_folder import write_base
from wsistain.errors import WeightsError
from wsistain.networks.sd_turbo import SD_TURBO, embed_prompt, load_base
from wsistain.networks.turbo import SIZE_MULTIPLE, UNET_TARGETS, VAE_TARGETS, clean_latent
from wsistain.weights.file import load_network
from wsistain.weights.importing import import_checkpoint

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'train' is not installed")

TEXT = "driving in the night"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_base(folder / "sd-turbo")
    return folder


@pytest.fixture(autouse=True)
def base_is_here(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSISTAIN_MODELS", str(models))


def authors_vae(vae: nn.Module, rank: int) -> nn.Module:
    """Skip convolutions on the decoder, then one adapter called vae_skip over everything."""
    from peft import LoraConfig

    for k, (c_in, c_out) in enumerate([(24, 24), (16, 24), (8, 24), (8, 16)], start=1):
        setattr(vae.decoder, f"skip_conv_{k}", nn.Conv2d(c_in, c_out, 1, bias=False))
    config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=list(VAE_TARGETS))
    vae.add_adapter(config, adapter_name="vae_skip")
    return vae


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name or "skip_conv" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))


def authors_forward(unet: nn.Module, vae: nn.Module, image: Tensor, text: Tensor) -> Tensor:
    """The published forward pass with the posterior's mean, written out on diffusers' modules."""
    h, skips = vae.encoder.conv_in(image), []
    for block in vae.encoder.down_blocks:
        skips.append(h)
        h = block(h)
    h = vae.encoder.conv_out(F.silu(vae.encoder.conv_norm_out(vae.encoder.mid_block(h))))
    latent = vae.quant_conv(h)[:, :4] * 0.18215
    noise = unet(latent, torch.tensor([999]), encoder_hidden_states=text).sample
    h = vae.decoder.conv_in(vae.post_quant_conv(clean_latent(latent, noise) / 0.18215))
    h = vae.decoder.mid_block(h)
    for k, block in enumerate(vae.decoder.up_blocks, start=1):
        h = block(h + vae.decoder.get_submodule(f"skip_conv_{k}")(skips[-k]))
    return vae.decoder.conv_out(F.silu(vae.decoder.conv_norm_out(h))).clamp(-1, 1)


def image() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture(scope="module")
def cyclegan(models: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A CycleGAN-Turbo checkpoint, and what its two directions make of `image()`."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(3)
    unet, vae = load_base(str(models / "sd-turbo"))
    sets: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
    for name, _ in unet.named_parameters():
        layer = name.removesuffix(".weight")
        if "bias" in name or "norm" in name or not any(s in name for s in UNET_TARGETS):
            continue
        first = "down_blocks" in name or "conv_in" in name
        sets["encoder" if first else "decoder" if "up_blocks" in name else "others"].append(layer)
    for key, layers in sets.items():
        config = LoraConfig(r=3, init_lora_weights="gaussian", target_modules=layers, lora_alpha=3)
        with pytest.warns(UserWarning) if key != "encoder" else nullcontext():
            unet.add_adapter(config, adapter_name=f"default_{key}")
    unet.set_adapter([f"default_{key}" for key in sets])
    vae = authors_vae(vae, rank=2)
    back = copy.deepcopy(vae)
    for module in (unet, vae, back):
        randomise(module)
    both = {f"vae.{n}": t for n, t in vae.state_dict().items()} | {
        f"vae_b2a.{n}": t for n, t in back.state_dict().items()
    }
    checkpoint = {
        "rank_unet": 3,
        "rank_vae": 2,
        "l_target_modules_encoder": sets["encoder"],
        "l_target_modules_decoder": sets["decoder"],
        "l_modules_others": sets["others"],
        "vae_lora_target_modules": list(VAE_TARGETS),
        "sd_encoder": get_peft_model_state_dict(unet, adapter_name="default_encoder"),
        "sd_decoder": get_peft_model_state_dict(unet, adapter_name="default_decoder"),
        "sd_other": get_peft_model_state_dict(unet, adapter_name="default_others"),
        "sd_vae_enc": both,
        "sd_vae_dec": both,
    }
    text = embed_prompt(str(models / "sd-turbo"), TEXT)
    with torch.no_grad():
        made = {
            "he-to-ihc": authors_forward(unet, vae, image(), text),
            "ihc-to-he": authors_forward(unet, back, image(), text),
        }
    return checkpoint, made


def imported(content: dict[str, Any], folder: Path, system: str, **facts: Any) -> Any:
    torch.save(content, folder / "model.pkl")
    values = {"marker": "ER", "mpp": 1.0, "prompt": TEXT, "output": folder / "w.safetensors", **facts}
    return import_checkpoint(folder / "model.pkl", system, **values)


@pytest.mark.parametrize("direction", ["he-to-ihc", "ihc-to-he"])
def test_cyclegan_turbo_stains_as_the_authors_network_does(
    cyclegan: tuple[dict[str, Any], dict[str, Tensor]], direction: str, tmp_path: Path
) -> None:
    content, made = cyclegan
    report = imported(content, tmp_path, "cyclegan_turbo", direction=direction)
    network, header = load_network(report.path)
    with torch.no_grad():
        torch.testing.assert_close(network(image()), made[direction], atol=1e-3, rtol=0)
    assert not torch.allclose(made["he-to-ihc"], made["ihc-to-he"], atol=0.01)
    assert (header.direction, header.size_multiple, header.norm) == (direction, SIZE_MULTIPLE, "tile")
    assert header.options["base"] == SD_TURBO and header.options["train_conv_in"] is False
    adapters = sum(len(content[key]) for key in ("sd_encoder", "sd_decoder", "sd_other"))
    vae = sum(n.startswith("vae.") for n in content["sd_vae_dec"])
    assert report.n_tensors == adapters + vae


def test_pix2pix_turbo_stains_as_the_authors_network_does(models: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    torch.manual_seed(4)
    unet, vae = load_base(str(models / "sd-turbo"))
    layers = [s for s in UNET_TARGETS if s != "conv_in"]
    unet.add_adapter(LoraConfig(r=4, init_lora_weights="gaussian", target_modules=layers))  # alpha 8: scale 2
    vae = authors_vae(vae, rank=2)
    randomise(unet)
    randomise(vae)
    with torch.no_grad():
        unet.conv_in.weight.add_(0.05 * torch.randn_like(unet.conv_in.weight))
    content = {
        "rank_unet": 4,
        "rank_vae": 2,
        "unet_lora_target_modules": layers,
        "vae_lora_target_modules": list(VAE_TARGETS),
        "state_dict_unet": {k: v for k, v in unet.state_dict().items() if "lora" in k or "conv_in" in k},
        "state_dict_vae": {k: v for k, v in vae.state_dict().items() if "lora" in k or "skip" in k},
    }
    network, header = load_network(imported(content, tmp_path, "pix2pix_turbo").path)
    with torch.no_grad():
        wanted = authors_forward(unet, vae, (image() + 1) / 2, embed_prompt(str(models / "sd-turbo"), TEXT))
        torch.testing.assert_close(network(image()), wanted, atol=1e-3, rtol=0)
    assert header.options["input_range"] == "01"


def test_checkpoints_that_do_not_fit_are_refused_and_nothing_is_written(
    cyclegan: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    content, _ = cyclegan
    one = next(iter(content["sd_encoder"]))
    key = "vae.encoder.conv_norm_out.weight"
    broken = [
        ("no rank_unet", {"state_dict": {}}, "cyclegan_turbo"),
        ("missing unet", content | {"sd_encoder": {n: t for n, t in content["sd_encoder"].items() if n != one}}, None),
        ("surplus unet", content | {"sd_other": content["sd_other"] | {"odd.lora_A.weight": torch.zeros(1)}}, None),
        ("not that of the base", content | {"sd_vae_dec": content["sd_vae_dec"] | {key: torch.zeros(24)}}, None),
        ("other turbo system", content, "pix2pix_turbo"),
        ("holds no VAE", content | {"sd_vae_dec": {"odd": torch.zeros(1)}}, None),
        ("rank_vae is None", {k: v for k, v in content.items() if k != "rank_vae"}, None),
    ]
    for message, values, system in broken:
        with pytest.raises(WeightsError, match=message):
            imported(values, tmp_path, system or "cyclegan_turbo")
    (tmp_path / "model.pkl").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="cannot be read as weights: damaged"):
        import_checkpoint(tmp_path / "model.pkl", "cyclegan_turbo", marker="ER", mpp=1.0)
    assert not list(tmp_path.glob("*.safetensors*"))


def test_a_prompt_for_a_network_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--prompt is for turbo checkpoints"):
        import_checkpoint(tmp_path / "x.pth", "cut", marker="ER", mpp=0.5, prompt="a text")
