"""Unspecific brown of v1 of the phantom: what DAB does where the marker is not; drawn for each slide and marker."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsistain.phantom.noise import F32, draw, fractal, salt_of

if TYPE_CHECKING:
    from wsistain.phantom.paint import Window

EDGE_UM = 70.0
"""How far the brown rim of a section reaches in."""


@dataclass(frozen=True)
class Background:
    """One staining run, in densities of the chromogen: on all tissue, at its edge, and in red cells."""

    diffuse: float
    edge: float
    blood: float


def draw_background(seed: int, marker: str) -> Background:
    """The background of a marker's IHC on slide `seed`: most are clean, some are not."""
    u = draw(np.arange(3, dtype=np.uint64), salt_of(seed, f"background {marker}"))
    return Background(
        diffuse=float(0.012 + 0.055 * u[0] ** 2), edge=float(0.16 * u[1] ** 2), blood=float(0.35 * max(0.0, u[2] - 0.5))
    )


def unspecific(seed: int, win: "Window", ground: Background, stroma: F32, live: F32, dead: F32, lumen: F32) -> F32:
    """Density of the chromogen that no cell expresses, float32 (h, w).

    stroma, live, dead, lumen : amounts of what takes it up, 0..1: fibres, cytoplasm, necrosis, secretion.
    """
    patchy = np.clip(
        1 + np.float32(0.4) * win.up(fractal(seed, "unspecific", win.nodes_y, win.nodes_x, 240.0, 2)), 0.2, 2.2
    )
    rim = np.float32(ground.edge) * np.exp(-np.clip(win.field("inside"), 0, 400) / np.float32(EDGE_UM))
    brown: F32 = (np.float32(ground.diffuse) * patchy + rim) * (
        np.float32(0.8) * stroma + np.float32(1.1) * live + np.float32(0.9) * lumen
    ) + np.float32(0.05 + 1.5 * ground.diffuse) * dead
    return brown
