"""Small pictures and TIFF files that the slide tests are made of."""

from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray

from wsistain.slide.base import Slide

APERIO = "Aperio Image Library v12.0.0\r\ntest|AppMag = 40|MPP = 0.25"


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): random 8 px blocks with noise; no two places alike."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(30, 226, (-(-height // 8), -(-width // 8), 3))
    whole = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)[:height, :width]
    return np.clip(whole + rng.integers(-9, 10, (height, width, 3)), 0, 255).astype(np.uint8)


def write_tiff(path: Path, levels: list[NDArray[np.uint8]], *, um: float = 0.25, **options: Any) -> Path:
    """A tiled pyramidal TIFF with resolution tags; options go to tifffile."""
    settings: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "adobe_deflate"} | options
    with tifffile.TiffWriter(path) as writer:
        for number, pixels in enumerate(levels):
            writer.write(
                pixels,
                metadata=None,
                subfiletype=int(number > 0 and APERIO[:6] not in str(settings.get("description"))),
                resolution=(1e4 / um / 2**number, 1e4 / um / 2**number),
                resolutionunit="CENTIMETER",
                **settings,
            )
    return path


def set_tag(path: Path, page: int, tag: str, value: Any) -> None:
    """Overwrite a tag of a page in place."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[page].aspage().tags[tag].overwrite(value)


def patch_tile(path: Path, page: int, index: int, data: bytes | None) -> None:
    """Overwrite the start of a stored tile; None: make it a tile that was never written (offset and length 0)."""
    with tifffile.TiffFile(path) as tif:
        keyframe = tif.pages[page].aspage()
        offsets, counts = list(keyframe.dataoffsets), list(keyframe.databytecounts)
    if data is None:
        offsets[index] = counts[index] = 0
        set_tag(path, page, "TileOffsets", offsets)
        set_tag(path, page, "TileByteCounts", counts)
        return
    with path.open("r+b") as file:
        file.seek(offsets[index])
        file.write(data[: counts[index]])


def whole(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    """All pixels of a level."""
    return slide.read_level(level, 0, 0, *slide.info.level_sizes[level])


def through_openslide(path: Path, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    """The window as OpenSlide itself reads it, on white; (y, x) in level-0 px, the size in px of the level."""
    with openslide.OpenSlide(path) as slide:
        rgba = np.asarray(slide.read_region((x, y), level, (width, height)))
    alpha = rgba[..., 3:]
    assert np.isin(alpha, (0, 255)).all()
    return np.where(alpha == 255, rgba[..., :3], np.uint8(255))
