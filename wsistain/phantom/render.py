"""A phantom slide as something to look at: any window of any of its three pictures, and the cells in it.

Pictures are made in squares of `SQUARE_PX` on one grid, each with a margin as wide as anything reaches, and
windows are cut from them; so a pixel has one value, whoever asks and however large the window is.
"""

from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsistain.markers import find_marker, panel
from wsistain.phantom.anatomy import Anatomy
from wsistain.phantom.biology import draw_clone
from wsistain.phantom.cells import Cells, TissueBlock
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.glass import blur_um, ink
from wsistain.phantom.noise import Floats, Kept, salt_of
from wsistain.phantom.optics import blur_margin, draw_optics, expose
from wsistain.phantom.paint import Painter, Stained
from wsistain.phantom.sections import chord, make_sections

RGB = NDArray[np.uint8]
Product = Literal["he_a", "ihc_a", "ihc_b"]
PRODUCTS: tuple[Product, ...] = ("he_a", "ihc_b", "ihc_a")
SQUARE_PX = 512
_LEAN_STEPS = 12  # of a fixed point that comes nearer by a factor of four a step
COUNTED_UM = 2.0
"""A nucleus counts as in a section when at least this much of its depth lies in it."""


class Phantom:
    """One phantom slide. Opening it costs little; everything is made when it is asked for."""

    def __init__(self, config: PhantomConfig, *, square_px: int = SQUARE_PX) -> None:
        self.config, self.square_px = config, square_px
        extent = (config.height * config.mpp, config.width * config.mpp)
        marker = find_marker(config.marker)
        markers = (*panel(), *(() if marker.expression.panel else (marker,)))
        self.clone = draw_clone(config.seed, config.her2_score, markers)
        self.anatomy = Anatomy(config.seed, extent, whole=config.whole)
        self.block = TissueBlock(
            config.seed, self.anatomy, self.clone, markers, config.visibility, config.contrast, config.version
        )
        self.sections = make_sections(config)
        # H&E and the truth are two glasses; both IHC products are stained and scanned together.
        self.optics = {
            "he": draw_optics(config.seed, "he", version=config.version),
            "ihc": draw_optics(config.seed, f"ihc {marker.name}", chromogen=marker.chromogen, version=config.version),
        }
        self.painter = Painter(config, self.anatomy, self.block)
        self._stained: Kept[tuple[str, int, int], Stained | None] = Kept(9)
        self._squares: Kept[tuple[str, int, int], RGB] = Kept(12)

    def _stain(self, name: str, row: int, col: int) -> Stained | None:
        margin, size = blur_margin(self.config.mpp, self.config.version), self.square_px
        return self.painter.paint(
            self.sections[name], row * size - margin, col * size - margin, size + 2 * margin, size + 2 * margin
        )

    def _expose(self, product: Product, row: int, col: int) -> RGB:
        stain, _, name = product.partition("_")
        stained = self._stained.get((name, row, col), partial(self._stain, name, row, col))
        size, optics = self.square_px, self.optics[stain]
        margin = blur_margin(self.config.mpp, self.config.version)
        if stained is None:
            blank = np.zeros((size + 2 * margin, size + 2 * margin), np.float32)
            amounts = {"eosin": blank}
        else:
            amounts = stained.he if stain == "he" else stained.ihc
        salt = salt_of(self.config.seed, f"sensor {product}")
        focus = pen = None
        if self.config.version != "v0":
            y_um = ((np.arange(row * size, (row + 1) * size) + 0.5) * self.config.mpp)[:, None]
            x_um = ((np.arange(col * size, (col + 1) * size) + 0.5) * self.config.mpp)[None, :]
            # The aligned truth is what pictures are held against: it stays sharp.
            focus = blur_um(self.config.seed, product, y_um, x_um) if product != "ihc_a" else None
            pen = ink(self.config.seed, y_um, x_um) if stain == "he" else None
        return expose(
            amounts,
            optics,
            mpp=self.config.mpp,
            salt=salt,
            y=row * size,
            x=col * size,
            margin=margin,
            focus=focus,
            ink=pen,
        )

    def render(self, product: Product, y: int, x: int, h: int, w: int) -> RGB:
        """uint8 (h, w, 3): the window at (y, x), px of level 0, of "he_a", "ihc_a" or "ihc_b"; before JPEG.

        Raises ValueError for another product. Windows may reach over the slide's border.
        """
        if product not in PRODUCTS:
            raise ValueError(f"product {product!r} is not known; wanted one of {', '.join(PRODUCTS)}")
        size = self.square_px
        out = np.empty((h, w, 3), np.uint8)
        for row in range(y // size, -(-(y + h) // size)):
            for col in range(x // size, -(-(x + w) // size)):
                y0, x0 = max(row * size, y), max(col * size, x)
                y1, x1 = min((row + 1) * size, y + h), min((col + 1) * size, x + w)
                square = self._squares.get((product, row, col), partial(self._expose, product, row, col))
                out[y0 - y : y1 - y, x0 - x : x1 - x] = square[
                    y0 - row * size : y1 - row * size, x0 - col * size : x1 - col * size
                ]
        return out

    def cells_um(
        self, section: Literal["a", "b"], y: float, x: float, h: float, w: float
    ) -> tuple[Cells, NDArray[Any], NDArray[Any]]:
        """(cells, y, x): cells whose nucleus the section cuts and whose centre lies in the glass window, um."""
        return self.painter.cells_on(self.sections[section], y, x, y + h, x + w, reach=0.0)

    def place_on_b(self, y: Floats, x: Floats, *, structures: bool = False) -> tuple[Floats, Floats]:
        """Where section B lies over places (y, x) of section A's glass, both um: what a registration has to find.

        structures : where B shows the structures that A shows there. They lean in the block, so at another depth they
                     stand elsewhere; else the same place of the block, which no picture tells.
        """
        a, b = self.sections["a"], self.sections["b"]
        by, bx = a.to_block(y, x)
        if structures:
            ly, lx = self.anatomy.lean(by, bx, a.z_mid)
            for _ in range(_LEAN_STEPS):
                ty, tx = self.anatomy.lean(by, bx, b.z_mid)
                by, bx = by + (ly - ty), bx + (lx - tx)
        return b.from_block(by, bx)

    def path_um(self, section: Literal["a", "b"], cells: Cells) -> NDArray[np.float32]:
        """um of each nucleus, at its centre, that lie in the section."""
        s = self.sections[section]
        return chord(cells.z, cells.c, s.z0, s.z1)

    def on_glass(self, section: Literal["a", "b"], cells: Cells) -> NDArray[np.bool_]:
        """Which cells lie on tissue that the section still has (not in a tear) and inside the picture."""
        s = self.sections[section]
        gy, gx = s.from_block(cells.y, cells.x)
        h, w = self.config.height * self.config.mpp, self.config.width * self.config.mpp
        inside = (gy >= 0) & (gy < h) & (gx >= 0) & (gx < w)
        if len(cells) and s.tears:
            inside &= s.tear(gy, gx) < 0
        return inside
