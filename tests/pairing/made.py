"""Two stains of one made tissue whose displacement is known."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from wsistain.markers import DAB, EOSIN, HAEMATOXYLIN

MPP = 2.0
SIDE = 760
Place = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def tissue(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inside (0 or 1), amount of haematoxylin and of the other dye, float32 (SIDE, SIDE) each; a lobed piece with nests."""
    rng = np.random.default_rng(seed)
    noise = [rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32) for _ in range(3)]
    lobes, nests, fine = (gaussian_filter(n, s) * s for n, s in zip(noise, (60, 14, 1.6), strict=True))
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (np.hypot((y - 365) / 280, (x - 390) / 230) + 0.5 * lobes + 0.15 * np.sin(x / 90) < 1).astype(np.float32)
    density = inside * np.clip(0.25 + 0.5 * (nests > 0.1) + 0.3 * fine, 0.02, 1.6)
    return inside, density, inside * (0.25 + 0.2 * (nests < 0))


def stained(amounts: list[tuple[np.ndarray, tuple[float, float, float]]]) -> np.ndarray:
    """uint8 (h, w, 3) of amounts of dyes over glass of 243."""
    od = sum(a[..., None] * (np.array(c) / np.linalg.norm(c)) for a, c in amounts)
    return np.rint(243 * 10.0**-od).clip(0, 255).astype(np.uint8)


def write_pair(
    folder: Path, place: Place, *, seeds: tuple[int, int] = (0, 0), shape: tuple[int, int] = (SIDE, SIDE)
) -> tuple[Path, Path]:
    """H&E and IHC pictures of `MPP` um per px: the IHC shows at (y, x) px what the H&E shows at `place(y, x)` px."""
    inside, density, other = tissue(seeds[0])
    he = stained([(density, HAEMATOXYLIN), (other, EOSIN)])
    if seeds[1] != seeds[0]:
        inside, density, other = tissue(seeds[1])
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    at = np.stack(place(y, x))
    moved, where = (map_coordinates(p, at, order=1) for p in (density, inside))
    rng = np.random.default_rng(5)
    brown = where * (gaussian_filter(rng.normal(0, 1, shape), 12) * 12 > 0.3) * 0.6
    ihc = stained([(0.7 * moved, HAEMATOXYLIN), (brown, DAB.od)])
    paths = folder / "he.png", folder / "ihc.png"
    for path, picture in zip(paths, (he, ihc), strict=True):
        path.write_bytes(imagecodecs.png_encode(picture, level=1))
    return paths


def wavy(turn_deg: float = 0.0, *, face_down: bool = False, wave_px: float = 8.0) -> tuple[Place, Place]:
    """A place map as `write_pair` wants it, and its inverse (H&E px to IHC px), both exact to a few hundredths of a px."""
    a, c = np.deg2rad(turn_deg), (SIDE - 1) / 2
    sign = -1.0 if face_down else 1.0

    def wave(y, x):
        return wave_px * np.sin(x / 110), wave_px * np.sin(y / 130)

    def inverse(y, x):
        wy, wx = wave(y, x)
        dy, dx = y + wy - c, sign * (x + wx - c)
        return np.cos(a) * dy - np.sin(a) * dx + c, np.sin(a) * dy + np.cos(a) * dx + c

    def place(y, x):
        dy, dx = np.cos(a) * (y - c) + np.sin(a) * (x - c), -np.sin(a) * (y - c) + np.cos(a) * (x - c)
        ty, tx = dy + c, sign * dx + c
        gy, gx = ty, tx
        for _ in range(12):
            wy, wx = wave(gy, gx)
            gy, gx = ty - wy, tx - wx
        return gy, gx

    return place, inverse
