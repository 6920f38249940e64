"""Where a picture lies, and how it is cut into tiles: everything shown shares one frame of micrometres.

The frame's origin is the upper left corner of level 0 of the H&E slide, y downwards, x to the right. Tiles are those of
Deep Zoom: halvings down to one pixel, odd sizes rounded up, no overlap. A halving `k` here is 0 at full size; Deep Zoom
counts the other way round.

Source: Deep Zoom file format (Microsoft, DZI).
"""

from dataclasses import dataclass
from typing import Any

TILE_PX = 512


@dataclass(frozen=True)
class Frame:
    """A picture's place.

    height, width : px at full size.
    mpp           : um per px at full size.
    y_um, x_um    : its upper left corner in the common frame, um.
    """

    height: int
    width: int
    mpp: float
    y_um: float = 0.0
    x_um: float = 0.0

    @property
    def halvings(self) -> int:
        """How many halvings lead to a single pixel: the highest level of Deep Zoom."""
        return (max(self.height, self.width) - 1).bit_length()

    def size(self, k: int) -> tuple[int, int]:
        """(height, width) after `k` halvings, px."""
        return -(-self.height // (1 << k)), -(-self.width // (1 << k))

    def grid(self, k: int) -> tuple[int, int]:
        """(rows, columns) of tiles after `k` halvings."""
        height, width = self.size(k)
        return -(-height // TILE_PX), -(-width // TILE_PX)

    def window(self, k: int, row: int, col: int) -> tuple[int, int, int, int] | None:
        """(y, x, height, width) of a tile in px of halving `k`; None where there is none."""
        if not 0 <= k <= self.halvings:
            return None
        rows, cols = self.grid(k)
        if not (0 <= row < rows and 0 <= col < cols):
            return None
        height, width = self.size(k)
        y, x = row * TILE_PX, col * TILE_PX
        return y, x, min(TILE_PX, height - y), min(TILE_PX, width - x)

    @property
    def n_tiles(self) -> int:
        """Tiles of all levels."""
        return sum(rows * cols for rows, cols in map(self.grid, range(self.halvings + 1)))

    def facts(self) -> dict[str, Any]:
        """Plain JSON values for the page."""
        return {
            "height": self.height,
            "width": self.width,
            "mpp": self.mpp,
            "y_um": self.y_um,
            "x_um": self.x_um,
            "tile": TILE_PX,
        }

    def descriptor(self, form: str) -> str:
        """The Deep Zoom descriptor (XML) for tiles of the form "jpg" or "png"."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{form}" Overlap="0" TileSize="{TILE_PX}">'
            f'<Size Height="{self.height}" Width="{self.width}"/></Image>\n'
        )
