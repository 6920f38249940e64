"""Patches with brown nuclei at known places, and small weights, for the tests of the report."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import hed2rgb

from wsistain.systems.cut import generator_network
from wsistain.weights.file import Header, save_weights


def section(seed: int, px: int, positive: float = 0.5, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """H&E and IHC of one made section, uint8 (px, px, 3) each; a share `positive` of the nuclei is brown."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:px, :px]
    h = np.zeros((px, px))
    e = 0.02 + 0.01 * np.sin(x / 17 + seed) * np.cos(y / 11)
    d = np.zeros((px, px))
    for _ in range(px * px // 400):
        cy, cx = rng.uniform(0, px, 2)
        disc = np.hypot(y - cy - shift, x - cx) < 5
        h[disc] = 0.08
        if rng.random() < positive:
            d[disc] = 0.12
    noise = rng.normal(0, 0.002, (px, px))
    he = hed2rgb(np.stack([h + noise, e, 0 * d], axis=2))
    ihc = hed2rgb(np.stack([h / 2 + noise, 0 * e, d], axis=2))
    return tuple((np.clip(p, 0, 1) * 255).round().astype(np.uint8) for p in (he, ihc))


def write(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def make_mist(root: Path, *, n_val: int = 6, n_train: int = 2, px: int = 96, slides: int = 3) -> Path:
    """MIST's layout for ER with PNG patches; the validation slides differ in how much is positive."""
    base = root / "ER" / "TrainValAB"
    for part, n in (("train", n_train), ("val", n_val)):
        for i in range(n):
            slide = i % slides
            he, ihc = section(i + 50 * (part == "val"), px, positive=0.15 + 0.3 * slide)
            for side, picture in (("A", he), ("B", ihc)):
                write(base / f"{part}{side}" / f"{part}{slide}_{i}_0.png", picture)
    stated = {"parameters": {"kind": "made", "marker": "ER", "mpp": 0.4661}}
    (root / "ER" / "manifest.json").write_text(json.dumps(stated), encoding="utf-8")
    return root


def make_bci(root: Path, n: int = 6, px: int = 96) -> Path:
    """BCI's layout in folders: test patches of two levels, names without a slide."""
    for part in ("train", "test"):
        for i in range(n):
            he, ihc = section(i, px)
            level = ("1+", "3+")[i % 2]
            for side, picture in (("HE", he), ("IHC", ihc)):
                write(root / side / part / f"{i:05d}_{part}_{level}.png", picture)
    return root


def make_weights(path: Path, *, marker: str = "ER", mpp: float = 0.4661, seed: int = 0) -> Path:
    """A narrow random CUT generator in a weights file."""
    import torch

    torch.manual_seed(seed)
    options = {"n_blocks": 1, "ngf": 2}
    header = Header(
        system="cut", options=options, markers=[marker], mpp=mpp, tile_px=64, size_multiple=4, training_data="made"
    )
    save_weights(path, header, generator_network(options).state_dict())
    return path
