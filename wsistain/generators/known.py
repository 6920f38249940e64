"""What weights know of the pictures that they were trained on, and how far cells of 32 um of another picture lie from them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsistain.optics.familiar import Familiar, cell_px, looks_of
from wsistain.optics.feature_bank import FeatureBank

if TYPE_CHECKING:
    from wsistain.generators.features import Features

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """What is known of the training pictures of some weights.

    looks     : their colours and textures; None where the weights do not say.
    synthetic : nothing but synthetic tissue was seen in training.
    why       : why something is not known; "" where all is.
    bank      : what the network itself sees in them; None where the weights do not say. features: asks the network; None:
                it is not asked.
    """

    looks: Familiar | None = None
    synthetic: bool = False
    why: str = ""
    bank: FeatureBank | None = None
    features: "Features | None" = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the distances that can be told."""
        asked = self.bank is not None and self.features is not None
        return (*(("looks",) if self.looks is not None else ()), *(("features",) if asked else ()))

    def distances(self, rgb: NDArray[np.uint8], mpp: float) -> dict[str, F64]:
        """By name the distance of each cell of a window, float (h', w'), 1 at the edge of training; NaN for glass.

        rgb : uint8 (h, w, 3) with half a cell more than the cells on each side, at about the um per px of the weights.
        """
        half = cell_px(mpp) // 2
        inner = rgb[half : rgb.shape[0] - half, half : rgb.shape[1] - half]
        found = {} if self.looks is None else {"looks": self.looks.distance(looks_of(inner, mpp))}
        if self.bank is not None and self.features is not None:
            found["features"] = self.bank.distance(self.features.of(rgb, mpp))
        return found

    def never_on(self, *, is_phantom: bool) -> str:
        """Why no stain of these weights can be believed on a slide, whatever it looks like; "" where that is open.

        is_phantom : whether the slide is synthetic tissue itself (`wsistain.slide.inside`).
        """
        # Synthetic tissue is made to look like tissue: that a slide looks like it is no reason to believe the stain.
        if self.synthetic and not is_phantom:
            return "these weights have seen synthetic tissue alone, and this slide is none"
        return ""


def known_of(weights: str, training_data: str) -> Known:
    """What the weights at `weights` know; nothing for a built-in without a file. WeightsError where the file is damaged.

    training_data : what they were trained on, in words.
    """
    if not Path(weights).is_file():
        return Known(why="nothing was trained")
    from wsistain.weights.file import read_header

    header = read_header(Path(weights))
    unknown = header.familiar is None and header.features is None
    why = "these weights do not say what their training pictures look like" if unknown else ""
    return Known(header.familiar, "synthetic" in training_data.lower(), why, header.features)


def asking(known: Known, weights: str, marker: str, *, device: str = "auto") -> Known:
    """`known` with the network of `weights` loaded, so that it can be asked; itself where the weights keep no bank of it.

    Raises WeightsError where the network cannot be built, or is not that of the bank.
    """
    if known.bank is None:
        return known
    from wsistain.errors import WeightsError
    from wsistain.generators.features import Features
    from wsistain.generators.load import build_generator, find_generator
    from wsistain.generators.network import NetworkGenerator

    spec = find_generator(weights, marker)
    generator = build_generator(spec, device=device)
    if not isinstance(generator, NetworkGenerator):
        raise WeightsError(f"{weights} hold a bank of features, but no network")

    def stain(rgb: NDArray[np.uint8]) -> object:
        return generator.stain(rgb[None], [(0, 0)])

    return replace(known, features=Features(generator.network, stain, known.bank.layer, spec.size_multiple))
