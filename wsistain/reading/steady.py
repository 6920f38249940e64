"""Is the stain of a place steady? A generator's answers to the same tissue, a little otherwise stained and otherwise tiled.

Four passes: the window as it is, with more haematoxylin and less eosin, with less and more, and in quarters, so that the
borders of tiles lie elsewhere. Where nuclei and membranes are called positive by some and negative by others, the answer
hangs on what must not matter. The changes are the same all over a slide, so the map has no seams of its own.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import WeightsError
from wsistain.generators.features import padded
from wsistain.generators.load import build_generator, find_generator
from wsistain.generators.network import NetworkGenerator
from wsistain.markers import EOSIN, HAEMATOXYLIN, Marker
from wsistain.optics.familiar import cell_px
from wsistain.reading.stained import called, cell_sums

F32 = NDArray[np.float32]
RGB = NDArray[np.uint8]

AMOUNTS = ((1.2, 0.83), (0.83, 1.2))
"""Haematoxylin and eosin of the other laboratories, times what they are; less than scanners and laboratories differ by."""

_OD = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_DYES = np.stack([HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN)]).astype(np.float64)


def restained(rgb: RGB, haematoxylin: float, eosin: float) -> RGB:
    """An H&E, uint8 (h, w, 3), with so many times the dyes; what is neither stays."""
    matrix = np.linalg.inv(_DYES) @ np.diag([haematoxylin, eosin, 1.0]) @ _DYES
    light = 255 * 10.0 ** -(_OD[rgb] @ matrix.astype(np.float32))
    pixels: RGB = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return pixels


class Steady:
    """Asks a generator four times. Thread-safe.

    weights : file of its network, which is loaded; WeightsError where that cannot be. marker : that it stains.
    """

    def __init__(self, weights: str | Path, marker: Marker, *, device: str = "auto") -> None:
        self.marker = marker
        self._spec = find_generator(str(weights), marker.name)
        generator = build_generator(self._spec, device=device)
        if not isinstance(generator, NetworkGenerator):
            raise WeightsError(f"{weights} hold no network whose answers could be compared")
        self._generator = generator

    def left(self, rgb: RGB, mpp: float) -> F32:
        """Trust that steadiness leaves each cell of a window, 0..1, float32 (rows, cols); NaN where nothing is stained.

        rgb : uint8 (h, w, 3) at `mpp`, half a cell more than the cells on each side.
        """
        px, half = cell_px(mpp), cell_px(mpp) // 2
        rows, cols = ((n - 2 * half) // px for n in rgb.shape[:2])
        answers = [self._stain(rgb), *(self._stain(restained(rgb, *amounts)) for amounts in AMOUNTS)]
        answers.append(self._in_quarters(rgb, rows, cols, px))
        inside = [a[half : half + rows * px, half : half + cols * px] for a in answers]
        dark, positive = zip(*(called(a, self.marker, mpp) for a in inside), strict=True)
        seen = np.any(dark, axis=0)
        share = np.mean(positive, axis=0, dtype=np.float32)
        edges = [k * px for k in range(rows + 1)], [k * px for k in range(cols + 1)]
        of, torn = cell_sums(seen.astype(np.float32), *edges), cell_sums(seen * 4 * share * (1 - share), *edges)
        return np.where(of > 0, 1 - torn / np.maximum(of, 1), np.nan).astype(np.float32)

    def _stain(self, rgb: RGB) -> RGB:
        wide = padded(rgb, self._spec.size_multiple)
        return self._generator.stain(wide[None], [(0, 0)])[0, : rgb.shape[0], : rgb.shape[1], :3]

    def _in_quarters(self, rgb: RGB, rows: int, cols: int, px: int) -> RGB:
        """The stain of four quarters, each with half a cell more on each side."""
        half, out = px // 2, np.empty_like(rgb)
        for top, bottom in ((0, rows // 2), (rows // 2, rows)):
            for left, right in ((0, cols // 2), (cols // 2, cols)):
                if bottom > top and right > left:
                    y, x, h, w = top * px, left * px, (bottom - top) * px, (right - left) * px
                    stain = self._stain(rgb[y : y + h + 2 * half, x : x + w + 2 * half])
                    out[y + half : y + half + h, x + half : x + half + w] = stain[half : half + h, half : half + w]
        return out
