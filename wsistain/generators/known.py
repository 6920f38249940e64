"""What weights know of the pictures that they were trained on, and how far cells of 32 um of another picture lie from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.optics.familiar import CELL_UM, Familiar, looks_of

F64 = NDArray[np.float64]


def cell_px(mpp: float) -> int:
    """Edge of a cell of about 32 um in whole px, 2 or more."""
    return max(2, round(CELL_UM / mpp))


@dataclass(frozen=True)
class Known:
    """What is known of the training pictures of some weights.

    looks     : their colours and textures; None where the weights do not say.
    synthetic : nothing but synthetic tissue was seen in training.
    why       : why something is not known; "" where all is.
    """

    looks: Familiar | None = None
    synthetic: bool = False
    why: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the distances that can be told."""
        return () if self.looks is None else ("looks",)

    def distances(self, rgb: NDArray[np.uint8], mpp: float) -> dict[str, F64]:
        """By name the distance of each cell of a window, float (h', w'), 1 at the edge of training; NaN for glass.

        rgb : uint8 (h, w, 3) with half a cell more than the cells on each side, at about the um per px of the weights.
        """
        half = cell_px(mpp) // 2
        inner = rgb[half : rgb.shape[0] - half, half : rgb.shape[1] - half]
        return {} if self.looks is None else {"looks": self.looks.distance(looks_of(inner, mpp))}

    def never_on(self, slide: str) -> str:
        """Why no stain of these weights can be believed on a slide, whatever it looks like; "" where that is open."""
        # Synthetic tissue is made to look like tissue: that a slide looks like it is no reason to believe the stain.
        if self.synthetic and not is_phantom(slide):
            return "these weights have seen synthetic tissue alone, and this slide is none"
        return ""


def known_of(weights: str, training_data: str) -> Known:
    """What the weights at `weights` know; nothing for a built-in without a file. WeightsError where the file is damaged.

    training_data : what they were trained on, in words.
    """
    if not Path(weights).is_file():
        return Known(why="nothing was trained")
    from wsistain.weights.file import read_header

    looks = read_header(Path(weights)).familiar
    why = "these weights do not say what their training pictures look like" if looks is None else ""
    return Known(looks, "synthetic" in training_data.lower(), why)


def is_phantom(slide: str) -> bool:
    """Does the manifest of a phantom slide lie beside it?"""
    try:
        told = json.loads((Path(slide).parent / "manifest.json").read_text(encoding="utf-8"))
        return bool(told["parameters"]["kind"] == "slide")
    except (OSError, ValueError, KeyError, TypeError):
        return False
