"""Stain augmentation of H&E patches: other scanners, other laboratories, the same tissue.

Perturbs the picture in stain space (Tellez et al. 2018, doi:10.1109/TMI.2018.2820199, and 2019, arXiv:1902.06543):
amounts of dye, direction of the dyes, light, gamma, focus. The tissue stays where it is.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from wsistain.markers import HED

_DYES = np.array(HED)
_DYES = _DYES / np.linalg.norm(_DYES, axis=1, keepdims=True)
_OD = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)  # optical density of each grey level

_AMOUNT = 0.35  # full strength: each dye 0.65 to 1.35 times as strong
_ROTATION = 0.08  # change of a dye's direction, unit vectors
_SHIFT = 0.04  # optical density added to each dye: haze
_LIGHT = 0.08  # each colour of the lamp, in optical density
_GAMMA = 0.2
_BLUR = 1.2  # px, half of the patches


def stain_jitter(he: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`he` uint8 (h, w, 3) as another laboratory and scanner might have shown it: uint8 (h, w, 3).

    strength : 0 (returns `he` itself) to 1 (strong: more than scanners differ in practice).
    rng      : takes the same number of draws whatever the picture.

    Glass stays light: haze and lamp move white by at most 0.12 in optical density.
    """
    if strength == 0:
        return he
    amount = 1 + strength * rng.uniform(-_AMOUNT, _AMOUNT, 3)
    dyes = _DYES + strength * rng.uniform(-_ROTATION, _ROTATION, (3, 3))
    dyes = np.maximum(dyes, 0) / np.linalg.norm(np.maximum(dyes, 0), axis=1, keepdims=True)
    shift = strength * rng.uniform(0, _SHIFT, 3)
    light = strength * rng.uniform(0, _LIGHT, 3)
    gamma = 1 + strength * rng.uniform(-_GAMMA, _GAMMA)
    sigma = strength * rng.uniform(0, _BLUR) * (rng.random() < 0.5)
    # Unmix, scale, remix: one matrix on optical density, then an offset.
    matrix = (np.linalg.inv(_DYES) @ np.diag(amount) @ dyes).astype(np.float32)
    offset = (shift @ dyes + light).astype(np.float32)
    od = (_OD[he] @ matrix + offset) * np.float32(gamma)
    if sigma > 0.2:
        od = gaussian_filter(od, (sigma, sigma, 0), truncate=3.0)
    levels = np.clip(np.rint(255 * np.exp(np.float32(-np.log(10)) * od)), 0, 255)
    return np.asarray(levels, dtype=np.uint8)
