"""Small patch folders for tests: pictures whose pixels tell where they were cut from."""

from pathlib import Path

import numpy as np
from PIL import Image


def tissue(seed: int, px: int) -> tuple[np.ndarray, np.ndarray]:
    """An H&E-like and an IHC-like picture of the same made-up tissue, uint8 (px, px, 3) each."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (px // 8 + 1, px // 8 + 1))
    density = np.kron(coarse, np.ones((8, 8)))[:px, :px]
    he = np.stack([255 - 90 * density, 255 - 150 * density, 255 - 60 * density], axis=-1)
    ihc = np.stack([250 - 60 * density, 245 - 120 * density, 240 - 180 * density], axis=-1)
    return he.astype(np.uint8), ihc.astype(np.uint8)


def coordinates(px: int) -> np.ndarray:
    """uint8 (px, px, 3): red counts columns, green counts rows; px at most 256."""
    y, x = np.mgrid[:px, :px]
    return np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8)


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def make_mist(
    root: Path, *, marker: str = "ER", n_train: int = 5, n_val: int = 2, px: int = 96, truth: bool = True
) -> Path:
    """MIST's layout under `root`: <marker>/TrainValAB/{trainA,trainB,valA,valB,valTruthB}; two slides a split."""
    base = root / marker / "TrainValAB"
    for part, n in (("train", n_train), ("val", n_val)):
        for i in range(n):
            he, ihc = tissue(i + 100 * (part == "val"), px)
            name = f"{part}Slide{i % 2}_{i}_0.png"
            save(he, base / f"{part}A" / name)
            save(ihc, base / f"{part}B" / name)
            if truth and part == "val":
                save(ihc, base / "valTruthB" / name)
    return root
