"""Maps as colours, and sheets of pictures with a heading a column and a name a row. Pillow and numpy only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsistain.runtime.files import replacing

RGB = NDArray[np.uint8]

CELL_PX = 320
_GAP, _HEAD, _SIDE = 6, 22, 118
_STOPS = np.array([(255, 255, 255), (247, 214, 160), (201, 120, 50), (110, 50, 20), (25, 14, 12)], dtype=float)


def heat(values: NDArray[Any]) -> RGB:
    """Colours uint8 (h, w, 3) of values (h, w) in 0..1 (or bool): white, through brown, to nearly black. NaN is grey."""
    v = np.asarray(values, dtype=float)
    at = np.nan_to_num(np.clip(v, 0, 1)) * (len(_STOPS) - 1)
    low = np.minimum(at.astype(int), len(_STOPS) - 2)
    part = (at - low)[..., None]
    colours = _STOPS[low] * (1 - part) + _STOPS[low + 1] * part
    colours[np.isnan(v)] = 170
    rgb: RGB = np.rint(colours).astype(np.uint8)
    return rgb


def fitted(picture: RGB, px: int = CELL_PX) -> Image.Image:
    """The picture with its longer side `px` px: small maps by whole pixels, large pictures averaged."""
    height, width = picture.shape[:2]
    factor = px / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    kind = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    return Image.fromarray(np.ascontiguousarray(picture)).resize(size, kind)


def links(he: RGB, ihc: RGB, partner: NDArray[Any], side: int, *, every: int = 3) -> RGB:
    """H&E and IHC beside each other, with a line from some places of the one to their partners in the other.

    partner : int (side^2,), the IHC place of each H&E place, row by row; every `every`-th place both ways is drawn.
    """
    a, b = fitted(he), fitted(ihc)
    sheet = Image.new("RGB", (a.width + b.width + _GAP, max(a.height, b.height)), "white")
    sheet.paste(a, (0, 0))
    sheet.paste(b, (a.width + _GAP, 0))
    draw = ImageDraw.Draw(sheet)

    def place(k: int, of: Image.Image) -> tuple[float, float]:
        return (k % side + 0.5) / side * of.width, (k // side + 0.5) / side * of.height

    colours = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#d98200")
    drawn = [k for k in range(side * side) if k // side % every == every // 2 and k % side % every == every // 2]
    for number, k in enumerate(drawn):
        (x0, y0), (x1, y1) = place(k, a), place(int(partner[k]), b)
        colour, x1 = colours[number % len(colours)], x1 + a.width + _GAP
        draw.line((x0, y0, x1, y1), fill=colour, width=1)
        for x, y in ((x0, y0), (x1, y1)):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), outline="white", fill=colour)
    return np.asarray(sheet)


class Sheet:
    """Rows of pictures under one heading a column.

    columns : their headings.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._rows: list[tuple[str, list[Image.Image]]] = []

    def add(self, label: str, pictures: Sequence[RGB]) -> None:
        """Add a row; ValueError for more pictures than there are columns."""
        if len(pictures) > len(self._columns):
            raise ValueError(f"{len(pictures)} pictures in {len(self._columns)} columns")
        wide = [fitted(p, CELL_PX * max(1, round(p.shape[1] / p.shape[0]))) for p in pictures]
        self._rows.append((label, wide))

    def picture(self) -> RGB:
        """The whole sheet, uint8 (h, w, 3)."""
        widths = [
            max((row[k].width for _, row in self._rows if k < len(row)), default=CELL_PX)
            for k in range(len(self._columns))
        ]
        heights = [max(cell.height for cell in row) for _, row in self._rows]
        size = _SIDE + sum(widths) + _GAP * len(widths), _HEAD + sum(heights) + _GAP * len(heights)
        sheet = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        x = _SIDE
        for heading, width in zip(self._columns, widths, strict=True):
            draw.text((x, 4), heading, fill="#1b1f24", font=font)
            x += width + _GAP
        y = _HEAD
        for (label, row), height in zip(self._rows, heights, strict=True):
            short = label if len(label) <= 18 else label[:17] + "…"
            draw.text((4, y + height // 2 - 6), short, fill="#1b1f24", font=font)
            x = _SIDE
            for cell, width in zip(row, widths, strict=False):
                sheet.paste(cell, (x, y))
                x += width + _GAP
            y += height + _GAP
        return np.asarray(sheet)


def write_png(path: Path, picture: RGB) -> Path:
    """Write a PNG in one move, with its folder; the path comes back. OSError passes through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        Image.fromarray(np.ascontiguousarray(picture)).save(part, format="PNG")
    return path
