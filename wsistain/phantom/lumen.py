"""What lies in the lumens of v1 of the phantom: secretion that has shrunk from the wall, plasma, specks and shed cells."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.anatomy import nearest_blob
from wsistain.phantom.noise import F32, fractal

if TYPE_CHECKING:
    from wsistain.phantom.paint import Window

Places = NDArray[np.floating]


def contents(
    seed: int, win: "Window", py: Places, px: Places, hole: F32, vessel: F32, cloud: F32, grain: F32
) -> tuple[F32, F32]:
    """(eosin, haematoxylin) of what lies in lumens, at every pixel; 0 outside them.

    py, px : leaned places, um; hole, vessel : um into a lumen and into a vessel; cloud, grain : textures.
    """
    eosin, haem = np.zeros(win.shape, np.float32), np.zeros(win.shape, np.float32)
    where = np.flatnonzero(hole > 0.3)
    if len(where) == 0:
        return eosin, haem
    ny, nx = win.nodes_y, win.nodes_x
    fills, dirty, off = (
        win.up(fractal(seed, name, ny, nx, period, 2)).ravel()[where]
        for name, period in (("secretes", 170.0), ("dirty", 120.0), ("shrunk", 15.0))
    )
    into, soft, fine = hole.ravel()[where], cloud.ravel()[where], grain.ravel()[where]
    blood = np.clip(vessel.ravel()[where] + 1, 0, 1)

    # Secretion: one body, scalloped where it has come off the wall; in vessels a trace of plasma.
    depth = into - np.float32(2.2) - np.float32(1.6) * off + np.float32(0.5) * soft
    body = (
        np.clip(depth / np.float32(1.2) + np.float32(0.5), 0, 1)
        * np.clip(7 * fills - np.float32(0.8), 0, 1)
        * (1 - blood)
    )
    dense = np.clip(np.float32(0.11) + np.float32(0.06) * fills, 0.05, 0.22)
    found = body * dense * np.clip(1 + np.float32(0.20) * soft + np.float32(0.08) * fine, 0.2, 2)
    found += blood * np.clip(into, 0, 1) * np.float32(0.04) * np.clip(1 + fills, 0, 2)

    # Specks of nuclear dust and cells that came off, where a lumen is dirty.
    y, x = py.ravel()[where], px.ravel()[where]
    speck, _, lot = nearest_blob(seed, "specks", y, x, 7.0, 0.30, (0.6, 1.6), 0.2)
    shed, _, tone = nearest_blob(seed, "shed", y, x, 15.0, 0.30, (3.0, 5.5), 0.25)
    unclean = np.clip(3 * dirty - np.float32(0.6), 0, 1) * (1 - blood) * (into > 1.5)
    shed_in = np.clip(shed * np.float32(0.9), 0, 1) * unclean
    core = np.clip((shed - np.float32(1.8)) * np.float32(0.9), 0, 1) * unclean * (tone < 0.6)
    found = np.maximum(found, shed_in * (np.float32(0.16) + np.float32(0.14) * tone) * (1 + np.float32(0.25) * fine))
    eosin.ravel()[where] = found
    haem.ravel()[where] = (
        np.maximum(
            np.clip(speck * np.float32(1.2), 0, 1) * unclean * (np.float32(0.15) + np.float32(0.45) * lot),
            core * np.float32(0.45),
        )
        + np.float32(0.12) * found
    )
    return eosin, haem
