"""Synthetic thumbnails whose truth is known: stains and inks by Beer-Lambert on glass, with scanner noise."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

GLASS = np.array([238.0, 236.0, 240.0])
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.99, 0.45])
INKS = {"red": (0.08, 1.0, 0.85), "green": (1.0, 0.45, 0.8), "blue": (1.0, 0.6, 0.12), "black": (1.0, 1.0, 1.0)}
SHAPE = (300, 400)

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


def rng(seed: int = 0) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng(seed)


def texture(shape: tuple[int, int], sigma: float, seed: int) -> F64:
    """Smooth noise, 0..1."""
    noise = ndimage.gaussian_filter(rng(seed).normal(size=shape), sigma)
    return (noise - noise.min()) / (noise.max() - noise.min())


def picture(od: F64, seed: int = 9) -> NDArray[np.uint8]:
    """uint8 (h, w, 3) of an optical density (h, w, 3) on glass."""
    light = GLASS * 10**-od + rng(seed).normal(0, 1.2, od.shape)
    return np.clip(light, 0, 255).astype(np.uint8)


def he(shape: tuple[int, int] = SHAPE) -> F64:
    """OD of H&E tissue everywhere, with nuclei and fibres of a few px."""
    nuclei, fibres = 0.5 * texture(shape, 1, 1), 0.4 * texture(shape, 2, 2)
    return nuclei[..., None] * HAEMATOXYLIN + fibres[..., None] * EOSIN


def piece(od: F64, where: Mask) -> F64:
    """OD in a part of the picture, glass elsewhere."""
    return np.where(where[..., None], od, 0.0)


def box(top: int, left: int, height: int, width: int, shape: tuple[int, int] = SHAPE) -> Mask:
    """A rectangle of True."""
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def stroke(ink: str, top: int, height: int, most: float, shape: tuple[int, int] = SHAPE) -> F64:
    """OD of a streaky stroke of a felt-tip pen from left to right: thick and thin lines along it, as ink dries."""
    across = 0.03 + (most - 0.03) * rng(3).random((height, 1)) ** 2
    along = 0.6 + 0.4 * texture((1, shape[1]), 20, 4)
    od = np.zeros((*shape, 3))
    od[top : top + height] = (ndimage.gaussian_filter(across, (1, 0)) * along)[..., None] * np.array(INKS[ink])
    return od
