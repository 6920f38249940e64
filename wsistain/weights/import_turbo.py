"""Published img2img-turbo checkpoints (GaParmar/img2img-turbo) turned into our weights files, tensor by tensor.

CycleGAN-Turbo's hold three sets of U-Net adapters and both VAEs, base weights included; they leave out the U-Net's first
convolution, although the authors' code trains it. Pix2Pix-Turbo's hold one set of adapters, that convolution and the
VAE's adapters. Neither holds the prompt: its embedding is made here, by the base's text encoder, from the text given.
"""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsistain.errors import WeightsError
from wsistain.networks.sd_turbo import SD_TURBO, base_fingerprint, embed_prompt, prompt_tokens
from wsistain.networks.turbo import VAE_ALPHA
from wsistain.published.tensors import check_finite, read_content
from wsistain.systems.turbo_parts import TurboHeader, translator_from_header

TURBO_KINDS = ("cyclegan_turbo", "pix2pix_turbo")
_UNET_SETS = {"sd_encoder": "down", "sd_decoder": "up", "sd_other": "rest"}


def convert_turbo(
    path: Path, system: str, *, prompt: str, direction: str = "he-to-ihc"
) -> tuple[dict[str, Tensor], dict[str, Any], list[str], int]:
    """(trained tensors, header options, names set aside, tensors used) of a checkpoint of `system`.

    prompt    : the text that the checkpoint was trained with for this direction.
    direction : "he-to-ihc" is the checkpoint's a to b, "ihc-to-he" its b to a (CycleGAN-Turbo only).

    Set aside are the VAE's own weights, once they are found equal to those of the base on this machine. Raises
    WeightsError when the file is not such a checkpoint, a tensor is missing, surplus or of another shape, or the base
    is not here or another one.
    """
    # The checkpoint's U-Net and VAE, as the two systems save them.
    content = _read(path)
    if system == "cyclegan_turbo":
        unet, vae = _cyclegan_tensors(content, path, direction)
    else:
        if direction != "he-to-ihc":
            raise WeightsError(f"{path}: Pix2Pix-Turbo has one direction, from its source to its target")
        unet, vae = _part(content, "state_dict_unet", path), _part(content, "state_dict_vae", path)

    # What distinguishes the two systems' networks, as a header says it.
    options = TurboHeader(
        base=SD_TURBO,
        fingerprint=base_fingerprint(SD_TURBO),
        prompt_tokens=prompt_tokens(SD_TURBO),
        rank_unet=_rank(content, "rank_unet", path),
        rank_vae=_rank(content, "rank_vae", path),
        adapt_conv_in=system == "cyclegan_turbo",
        train_conv_in=system == "pix2pix_turbo",
        train_skips=True,
        train_base=False,
        skip_gain=1.0,
        input_range="01" if system == "pix2pix_turbo" else "pm1",
    ).model_dump()

    # Their names to ours.
    translator = translator_from_header(options)
    wanted = translator.trained_state()
    groups = _groups_of(wanted)
    scale = VAE_ALPHA / options["rank_unet"] if system == "pix2pix_turbo" else 1.0
    found = {"prompt": embed_prompt(SD_TURBO, prompt)}
    found |= {f"unet.{n}": t for n, t in _our_unet_names(unet, groups, scale).items()}

    # Of the VAE only what was trained is kept; the rest must be the base's, or the result would be another network's.
    base = translator.vae.state_dict()
    aside = []
    for name, tensor in _our_vae_names(vae).items():
        if f"vae.{name}" in wanted or name not in base:
            found[f"vae.{name}"] = tensor
        elif base[name].shape == tensor.shape and torch.allclose(base[name], tensor.float(), atol=1e-3):
            aside.append(f"vae.{name}")
        else:
            raise WeightsError(f"{path}: {name} of its VAE is not that of the base model on this machine")

    # Loading checks that nothing is missing, surplus or of another shape.
    found = {n: t.float() for n, t in found.items()}
    translator.load_trained(found, str(path))
    return found, options, aside, len(found) - 1 + len(aside)


def _read(path: Path) -> dict[str, Any]:
    content = read_content(path)
    if not isinstance(content, dict) or "rank_unet" not in content:
        raise WeightsError(f"{path} is not a checkpoint of img2img-turbo: it has no rank_unet")
    return content


def _part(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Tensor]:
    values = content.get(key)
    if not isinstance(values, Mapping) or not all(isinstance(t, Tensor) for t in values.values()):
        raise WeightsError(f"{path} holds no tensors under {key}; is it a checkpoint of the other turbo system?")
    check_finite(values, f"{key} of {path}")
    return dict(values)


def _rank(content: Mapping[str, Any], key: str, path: Path) -> int:
    value = content.get(key)
    if not isinstance(value, int) or not 1 <= value <= 4096:
        raise WeightsError(f"{path}: {key} is {reprlib.repr(value)}; wanted a whole number up to 4096")
    return value


def _cyclegan_tensors(
    content: Mapping[str, Any], path: Path, direction: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The U-Net's adapters, and the VAE of one direction under its own names.

    The authors save both VAEs twice, as encoders and as decoders, and load the decoders' copy last; so do we.
    """
    unet: dict[str, Tensor] = {}
    for key in _UNET_SETS:
        unet |= _part(content, key, path)
    prefix = "vae." if direction == "he-to-ihc" else "vae_b2a."
    both = _part(content, "sd_vae_dec", path)
    vae = {n.removeprefix(prefix): t for n, t in both.items() if n.startswith(prefix)}
    if not vae:
        raise WeightsError(f"{path} holds no VAE called {prefix[:-1]}")
    return unet, vae


def _groups_of(wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Layer of the U-Net to the name of its adapter, read from the names of trained tensors."""
    groups = {}
    for name in wanted:
        if name.startswith("unet.") and ".lora_A." in name:
            layer, _, rest = name.removeprefix("unet.").partition(".lora_A.")
            groups[layer] = rest.removesuffix(".weight")
    return groups


def _our_unet_names(tensors: Mapping[str, Tensor], groups: Mapping[str, str], scale: float) -> dict[str, Tensor]:
    """The U-Net's tensors under our names; the second factors times `scale`, where the authors' alpha is not the rank."""
    found = {}
    for name, tensor in tensors.items():
        for factor in ("lora_A", "lora_B"):
            layer, mark, _ = name.partition(f".{factor}.")
            if mark:
                times = scale if factor == "lora_B" else 1.0
                found[f"{layer}.{factor}.{groups.get(layer, 'default')}.weight"] = tensor * times
                break
        else:
            found[name] = tensor
    return found


def _our_vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's tensors under our names: skip convolutions beside the decoder, the adapter called `vae`."""
    return {n.replace("decoder.skip_conv_", "skip_conv_").replace(".vae_skip.", ".vae."): t for n, t in tensors.items()}
