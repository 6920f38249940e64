"""The base model under the turbo systems: SD-Turbo from a folder in diffusers' layout, or a small random one.

SD-Turbo may not be passed on with our weights, so weights name it (hub id and fingerprint) and it is looked up on
the machine. The built-in bases have the same classes at a fraction of the size, are random, and are stored whole.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wsistain.errors import WeightsError
from wsistain.published.places import find_hub_folder

SD_TURBO = "stabilityai/sd-turbo"
_PROBE = "unet/config.json"
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
ALL_PARTS = (*_WEIGHTS, "tokenizer")
"""What training needs; staining needs the first two, since weights hold the embedded prompt."""

_FORMS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")  # as the hub's folders have them, best first
_PIECES = 64
_PIECE_BYTES = 1 << 16

_VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_UNET: dict[str, Any] = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "use_linear_projection": True,
    "in_channels": 4,
    "out_channels": 4,
}
# Sizes of the published model (its config.json) and of the built-in ones.
PUBLISHED_VAE = _VAE | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
PUBLISHED_UNET = _UNET | {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "sample_size": 64,
}
PUBLISHED_TOKENS = 77
_BUILT_IN: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "tiny": (
        _VAE | {"block_out_channels": [8, 16, 24, 24], "layers_per_block": 1, "norm_num_groups": 4},
        _UNET
        | {
            "block_out_channels": [8, 16, 16, 16],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 16,
            "attention_head_dim": [2, 2, 2, 2],
        },
        7,
    ),
    "small": (
        _VAE | {"block_out_channels": [32, 48, 64, 64], "layers_per_block": 1, "norm_num_groups": 8},
        _UNET
        | {
            "block_out_channels": [48, 64, 96, 96],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "attention_head_dim": [2, 4, 4, 4],
        },
        7,
    ),
}
BUILT_IN = tuple(_BUILT_IN)


def require_diffusers() -> ModuleType:
    """The diffusers package, with peft and transformers beside it; WeightsError naming the extra when one is absent."""
    try:
        import diffusers
        import peft  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise WeightsError(f"the turbo systems need {error.name}: pip install 'wsistain[train]'") from None
    return diffusers


def find_base(base: str, parts: Sequence[str] = ("unet", "vae")) -> Path:
    """The folder of the base model `base` (hub id or folder), with every one of the `parts` (see `ALL_PARTS`).

    Raises WeightsError with the command that fetches it, or naming all that it lacks.
    """
    folder = find_hub_folder(base, _PROBE)
    lacking = [
        f"{part}/config.json" for part in parts if part in _WEIGHTS and not (folder / part / "config.json").is_file()
    ]
    lacking += [f"{p}/{_WEIGHTS[p]}{_FORMS[0]}" for p in parts if p in _WEIGHTS and _weights_file(folder, p) is None]
    if "tokenizer" in parts and not any(
        (folder / "tokenizer" / name).is_file() for name in ("vocab.json", "tokenizer.json")
    ):
        lacking.append("tokenizer/vocab.json")
    if lacking:
        raise WeightsError(f"{folder} is not all of the base model: it lacks {', '.join(lacking)} (hf download {base})")
    return folder


def _weights_file(folder: Path, part: str) -> Path | None:
    """The file of weights of a `part`, in the best form that is there; None where there is none."""
    stem = _WEIGHTS[part]
    stems = (stem, "pytorch_model") if part == "text_encoder" else (stem,)
    files = (folder / part / f"{name}{form}" for form in _FORMS for name in stems)
    return next((file for file in files if file.is_file()), None)


def _reading(folder: Path, part: str) -> dict[str, Any]:
    """How `from_pretrained` is told to read a `part` in the form in which it is there."""
    file = _weights_file(folder, part)
    assert file is not None  # find_base has looked
    return {
        "local_files_only": True,
        "use_safetensors": file.suffix == ".safetensors",
        "variant": "fp16" if ".fp16." in file.name else None,
    }


def build_parts(vae_config: dict[str, Any], unet_config: dict[str, Any]) -> tuple[Any, Any]:
    """A random (`UNet2DConditionModel`, `AutoencoderKL`) of these configurations, on the current default device."""
    diffusers = require_diffusers()
    return diffusers.UNet2DConditionModel(**unet_config), diffusers.AutoencoderKL(**vae_config)


def load_base(base: str) -> tuple[Any, Any]:
    """(`UNet2DConditionModel`, `AutoencoderKL`) of `base`, float32 on the CPU.

    base : a built-in name ("tiny", "small"; random), a hub id, or a folder in diffusers' layout, whose weights may be
           safetensors or `.bin` files (read without running code), in full or half precision.

    Raises WeightsError when the base is not on this machine or its files do not fit their configuration.
    """
    if base in _BUILT_IN:
        vae_config, unet_config, _ = _BUILT_IN[base]
        return build_parts(vae_config, unet_config)
    diffusers = require_diffusers()
    folder = find_base(base)
    return (
        _load_part(diffusers.UNet2DConditionModel, folder, "unet"),
        _load_part(diffusers.AutoencoderKL, folder, "vae"),
    )


def _load_part(kind: Any, folder: Path, part: str) -> Any:
    try:
        model, report = kind.from_pretrained(
            folder,
            subfolder=part,
            **_reading(folder, part),
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, json.JSONDecodeError) as error:
        problem = f"{folder / part} is not a readable {kind.__name__} in diffusers' layout"
        raise WeightsError(f"{problem}: {_first_line(error)}") from None
    faults = [f"{word} {name}" for word in ("missing", "unexpected") for name in sorted(report[f"{word}_keys"])]
    if faults:
        raise WeightsError(f"{folder / part} does not fit its config.json: {', '.join(faults[:3])}")
    return model


def base_fingerprint(base: str) -> str:
    """Hex SHA-256 over the sizes and 64 evenly spaced pieces (64 KiB) of the U-Net's and the VAE's files.

    "" for the built-in bases. A sample, not the whole: SD-Turbo is 3.8 GB, and every other model differs everywhere.
    """
    if base in _BUILT_IN:
        return ""
    digest = hashlib.sha256()
    for part in ("unet", "vae"):
        path = _weights_file(find_base(base), part)
        assert path is not None  # find_base has looked
        try:
            size = path.stat().st_size
            digest.update(f"{part}:{size};".encode())
            with path.open("rb") as file:
                for i in range(_PIECES):
                    file.seek(max(size - _PIECE_BYTES, 0) * i // (_PIECES - 1))
                    digest.update(file.read(_PIECE_BYTES))
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error}") from None
    return digest.hexdigest()


def check_fingerprint(base: str, wanted: str) -> None:
    """Nothing, or a WeightsError when the base model on this machine is not the one that was trained on."""
    found = base_fingerprint(base)
    if wanted and found != wanted:
        raise WeightsError(
            f"the model {base} on this machine is another one than these weights were trained on, or the same in another "
            f"form (half precision, .bin): fingerprint {found[:12]}, wanted {wanted[:12]}"
        )


def embed_prompt(base: str, text: str) -> Tensor:
    """Embedding of `text` by the base's text encoder, float (1, 77, 1024) for SD-Turbo.

    A built-in base has no text encoder: a random embedding that depends on the text alone.
    """
    if base in _BUILT_IN:
        _, unet_config, n_tokens = _BUILT_IN[base]
        # Seeded by a digest: Python's own hash of a text differs from process to process.
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))
        return torch.randn(1, n_tokens, unet_config["cross_attention_dim"], generator=generator)
    require_diffusers()
    from transformers import CLIPTextModel

    folder = find_base(base, ("text_encoder",))
    try:
        encoder: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder", **_reading(folder, "text_encoder"), dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"the text encoder in {folder} cannot be read: {_first_line(error)}") from None
    encoder.eval()
    with torch.no_grad():
        embedding: Tensor = encoder(torch.tensor([tokenize(base, text)]))[0]
    return embedding


def tokenize(base: str, text: str) -> list[int]:
    """Token ids of `text` by the tokenizer of a base that has one, padded to its length (77 for SD-Turbo)."""
    require_diffusers()
    from transformers import CLIPTokenizer

    folder = find_base(base, ("tokenizer",))
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"the tokenizer in {folder} cannot be read: {_first_line(error)}") from None
    ids = tokenizer(text, max_length=tokenizer.model_max_length, padding="max_length", truncation=True).input_ids
    return [int(i) for i in ids]


def prompt_tokens(base: str) -> int:
    """How many tokens a prompt of `base` has: its embedding is (1, n, c)."""
    return _BUILT_IN[base][2] if base in _BUILT_IN else PUBLISHED_TOKENS


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
