"""What lies between a section and its picture in v1 of the phantom: areas out of focus, and strokes of a pen.

Both are fields of the glass, in um, that can be asked for at any place; the truth of the cells does not know of them.
"""

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.noise import F32, Floats, draw, hash_at, salt_of, smooth_noise, uniform

MOST_BLUR_UM = 1.5
PENNED = 0.15
"""Share of the H&E slides that somebody marked."""
PITCH_UM = 3000.0
INKS = ((0.82, 0.52, 0.22), (0.62, 0.57, 0.54), (0.75, 0.30, 0.59), (0.10, 0.74, 0.66))
"""Optical densities by channel of a blue, a black, a green and a red pen."""


def blur_um(seed: int, glass: str, y: Floats, x: Floats) -> F32 | None:
    """Standard deviation, um, of the blur beyond the lens's own at places of the glass, at most `MOST_BLUR_UM`; None: all is sharp.

    Half of the slides have such areas, wide ones: a section is not flat, and a scanner sets its focus at a few places.
    """
    u = draw(np.arange(2, dtype=np.uint64), salt_of(seed, f"focus {glass}"))
    if u[0] < 0.5:
        return None
    field = smooth_noise(salt_of(seed, f"focus field {glass}"), y, x, 900.0)
    blur: F32 = np.clip((field - np.float32(1.5 - 0.9 * u[1])) * np.float32(1.1), 0, MOST_BLUR_UM)
    return blur if blur.any() else None


def ink(seed: int, y: Floats, x: Floats) -> tuple[F32, tuple[float, float, float]] | None:
    """(amount 0..1.2, optical density by channel) of a pen on the cover glass of the H&E; None where there is none."""
    u = draw(np.arange(2, dtype=np.uint64), salt_of(seed, "pen"))
    if u[0] >= PENNED:
        return None
    depth = np.full(np.broadcast_shapes(y.shape, x.shape), -1e3, np.float32)
    for r in range(int(np.floor(y.min() / PITCH_UM)) - 1, int(np.floor(y.max() / PITCH_UM)) + 2):
        for c in range(int(np.floor(x.min() / PITCH_UM)) - 1, int(np.floor(x.max() / PITCH_UM)) + 2):
            bits = hash_at(salt_of(seed, "stroke"), np.array([r]), np.array([c]))
            if float(uniform(bits)[0]) < 0.45:
                depth = np.maximum(depth, _stroke(seed, bits, r, c, y, x))
    if depth.max() < -30:
        return None
    streaks = 1 + np.float32(0.16) * smooth_noise(salt_of(seed, "ink"), y, x, 90.0)
    amount: F32 = np.clip(depth / np.float32(40) + np.float32(0.5), 0, 1) * streaks
    return amount, INKS[int(u[1] * len(INKS))]


def _stroke(seed: int, bits: NDArray[np.uint64], row: int, col: int, y: Floats, x: Floats) -> F32:
    """um into one stroke: a bent bar with round ends."""
    u = [float(draw(bits, salt_of(1, f"stroke {k}"))[0]) for k in range(5)]
    dy, dx = y - (row + u[0]) * PITCH_UM, x - (col + u[1]) * PITCH_UM
    c, s = np.cos(np.pi * u[2]), np.sin(np.pi * u[2])
    half, width = 500 + 1200 * u[3], 150 + 130 * u[4]
    along, across = c * dy + s * dx, c * dx - s * dy
    across = across + 60 * smooth_noise(salt_of(seed, "bent"), y, x, 900.0)
    over = np.clip(np.abs(along) - half, 0, None)
    inside: F32 = (width - np.hypot(over, across)).astype(np.float32)
    return inside
