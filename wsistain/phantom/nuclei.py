"""Nuclei on the pixel grid: ellipsoids cut by a slab, with rim, chromatin clumps, nucleoli and mitotic figures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.cells import Cells
from wsistain.phantom.noise import F32, draw, normal, salt_of

_SIZES = (*range(5, 22), 23, 25, 28, 31, 35, 40, 50, 60)


@dataclass
class NuclearMaps:
    """float32 (h, w): haematoxylin of nuclei, share of the pixel under a nucleus, nucleoli, DAB of nuclei."""

    h: F32
    cover: F32
    nucleoli: F32
    dab: F32


def _stamp(
    c: Cells, cy: F32, cx: F32, turn: F32, half: int, mpp: float, z0: float, z1: float, clump: F32, grain: F32
) -> tuple[F32, F32, F32, F32]:
    """(haematoxylin, cover, nucleoli, path) of n nuclei, each (n, s, s); cy, cx: offset of the centre, px."""
    # Each pixel in the nucleus's own axes, um, then in units of its half axes.
    offset = np.arange(-half, half + 1, dtype=np.float32)
    dy = (offset[None, :, None] - cy[:, None, None]) * np.float32(mpp)
    dx = (offset[None, None, :] - cx[:, None, None]) * np.float32(mpp)
    ct, st = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    u, v = ct * dx + st * dy, ct * dy - st * dx
    col = [p[:, None, None] for p in (c.a, c.b, c.c, c.z, c.rough, c.dark, c.coarse, c.fine, c.nucleolus)]
    a, b, depth, z, rough, dark, coarse, fine, nucleolus = col
    un, vn = u / a, v / b
    rho = np.sqrt(un * un + vn * vn) + np.float32(1e-4)
    cos1, sin1 = un / rho, vn / rho

    # The outline: an ellipse with two and three waves round it.
    k = [normal(c.ids, salt_of(1, f"outline {i}"))[:, None, None] for i in range(5)]
    sin2, cos2 = 2 * sin1 * cos1, cos1 * cos1 - sin1 * sin1
    cos3, sin3 = cos1 * (4 * cos1 * cos1 - 3), sin1 * (3 - 4 * sin1 * sin1)
    outline = 1 + rough * (
        0.6 * (k[0] * cos2 + k[1] * sin2) + 0.7 * (k[2] * cos3 + k[3] * sin3) + 0.5 * k[4] * (cos2 * cos3)
    )
    rho = rho / np.maximum(outline, np.float32(0.5))
    # A pixel is a small square, so its edge is softened by half a pixel in the plane.
    soft = np.clip((1 - rho) * (np.minimum(a, b) / np.float32(mpp)) + np.float32(0.5), 0, 1)

    # What light crosses between the faces of the section: the nucleus, its core, and the rim of chromatin about it.
    half_z = depth * np.sqrt(np.clip(1 - rho * rho, 0, 1)) + np.float32(1e-6)
    path = np.clip(np.minimum(z + half_z, z1) - np.maximum(z - half_z, z0), 0, None)
    inner = depth * np.sqrt(np.clip(1 - (rho / np.float32(0.86)) ** 2, 0, 1))
    core = np.clip(np.minimum(z + np.float32(0.86) * inner, z1) - np.maximum(z - np.float32(0.86) * inner, z0), 0, None)
    rim = path - core

    # Chromatin, coarse and fine; coarse chromatin leaves the core pale and the rim dark.
    texture = 1 + np.float32(1.15) * coarse * clump + fine * grain * np.float32(0.5)
    vesicular = 1 - np.float32(0.62) * coarse
    h = dark * (vesicular * core * np.clip(texture, 0.12, 3) + rim * (np.float32(0.95) + np.float32(0.9) * coarse))

    # Two nucleoli.
    spots = np.zeros_like(h)
    for i in range(2):
        oy = (0.42 * (draw(c.ids, salt_of(1, f"nucleolus y{i}")) * 2 - 1) * c.b)[:, None, None]
        ox = (0.42 * (draw(c.ids, salt_of(1, f"nucleolus x{i}")) * 2 - 1) * c.a)[:, None, None]
        size = nucleolus * np.float32(0.9 if i == 0 else 0.6) + np.float32(1e-3)
        bump = np.exp(-((u - ox) ** 2 + (v - oy) ** 2) / (size * size))
        spots += np.where(nucleolus > 0.25, bump, 0) * np.minimum(core, 2)

    # A thin slice of a nucleus covers less of what lies behind.
    cover = np.minimum(path / np.float32(1.6), 1) * soft
    h = h * np.where(path > 0, np.clip(soft * 1.3, 0, 1), 0)
    mito = c.mitosis
    if mito.any():
        # A metaphase plate seen from the side: a dark bar in a cleared cell.
        bar = np.exp(-((v / 1.25) ** 4) - (u / 3.6) ** 4) * (1 + np.float32(0.35) * clump)
        h[mito] = np.clip(np.float32(0.95) * bar, 0, 2)[mito]
        spots[mito] = 0
        cover[mito] = np.clip(bar, 0, 1)[mito]
        path[mito] = (4 * np.clip(bar, 0, 1))[mito]
    return h.astype(np.float32), cover.astype(np.float32), spots.astype(np.float32), path.astype(np.float32)


def paint_nuclei(
    cells: Cells, y_px: NDArray[Any], x_px: NDArray[Any], turn: F32, z0: float, z1: float, mpp: float,
    clump: F32, grain: F32, dab_od: F32,
) -> NuclearMaps:  # fmt: skip
    """Maps of all nuclei on a window.

    y_px, x_px   : centres in the window's frame; turn: angle of the long axis on the glass.
    clump, grain : float32 (h, w), chromatin noise of unit variance at two scales.
    dab_od       : (n,) DAB optical density of each nucleus when cut whole.
    """
    # Nuclei by the size of their stamp, on a canvas with room for those that the window's border cuts.
    h, w = clump.shape
    maps = NuclearMaps(*(np.zeros((h, w), np.float32) for _ in range(4)))
    row, col = np.rint(y_px).astype(np.int64), np.rint(x_px).astype(np.int64)
    reach = np.ceil(np.where(cells.mitosis, 6.0, 1.22 * cells.a) / mpp + 1.5)
    bins = np.searchsorted(_SIZES, reach)
    pad = _SIZES[-1] + 1
    clump_p, grain_p = np.pad(clump, pad), np.pad(grain, pad)
    canvas = [np.zeros((h + 2 * pad, w + 2 * pad), np.float32) for _ in range(4)]
    seen = (row > -pad) & (row < h + pad) & (col > -pad) & (col < w + pad) & (bins < len(_SIZES))
    for size in np.unique(bins[seen]):
        half = _SIZES[size]
        group = np.flatnonzero(seen & (bins == size))
        # As many at once as keep a stack of stamps small.
        n = max(1, 400_000 // (2 * half + 1) ** 2)
        for start in range(0, len(group), n):
            some = group[start : start + n]
            r, c = row[some] + pad - half, col[some] + pad - half
            span = 2 * half + 1
            ok = (r >= 0) & (c >= 0) & (r + span <= h + 2 * pad) & (c + span <= w + 2 * pad)
            some, r, c = some[ok], r[ok], c[ok]
            if not len(some):
                continue
            at_r, at_c = (
                r[:, None, None] + np.arange(span)[None, :, None],
                c[:, None, None] + np.arange(span)[None, None, :],
            )
            part = cells.take(some)
            stamp, cover, spots, path = _stamp(
                part, (y_px[some] - row[some]).astype(np.float32), (x_px[some] - col[some]).astype(np.float32),
                turn[some], half, mpp, z0, z1, clump_p[at_r, at_c], grain_p[at_r, at_c],
            )  # fmt: skip
            # The density is proportional to the path, so the chromogen of a nucleus cut thin is weaker.
            dab = dab_od[some][:, None, None] * np.minimum(path / np.float32(3.2), 1) * np.minimum(cover * 1.2, 1)
            dab = dab * np.clip(1 + np.float32(0.16) * grain_p[at_r, at_c], 0.4, 1.6)
            # Haematoxylin of nuclei over one another adds up; cover and chromogen are those of the strongest.
            for k in range(len(some)):
                window = (slice(r[k], r[k] + span), slice(c[k], c[k] + span))
                canvas[0][window] += stamp[k]
                below = canvas[1][window]
                np.maximum(below, cover[k], out=below)
                canvas[2][window] += spots[k]
                over = canvas[3][window]
                np.maximum(over, dab[k], out=over)
    inner = (slice(pad, pad + h), slice(pad, pad + w))
    maps.h, maps.cover, maps.nucleoli, maps.dab = (np.ascontiguousarray(c[inner]) for c in canvas)
    return maps
