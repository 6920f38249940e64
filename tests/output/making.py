"""Small outputs for the tests of this folder."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.config import OutputConfig
from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid
from wsistain.output.store import BlockDone, OutputSpec, create_output, write_block


def tissue_like(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise in the left half, glass in the right half but for one dark pixel in the last corner."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    noisy = max(width // 2, 1)
    pixels[:, :noisy] = np.random.default_rng(seed).integers(0, 256, (height, noisy, 3), dtype=np.uint8)
    pixels[-1, -1] = 7
    return pixels


def small_spec(path: Path, height: int, width: int, **changes: object) -> OutputSpec:
    """A spec of small sizes; `changes` are of its fields or of its storage."""
    storage = {"chunk": 32, "shard": 64, **{k: v for k, v in changes.items() if k in OutputConfig.model_fields}}
    fields = {"block": 128, "mpp": 0.5, **{k: v for k, v in changes.items() if k not in OutputConfig.model_fields}}
    return OutputSpec(str(path), height, width, storage=OutputConfig(**storage), **fields)


def block_of(spec: OutputSpec, pixels: NDArray[np.uint8], row: int, col: int) -> NDArray[np.uint8]:
    edge = spec.block
    return pixels[row * edge : (row + 1) * edge, col * edge : (col + 1) * edge]


def places(spec: OutputSpec) -> list[tuple[int, int]]:
    rows, cols = spec.block_grid
    return [(row, col) for row in range(rows) for col in range(cols)]


def write_all(spec: OutputSpec, pixels: NDArray[np.uint8], *, threads: int = 1, finish: bool = True) -> list[BlockDone]:
    create_output(spec)
    done = [write_block(spec, row, col, block_of(spec, pixels, row, col), threads=threads) for row, col in places(spec)]
    finish_pyramid(spec, threads=threads)
    if finish:
        write_metadata(spec, {"system": "test", "marker": "ER"}, "test (virtual)", key={"plan": "p"})
    return done


def mean_pyramid(pixels: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """The levels by the definition: mean of the pixels that exist, rounded half up, in exact integers."""
    levels = [pixels]
    for _ in range(count - 1):
        finer = levels[-1].astype(np.int64)
        rows, cols = np.arange(0, finer.shape[0], 2), np.arange(0, finer.shape[1], 2)
        sums = np.add.reduceat(np.add.reduceat(finer, rows, axis=0), cols, axis=1)
        covered = np.add.reduceat(np.add.reduceat(np.ones(finer.shape[:2], np.int64), rows, axis=0), cols, axis=1)[
            ..., None
        ]
        levels.append(((2 * sums + covered) // (2 * covered)).astype(np.uint8))
    return levels


def tree_hash(folder: Path, *, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest of every file below `folder` by relative path, but for folders named in `skip`."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not set(p.relative_to(folder).parts) & set(skip)
    }
