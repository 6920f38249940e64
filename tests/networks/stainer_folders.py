"""Folders as the authors of HistDiST and D-VST ask for them, of tiny networks of the same classes."""

import json
from pathlib import Path

import torch

from tests.networks.turbo_folder import LETTERS, write_tokenizer
from wsistain.networks.sd_turbo import build_parts
from wsistain.systems import histdist


def write_phikon(folder: Path, width: int = 16) -> Path:
    """A ViT of transformers with the names of owkin/phikon."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_histdist(folder: Path) -> Path:
    """A tiny InstructPix2Pix pipeline as diffusers saves it: unet, vae, text_encoder, tokenizer, scheduler."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vae_config, unet_config, _ = histdist.SIZES["tiny"]
    unet, vae = build_parts(vae_config, unet_config)
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    write_tokenizer(folder / "tokenizer")
    n = 2 * len(LETTERS) + 2
    text = CLIPTextConfig(
        vocab_size=n,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=n - 2,
        eos_token_id=n - 1,
        pad_token_id=0,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(levels | {"set_alpha_to_one": False}))
    return folder


def write_tone_parts(models: Path) -> None:
    """The VAE of PixArt-alpha's folder and the tower that D-VST looks at the reference with."""
    import diffusers
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from wsistain.systems import dvst

    diffusers.AutoencoderKL(**dvst.SIZES["tiny"][0]).save_pretrained(models / "PixArt-XL-2-512x512" / "vae")
    config = CLIPVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=224,
        patch_size=14,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(models / "sd-image-variations-diffusers" / "image_encoder")


def picture(side: int = 64, seed: int = 2) -> torch.Tensor:
    """A random picture (1, 3, side, side) in [-1, 1]."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
