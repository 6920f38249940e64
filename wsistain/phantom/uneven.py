"""Membranes and fat of v1 of the phantom: rings of many widths, thin at lumens, and fat whose walls are frayed, torn and filmed over."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.noise import F32, U64, draw, fractal, salt_of

if TYPE_CHECKING:
    from wsistain.phantom.paint import Window

APICAL = 0.5
"""Share of a membranous marker's density that the side of a cell at a lumen keeps: it lies at the sides and the base."""

NO_FAT = -100.0
"""um: deeper outside a vacuole than this there is no fat to fray."""


def ring_of(own: U64, other: U64, hole: F32, sway: F32, clump: F32) -> tuple[F32, F32]:
    """(width, um; share of its full density) of the membrane at n pixels, float32 (n,).

    own, other  : identities of the two nearest cells: one border has one width, whichever side a pixel lies on.
    hole        : um into a lumen; sway, clump: textures of unit variance, along the border and in grains.
    """
    pair = own ^ other
    width = np.float32(0.42) + np.float32(0.62) * draw(pair, salt_of(1, "ring")) + np.float32(0.18) * sway
    width = np.clip(width + np.float32(0.05) * clump, 0.34, 1.45)
    uneven = np.clip(
        1 + np.float32(0.12) * clump + np.float32(0.35) * (draw(pair, salt_of(1, "dense")) - 0.5), 0.45, 1.5
    )
    side = 1 - np.float32(1 - APICAL) * np.exp(-(((np.clip(hole, -9, 9) + np.float32(0.9)) / np.float32(1.4)) ** 2))
    return width.astype(np.float32), (uneven * side).astype(np.float32)


def frayed(seed: int, win: "Window", vacuole: F32, bundle: F32, cloud: F32) -> tuple[F32, F32]:
    """(um into the vacuole of a fat cell, share of what the processing left in it, 0..0.16) at every pixel.

    vacuole : um, as v0 has it: clean edges, every wall whole. bundle, cloud: textures of unit variance.
    """
    near = vacuole > NO_FAT
    film = np.zeros_like(vacuole)
    if not near.any():
        return vacuole, film

    def field(name: str, period: float) -> NDArray[Any]:
        return win.up(fractal(seed, name, win.nodes_y, win.nodes_x, period, 2))

    # Walls are thick here and thin there, and gone in places; a film of cytoplasm and spilt lipid lies in some vacuoles.
    torn = np.float32(5.0) * np.clip(field("torn fat", 48.0) - np.float32(0.9), 0, 1)
    thick = np.float32(0.7) * field("wall of fat", 30.0) + np.float32(0.5)
    edge = np.float32(0.55) * cloud + np.float32(0.45) * bundle
    into = np.where(near, vacuole + edge - thick + torn, vacuole).astype(np.float32)
    wisps = np.clip(np.float32(0.08) * field("film of fat", 75.0) - np.float32(0.03), 0, 0.16)
    film = np.where(near, wisps * np.clip(np.float32(0.7) + np.float32(0.6) * cloud, 0, 1), 0).astype(np.float32)
    return into, film
