"""Small slides and settings for the pipeline's tests."""

import hashlib
from pathlib import Path

import numpy as np
import tifffile

from wsistain.config import RunConfig, validate

SMALL = {
    "weights": "identity",
    "tiling": {"stride": 64, "overlap": 16, "halo": 0, "block": 256},
    "output": {"chunk": 64, "shard": 128, "preview_px": 128},
}


def small_config(**changes) -> RunConfig:
    """Tiny tiles, blocks and shards, so that a small slide has many; `changes` replace or extend top-level keys."""
    values = {**SMALL, **{k: v for k, v in changes.items() if k not in ("tiling", "output")}}
    for part in ("tiling", "output"):
        values[part] = {**SMALL[part], **changes.get(part, {})}
    return validate(RunConfig, values, "test")


def tissue_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (h, w, 3): textured pink tissue over most of the picture, glass round it."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 245, np.uint8)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height * 0.5) / (height * 0.42)) ** 2 + ((x - width * 0.5) / (width * 0.42)) ** 2 < 1
    texture = np.stack([rng.integers(lo, lo + 60, (height, width)) for lo in (150, 70, 130)], axis=2).astype(np.uint8)
    picture[inside] = texture[inside]
    return picture


def write_slide(path: Path, picture: np.ndarray, mpp: float = 0.5) -> Path:
    """A lossless tiled TIFF slide with `picture` as level 0."""
    per_cm = 1e4 / mpp
    tifffile.imwrite(
        path,
        picture,
        tile=(128, 128),
        photometric="rgb",
        compression="zlib",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


def tree_hash(folder: Path) -> str:
    """Digest of the names and bytes of every pixel file under an OME-Zarr (metadata holds dates)."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        if file.name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"):
            continue
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def level0(folder: Path) -> np.ndarray:
    """Level 0 of an OME-Zarr as uint8 (h, w, 3)."""
    import zarr

    return np.moveaxis(zarr.open_group(str(folder), mode="r")["0"][:], 0, 2)
