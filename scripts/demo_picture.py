"""The picture that `make demo` ends with: H&E, virtual stain and aligned truth of a synthetic slide, side by side."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wsistain.output.reading import open_level, read_window
from wsistain.slide.reader import open_slide

CROP_PX = 640
GAP_PX = 8


def demo_picture(folder: Path, marker: str = "ER") -> Path:
    """Writes `<folder>/<marker>.png` from `he_a.tiff`, `he_a.<marker>.ome.zarr` and `ihc_a.tiff`; returns its path.

    Top row: a crop at full size, the one of nine with most nuclei, which absorb red. Bottom row: the whole slide.
    """
    he, truth = open_slide(folder / "he_a.tiff"), open_slide(folder / "ihc_a.tiff")
    stain = str(folder / f"he_a.{marker}.ome.zarr")
    virtual = open_level(stain, 0)
    height, width = he.info.size_l0
    size = min(CROP_PX, height, width)
    places = [(int((height - size) * i / 2), int((width - size) * j / 2)) for i in range(3) for j in range(3)]
    y, x = max(places, key=lambda p: int((he.read_level(0, p[0], p[1], size, size)[..., 0] < 140).sum()))
    crops = [
        he.read_level(0, y, x, size, size),
        read_window(virtual, y, x, size, size),
        truth.read_level(0, y, x, size, size),
    ]
    whole = [
        _shrunk(p, size)
        for p in (
            he.read_level(0, 0, 0, height, width),
            read_window(virtual, 0, 0, height, width),
            truth.read_level(0, 0, 0, height, width),
        )
    ]
    rows = [_side_by_side(crops), _side_by_side(whole)]
    panel = np.full((rows[0].shape[0] + GAP_PX + rows[1].shape[0], rows[0].shape[1], 3), 255, np.uint8)
    panel[: rows[0].shape[0]] = rows[0]
    panel[rows[0].shape[0] + GAP_PX :] = rows[1]
    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    for k, text in enumerate(("H&E (synthetic)", f"virtual {marker}", f"true {marker}")):
        draw.text((k * (size + GAP_PX) + 8, 6), text, fill=(0, 0, 0))
    path = folder / f"{marker}.png"
    picture.save(path)
    he.close()
    truth.close()
    return path


def _shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray(pixels)
    picture.thumbnail((size, size), Image.Resampling.BOX)
    out = np.full((picture.height, size, 3), 255, np.uint8)
    out[:, : picture.width] = np.asarray(picture)
    return out


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    height, width = pictures[0].shape[:2]
    out = np.full((height, len(pictures) * (width + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        out[:, k * (width + GAP_PX) : k * (width + GAP_PX) + width] = picture
    return out


if __name__ == "__main__":
    print(demo_picture(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
