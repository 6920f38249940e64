"""Collagen: straight fibres of one width in v0 of the phantom; since v1 wavy bundles of uneven tone, with gaps, in places cut across."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.noise import F32, Grain, Texture, fractal

if TYPE_CHECKING:
    from wsistain.phantom.paint import Window

Places = NDArray[np.floating]
WAVE_UM, WAVES_UM = 30.0, 3.2
"""Length of a wave of a fibre, and how far at most it swings to either side, um."""


@lru_cache(maxsize=1)
def fascicles() -> Grain:
    """Bundles of bundles, of many widths; made once a process."""
    return Grain("fascicle", 1.5, 20.0, 7.0)


def swung(seed: int, win: "Window", turn: F32) -> tuple[F32, F32]:
    """(dy, dx) um by which the fibres at each pixel lie beside a straight course: waves that come and go."""
    ny, nx = win.nodes_y, win.nodes_x
    swing = np.clip(0.9 + 1.3 * fractal(seed, "wavy", ny, nx, 110.0, 2), 0, WAVES_UM)
    # Neighbouring bundles wave in step, those further off do not.
    phase = (2 * np.pi / WAVE_UM) * win.tissue.chi + 2.2 * fractal(seed, "wave", ny, nx, 55.0, 2)
    aside = win.up(swing) * np.sin(win.up(phase))
    return aside * np.cos(turn), -aside * np.sin(turn)


def straight(bundle: F32, fibril: F32, grain: F32, loose: F32, epithelium: F32) -> F32:
    """Density of v0's collagen at every pixel: dense collagen is strong and even, oedematous stroma pale with wispy fibres.

    bundle, fibril, grain : noise of unit variance, coarse to fine; loose: how oedematous it is; epithelium: share, 0..1.
    """
    slit = np.clip((-bundle - 2.2 + 0.75 * loose) * np.float32(1 / 0.8) + np.float32(0.5), 0, 1) * (1 - epithelium)
    strength = np.clip(np.float32(0.92) - np.float32(0.22) * loose, 0.35, 1.3)
    wisp = np.clip(np.float32(0.2) + np.float32(0.06) * loose, 0.1, 0.4)
    fibres = np.float32(0.8) * bundle + np.float32(1.1) * fibril + np.float32(0.35) * grain
    density: F32 = np.clip(1 + wisp * fibres, 0.1, 2.2) * strength * (1 - np.float32(0.85) * slit)
    return density


def wavy(
    seed: int, win: "Window", turn: F32, ty: Places, tx: Places, bundle: Grain, fibril: Grain, cloud: Texture, grain: F32,
    loose: F32,
) -> F32:  # fmt: skip
    """Density of v1's collagen at every pixel.

    turn   : angle of the fibres; ty, tx: places in the textures, um; loose: how oedematous the stroma is.
    bundle, fibril, cloud : the textures of all versions; grain: the finest of them, here.
    """
    dy, dx = swung(seed, win, turn)
    wy, wx = ty + dy, tx + dx
    thick = fascicles().at(turn, wy / 1.7, wx / 1.7)
    thin = bundle.at(turn, wy / 1.1, wx / 1.1)
    hair = fibril.near(turn, wy / 0.6, wx / 0.6)
    mottle = cloud.at(tx / 0.5, ty / 0.5)

    # Tone: streaks along the fibres; where bundles are cut across there are no fibres to see.
    streak = win.up(fractal(seed, "streak", win.tissue.psi, 0.3 * win.tissue.chi, 16.0, 3, 0.6))
    across = np.clip(win.up(fractal(seed, "across", win.nodes_y, win.nodes_x, 130.0, 2)) * 1.6 - 1.1, 0, 1)
    fibres = np.float32(0.15) * thick + np.float32(0.24) * thin + np.float32(0.15) * hair
    dots = np.float32(0.26) * mottle + np.float32(0.14) * grain
    tone = (1 - across) * fibres + across * dots + np.float32(0.13) * streak + np.float32(0.05) * grain
    strength = np.clip(np.float32(0.90) - np.float32(0.20) * loose, 0.35, 1.3)

    # Gaps between the bundles: hair-thin where the stroma is dense, wide where it is loose.
    gap = -np.float32(0.8) * thick - np.float32(0.8) * thin - np.float32(1.95) + np.float32(0.75) * loose
    slit = np.clip(gap / np.float32(0.7) + np.float32(0.5), 0, 1) * (1 - across)
    density: F32 = (np.clip(1 + tone, 0.1, 2.2) * strength * (1 - np.float32(0.88) * slit)).astype(np.float32)
    return density


def foamy(seed: int, win: "Window", ty: Places, tx: Places, cloud: Texture) -> F32:
    """By how much cytoplasm is denser or paler at every pixel, about 1: vacuoles of 2 to 4 um, in some regions many."""
    many = np.clip(0.5 + 0.5 * fractal(seed, "foamy", win.nodes_y, win.nodes_x, 170.0, 2), 0.1, 1.2)
    bubbles = cloud.at((ty + 31) / 0.32, (tx - 17) / 0.32)
    # Vacuoles are pale holes with round edges, so paler is the longer tail.
    foam: F32 = np.clip(
        1 - win.up(many) * np.float32(0.34) * (bubbles + np.float32(0.35) * (bubbles**2 - 1)), 0.12, 1.8
    )
    return foam
