"""A small, fast, deterministic slide with H&E-like tissue, for tests, benchmarks and first tries.

No cell table and no second stain: the full phantom makes those. A pixel depends on (seed, y, x) only, to within a grey level.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsistain.markers import EOSIN, HAEMATOXYLIN
from wsistain.phantom.tiff import Compression, aperio_description, write_pyramid

F32 = NDArray[np.float32]
F64 = NDArray[np.floating]
I64 = NDArray[np.int64]
RGB = NDArray[np.uint8]

_H, _E = np.array(HAEMATOXYLIN, np.float32), np.array(EOSIN, np.float32)
_CELL_UM = 11.0


def _hash(row: I64, col: I64, salt: int) -> F32:
    """Uniform float32 in [0, 1) for each (row, col); the same for the same three numbers, everywhere."""
    x = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ col.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= np.uint64(salt * 0x165667B19E3779F9 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform: F32 = ((x ^ (x >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return uniform


def _noise(y: F64, x: F64, period: float, salt: int) -> F32:
    """Smooth value noise in [0, 1] with lattice `period` at the places of the open grid (y, x)."""
    v, u = y / period, x / period
    r, c = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
    fv, fu = (v - r).astype(np.float32), (u - c).astype(np.float32)
    sv, su = fv * fv * (3 - 2 * fv), fu * fu * (3 - 2 * fu)
    top = _hash(r, c, salt) * (1 - su) + _hash(r, c + 1, salt) * su
    low = _hash(r + 1, c, salt) * (1 - su) + _hash(r + 1, c + 1, salt) * su
    noise: F32 = top * (1 - sv) + low * sv
    return noise


def _nuclei(y_um: F64, x_um: F64, share: F32, seed: int) -> F32:
    """Haematoxylin amount of soft discs, one or none in each cell of a jittered lattice; y_um (h, 1), x_um (1, w)."""
    rows, cols = np.floor(y_um / _CELL_UM).astype(np.int64)[:, 0], np.floor(x_um / _CELL_UM).astype(np.int64)[0]
    r0, c0 = rows[0] - 1, cols[0] - 1
    r, c = np.arange(r0, rows[-1] + 2)[:, None], np.arange(c0, cols[-1] + 2)[None, :]
    cy = ((r + 0.15 + 0.7 * _hash(r, c, seed * 8 + 1)) * _CELL_UM - y_um[0, 0]).astype(np.float32)
    cx = ((c + 0.15 + 0.7 * _hash(r, c, seed * 8 + 2)) * _CELL_UM - x_um[0, 0]).astype(np.float32)
    radius = 2.4 + 2.2 * _hash(r, c, seed * 8 + 3)
    lot, dark = _hash(r, c, seed * 8 + 4), 0.7 + 0.5 * _hash(r, c, seed * 8 + 5)
    y, x = (y_um - y_um[0, 0]).astype(np.float32), (x_um - x_um[0, 0]).astype(np.float32)
    amount = np.zeros(share.shape, np.float32)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            at = np.ix_(rows + dr - r0, cols + dc - c0)
            gap = np.sqrt((y - cy[at]) ** 2 + (x - cx[at]) ** 2) - radius[at]
            amount = np.maximum(amount, np.clip(0.5 - gap, 0, 1) * (lot[at] < share) * dark[at])
    return amount


def render_quick(y: int, x: int, h: int, w: int, *, shape: tuple[int, int], mpp: float, seed: int) -> RGB:
    """uint8 (h, w, 3) of the window at (y, x), px, of the quick slide of `shape`; glass is 255 nearly everywhere."""
    # Tissue: noise at two scales, kept off the border of the slide.
    y_px, x_px = np.arange(y, y + h, dtype=np.int64)[:, None], np.arange(x, x + w, dtype=np.int64)[None, :]
    y_um, x_um = (y_px + 0.5) * mpp, (x_px + 0.5) * mpp
    extent = max(min(shape) * mpp, 1.0)
    edge = np.minimum(
        np.minimum(y_px, shape[0] - 1 - y_px) / shape[0], np.minimum(x_px, shape[1] - 1 - x_px) / shape[1]
    )
    body = _noise(y_um, x_um, extent / 2.6, seed * 8 + 6) + 0.35 * _noise(y_um, x_um, extent / 11, seed * 8 + 7)
    tissue = np.clip((body + 1.4 * np.minimum(edge, 0.2).astype(np.float32) - 0.72) * extent / 25, 0, 1)
    if not tissue.any():
        return np.full((h, w, 3), 255, np.uint8)
    # Nuclei, denser in nests, and fibres between.
    nest = np.clip((_noise(y_um, x_um, 90.0, seed * 8 + 8) - 0.5) * 8, 0, 1)
    nuclei = _nuclei(y_um, x_um, 0.25 + 0.7 * nest, seed) * tissue
    fibre = _noise(y_um + 0.6 * x_um, 0.25 * x_um, 4.0, seed * 8 + 9)
    cytoplasm = tissue * (0.16 + 0.18 * fibre * (1 - nest) + 0.10 * nest) * (1 - 0.6 * nuclei)
    density = (nuclei * 0.62 + 0.05 * tissue * nest)[..., None] * _H + cytoplasm[..., None] * _E
    grain = (_hash(y_px, x_px, seed * 8 + 10) - 0.5)[..., None] * 6
    light = 255 * np.power(np.float32(10), -density) + grain * (tissue[..., None] > 0) + 0.5
    rgb: RGB = np.clip(light, 0, 255).astype(np.uint8)
    return rgb


def write_quick_slide(
    path: str | Path,
    *,
    height: int,
    width: int,
    mpp: float = 0.5,
    seed: int = 0,
    tile_px: int = 256,
    compression: Compression = "jpeg",
    quality: int = 85,
    levels: int = 3,
    vendor: Literal["generic", "aperio"] = "generic",
) -> Path:
    """Path of a pyramidal TIFF of `height` x `width` px with H&E-like patches of tissue on glass.

    mpp, tile_px, compression, quality, levels : as in `write_pyramid` (levels halve).
    vendor : "aperio" adds the ImageDescription of an SVS file; "jpeg2000" (Aperio's code) is read by OpenSlide
             only with it.

    Same arguments, same bytes. Raises as `write_pyramid`.
    """
    shape = (height, width)

    def window(y: int, x: int, h: int, w: int) -> RGB:
        return render_quick(y, x, h, w, shape=shape, mpp=mpp, seed=seed)

    description = aperio_description(shape, mpp, tile_px, quality) if vendor == "aperio" else None
    return write_pyramid(
        path,
        shape,
        mpp,
        window,
        tile_px=tile_px,
        quality=quality,
        levels=levels,
        compression=compression,
        description=description,
        block_px=tile_px * max(1, 1024 // tile_px),
    )
