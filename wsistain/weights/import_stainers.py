"""Published weights of systems that only stain here, turned into our weights files, tensor by tensor.

UNIStainNet's are a Lightning checkpoint (the mean of the generator is taken, as its authors do), D-VST's a checkpoint of
the transformer alone beside published parts, HistDiST's a folder in diffusers' layout.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsistain.errors import WeightsError
from wsistain.markers import find_marker
from wsistain.networks.facts import NetworkFacts, facts_of
from wsistain.networks.sd_turbo import base_fingerprint, embed_prompt, load_base, require_diffusers
from wsistain.networks.unistainnet import UNUSED_PREFIXES, SpadeUNet
from wsistain.published.places import find_hub_folder
from wsistain.published.tensors import check_finite, load_into, read_content, read_published
from wsistain.systems import dvst, histdist, unistainnet
from wsistain.weights.file import described_network, file_hash

STAINER_KINDS = ("unistainnet", "histdist", "dvst")

_MEAN_OF, _LIVE = "generator_ema.", "generator."
_TRAINING_ONLY = (
    _LIVE, "discriminator.", "crop_discriminator.", "uncond_discriminator.", "patchnce_loss.", "lpips_fn.",
    "vgg_extractor.", "dab_extractor.", "_uni_model.",
)  # fmt: skip
LEAST_REFERENCE = 64
_PIXART_HUB, _CLIP_HUB = "PixArt-alpha/PixArt-XL-2-512x512", "lambdalabs/sd-image-variations-diffusers"

LICENCES = {
    "unistainnet": "for research purposes only (stated by the authors' repository); UNI beside it has terms of its own, not "
    "for commercial use",
    "histdist": "none is stated by the authors' repository, so research only at most; Stable Diffusion 1.5 in it is "
    "CreativeML OpenRAIL-M, Phikon beside it is not for commercial use",
    "dvst": "none is stated by the authors' repository, so research only at most; PixArt-alpha's VAE in it is "
    "CreativeML OpenRAIL++-M",
}
"""System to the licence of its published weights, in words."""


@dataclass(frozen=True)
class Converted:
    """What a published checkpoint became.

    state    : tensors for the weights file. options: of its header. markers: what it stains.
    facts    : of the network; `tile_px` where its tiles have one size.
    n_used   : tensors of the checkpoint that were used, `n_folded` spectrally normalised kernels among them.
    surplus  : names that were set aside.
    """

    state: dict[str, Tensor]
    options: dict[str, Any]
    markers: list[str]
    facts: NetworkFacts
    n_used: int
    surplus: Sequence[str] = ()
    n_folded: int = 0
    direction: str = "he-to-ihc"


def digest_of(path: Path) -> str:
    """SHA-256 of a checkpoint; of a folder in diffusers' layout the fingerprint of its U-Net and VAE."""
    return base_fingerprint(str(path)) if path.is_dir() else file_hash(path)


def convert_stainer(path: Path, system: str, marker: str | None, reference: NDArray[np.uint8] | None) -> Converted:
    """What a checkpoint of `system` becomes.

    marker    : what it stains, by the user or the catalogue; None where the file tells.
    reference : picture of the wanted tone, uint8 (h, w, 3), for D-VST alone.

    Raises WeightsError when the file is not such a checkpoint, a tensor is missing, surplus or of another shape, or a
    published network that it needs is not on this machine.
    """
    if system == "unistainnet":
        return _unistainnet(path, marker)
    assert marker is not None  # the others' files do not tell
    return _histdist(path, [marker]) if system == "histdist" else _dvst(path, [marker], reference)


def _unistainnet(path: Path, marker: str | None) -> Converted:
    content = read_content(path)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    settings = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(settings, Mapping):
        raise WeightsError(
            f"{path} is not a checkpoint of UNIStainNet: wanted Lightning's state_dict and hyper_parameters, which tell the "
            "stains"
        )
    tensors = {str(n).removeprefix(_MEAN_OF): t.float() for n, t in state.items() if str(n).startswith(_MEAN_OF)}
    strange = [str(n) for n in state if not str(n).startswith((_MEAN_OF, *_TRAINING_ONLY))]
    if not tensors or strange:
        found = (
            f"{len(strange)} of another program, as {strange[0]}" if strange else "no tensors called generator_ema.*"
        )
        raise WeightsError(f"{path} is not a checkpoint of UNIStainNet: it holds {found}")
    check_finite(tensors, str(path))
    labels = _labels(settings, marker, path)
    find_hub_folder(unistainnet.UNI_HUB, unistainnet.UNI_FILE)

    # Sizes stand in the shapes; the stains' table has a row for "none" after the stains.
    table, first = tensors.get("class_embed.weight"), tensors.get("enc1.0.weight")
    if table is None or table.dim() != 2 or first is None or first.dim() != 4:
        raise WeightsError(f"{path} is not UNIStainNet's generator: it has no class_embed.weight or enc1.0.weight")
    is_large = "enc0.0.weight" in tensors
    options = unistainnet.Options(
        labels=labels,
        window=1024 if is_large else 512,
        width=min(max(int(first.shape[0]), 4), 256) // 4 * 4,
        n_classes=int(table.shape[0]),
        class_dim=int(table.shape[1]),
        large=is_large,
    )

    def build() -> nn.Module:
        return SpadeUNet(width=options.width, n_classes=options.n_classes, class_dim=options.class_dim, large=is_large)

    described = described_network(build, tensors, str(path)).to_empty(device="cpu")
    load_into(described, tensors, str(path), ignore=UNUSED_PREFIXES, may_lack=())
    aside = sorted(n for n in tensors if n.startswith(UNUSED_PREFIXES))
    facts, n_used = NetworkFacts("tile", tile_px=options.window), len(tensors) - len(aside)
    return Converted(described.state_dict(), options.model_dump(), list(labels), facts, n_used, aside)


def _labels(settings: Mapping[str, Any], marker: str | None, path: Path) -> dict[str, int]:
    """Marker to its row in the table of stains, from what the checkpoint says of its training."""
    names, none = settings.get("label_names"), settings.get("null_class")
    asked = find_marker(marker).name if marker is not None else None
    if isinstance(names, Sequence) and not isinstance(names, str) and names:
        rows = {find_marker(str(name)).name: row for row, name in enumerate(names)}
        if asked is not None and asked not in rows:
            raise WeightsError(f"{path} stains {', '.join(rows)}, not {asked}")
        return rows if asked is None else {asked: rows[asked]}
    if asked is None:
        raise WeightsError(f"{path} does not name its stains (one of scores, not of stains?); pass --marker")
    if not isinstance(none, int):
        raise WeightsError(f"{path} does not say which of its classes stands for none (null_class)")
    return {asked: none}  # its classes are scores, which nobody knows before staining


def _histdist(path: Path, stains: list[str]) -> Converted:
    if not path.is_dir():
        raise WeightsError(
            f"{path} is not a folder; wanted the model's, with unet, vae, text_encoder and tokenizer in it"
        )
    unet, vae = load_base(str(path))
    size = _size_of(unet.config, vae.config, path)
    facts_file = path / "scheduler" / "scheduler_config.json"
    try:
        levels = json.loads(facts_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{facts_file} cannot be read ({error}); it says the noise levels") from None
    if levels.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise WeightsError(f"{facts_file}: noise levels {levels['beta_schedule']!r} are not those of HistDiST")
    options = histdist.Options(
        size=size,
        chain=levels.get("num_train_timesteps", 1000),
        beta_first=levels.get("beta_start", 0.00085),
        beta_last=levels.get("beta_end", 0.012),
        alpha_to_one=bool(levels.get("set_alpha_to_one", False)),
    )
    network = histdist.HistDistStainer(options)
    held = {f"unet.{n}": t for n, t in unet.state_dict().items()} | {f"vae.{n}": t for n, t in vae.state_dict().items()}
    held["prompt"] = embed_prompt(str(path), "H&E")
    check_finite(held, str(path))
    network.load_trained(held, str(path))
    return Converted(network.held_state(), options.model_dump(), stains, facts_of(network), len(held) - 1)


def _size_of(unet: Mapping[str, Any], vae: Mapping[str, Any], path: Path) -> Any:
    """The name of the sizes that a folder's configurations are; WeightsError naming the first value that differs."""
    size = "tiny" if list(unet["block_out_channels"]) == [8, 8, 8, 8] else "published"
    wanted_vae, wanted_unet, _ = histdist.SIZES[size]
    for part, found, wanted in (("unet", unet, wanted_unet), ("vae", vae, wanted_vae)):
        for key, value in wanted.items():
            if (list(found[key]) if isinstance(found[key], list | tuple) else found[key]) != value:
                raise WeightsError(f"{path / part} is not HistDiST's: {key} is {found[key]}, wanted {value}")
    return size


def _dvst(path: Path, stains: list[str], reference: NDArray[np.uint8] | None) -> Converted:
    if reference is None:
        raise WeightsError(
            "D-VST stains in the tone of a picture; pass --reference IHC.png, a patch of the wanted stain"
        )
    tensors = read_published(path)
    used = {n.removeprefix("unet."): t for n, t in tensors.items() if n.startswith("unet.")}
    aside = sorted(n for n in tensors if n.startswith(("vae.", "image_encoder.")))
    strange = [n for n in tensors if not n.startswith(("unet.", "vae.", "image_encoder."))]
    if not used or strange:
        found = f"{strange[0]} is no part of it" if strange else "it has no tensors called unet.*"
        raise WeightsError(f"{path} is not a checkpoint of D-VST: {found}")

    # Their names to diffusers': the attention to the tone has a name of its own, and the H&E's layers lie beside.
    held = {}
    for name, tensor in used.items():
        ours = name.replace(".attn_adapter.", ".attn2.")
        is_hint = ours.startswith("condition_input_layer.")
        held[f"hint.{ours.removeprefix('condition_input_layer.')}" if is_hint else f"transformer.{ours}"] = tensor
    first = held.get("transformer.pos_embed.proj.weight")
    size: Any = "tiny" if first is not None and first.shape[0] == 16 else "published"
    options = dvst.Options(size=size, window=64 if size == "tiny" else 512)
    vae = _published_vae()
    held |= {f"vae.{n}": t for n, t in vae.state_dict().items()}
    held["tone"] = _tone(reference)
    network = dvst.DvstStainer(options)
    load_into(network, held, str(path), may_lack=())
    return Converted(network.state_dict(), options.model_dump(), stains, facts_of(network), len(used), aside)


def _published_vae() -> Any:
    """The VAE of PixArt-alpha's folder on this machine. Raises WeightsError."""
    folder = find_hub_folder(_PIXART_HUB, "vae/config.json")
    try:
        return require_diffusers().AutoencoderKL.from_pretrained(
            folder, subfolder="vae", local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder / 'vae'} cannot be read: {str(error).strip().splitlines()[0]}") from None


def _tone(pixels: NDArray[np.uint8]) -> Tensor:
    """CLIP's tokens (1, 257, 1024) of a picture, uint8 (h, w, 3), by the tower on this machine. Raises WeightsError."""
    if min(pixels.shape[:2]) < LEAST_REFERENCE:
        raise WeightsError(
            f"the reference is {pixels.shape[1]} x {pixels.shape[0]} px; wanted a patch of {LEAST_REFERENCE} px at least"
        )
    require_diffusers()
    import transformers

    folder = find_hub_folder(_CLIP_HUB, "image_encoder/config.json")
    try:
        kind: Any = transformers.CLIPVisionModelWithProjection
        tower = kind.from_pretrained(folder / "image_encoder", local_files_only=True, dtype=torch.float32).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder} cannot be read: {str(error).strip().splitlines()[0]}") from None
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        tokens: Tensor = tower(dvst.tone_picture(picture, tower.config.image_size)).last_hidden_state
    return tokens
