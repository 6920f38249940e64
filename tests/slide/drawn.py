"""Masks of tissue, pen and folds drawn by eye over the pictures of the shared data; the pictures are not kept here.

Each JSON file in `masks/` names a picture, its um per px as it looks (null: as the file says), and polygons in per cent
of its width and height: `tissue`, less `glass`; `pen`, with `strokes` as (width in % of the picture's width, line); `fold`.
What they follow: fat, clefts, lumens up to 0.5 mm2 and tissue under pen are tissue; what is open to the border is not.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

MASKS = Path(__file__).parent / "masks"


@dataclass(frozen=True)
class Drawn:
    """What somebody drew over one picture, path relative to the shared data."""

    name: str
    picture: str
    mpp: float | None
    shapes: dict[str, Any]

    def mask(self, kind: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """bool `shape`: where `tissue`, `pen` or `fold` was drawn."""
        image = Image.new("1", (shape[1], shape[0]))
        draw = ImageDraw.Draw(image)
        for polygon in self.shapes.get(kind, []):
            draw.polygon(self._px(polygon, shape), fill=1)
        if kind == "tissue":
            for polygon in self.shapes.get("glass", []):
                draw.polygon(self._px(polygon, shape), fill=0)
        if kind == "pen":
            for width, line in self.shapes.get("strokes", []):
                draw.line(self._px(line, shape), fill=1, width=max(1, round(width * shape[1] / 100)), joint="curve")
        return np.asarray(image, bool)

    @staticmethod
    def _px(points: list[list[float]], shape: tuple[int, int]) -> list[tuple[float, float]]:
        return [(x * shape[1] / 100, y * shape[0] / 100) for x, y in points]


def drawn() -> list[Drawn]:
    """All pictures that were drawn over, by name."""
    found = []
    for path in sorted(MASKS.glob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        found.append(Drawn(path.stem, held.pop("picture"), held.pop("mpp"), held))
    return found


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Overlap of two masks, 0..1; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
