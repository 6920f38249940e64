"""A folder in SD-Turbo's layout with random weights and a tiny vocabulary: what the hub gives, at a thousandth of the size."""

import json
from pathlib import Path

import torch

from wsistain.networks.sd_turbo import load_base

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789&"


def write_tokenizer(folder: Path) -> None:
    """CLIP's byte-pair tokenizer over single letters, its last two ids start and end of the text."""
    folder.mkdir(parents=True)
    tokens = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "a",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_base(folder: Path, seed: int = 0) -> Path:
    """Tiny unet, vae, text_encoder, tokenizer below `folder`, as diffusers and transformers save them."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet, vae = load_base("tiny")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    write_tokenizer(folder / "tokenizer")
    n = 2 * len(LETTERS) + 2
    config = CLIPTextConfig(
        vocab_size=n,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=n - 2,
        eos_token_id=n - 1,
        pad_token_id=0,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder
