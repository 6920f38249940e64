"""Pictures as part of a page: encoded into its text, and colour ramps with what they stand for."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsistain.runtime.jpeg import ON_PAGES, encode_jpeg

Pixels = NDArray[np.uint8]


def jpeg_data(picture: Pixels) -> str:
    """uint8 (h, w, 3) as a data address."""
    data = encode_jpeg(picture, ON_PAGES, small=True)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def png_data(picture: Pixels) -> str:
    """uint8 (h, w, 3 or 4) as a data address, exact."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Ramp:
    """Colours of a map. stops: (share 0..1, (red, green, blue, opacity)) in rising order, all uint8."""

    stops: tuple[tuple[float, tuple[int, int, int, int]], ...]

    def paint(self, share: NDArray[np.floating]) -> Pixels:
        """uint8 (h, w, 4) of shares 0..1, float (h, w); clear where NaN."""
        at = [s for s, _ in self.stops]
        colours = np.array([c for _, c in self.stops], np.float64)
        values = np.nan_to_num(share)
        out = np.stack([np.interp(values, at, colours[:, k]) for k in range(4)], axis=-1).round().astype(np.uint8)
        out[~np.isfinite(share)] = 0
        return out

    @property
    def css(self) -> str:
        """The ramp from left to right as a CSS gradient."""
        parts = (f"rgba({r},{g},{b},{a / 255:.3f}) {100 * s:.0f}%" for s, (r, g, b, a) in self.stops)
        return f"linear-gradient(to right, {', '.join(parts)})"


POSITIVE = Ramp(
    ((0.0, (250, 246, 240, 190)), (0.33, (224, 186, 140, 220)), (0.67, (156, 88, 34, 240)), (1.0, (66, 28, 8, 255)))
)
"""Share of positive cells: from near white to dark brown."""

TRUST = Ramp(((0.0, (136, 34, 85, 225)), (0.5, (221, 170, 51, 150)), (1.0, (221, 170, 51, 0))))
"""Trust: purple where there is none, yellow at half, clear where it is whole; the colours of `wsistain view`."""


def nice_length(longest: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above `longest`: how long a scale bar is."""
    if not longest > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(longest))
    return float(max(k * power for k in (1, 2, 5) if k * power <= longest * (1 + 1e-9)))


def in_um(length: float) -> str:
    """A length in um with its unit, in mm from 1000 on."""
    return f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"


def nice_top(values: Sequence[float], steps: Sequence[float] = (0.1, 0.25, 0.5, 1.0)) -> float:
    """The first of `steps` that holds all values: where the ramp of a map ends."""
    top = max((v for v in values if np.isfinite(v)), default=0.0)
    return next((s for s in steps if top <= s), steps[-1])
