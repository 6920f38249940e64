"""A small JPEG of the whole stain, for a quick look."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsistain.output.layout import OutputSpec
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.output.recognise import comment_of, exif_of
from wsistain.runtime.files import reporting, write_bytes
from wsistain.runtime.jpeg import encode_jpeg


def write_preview(spec: OutputSpec, path: Path | str, longest_px: int) -> None:
    """Writes the stain as a JPEG at `path`, its longest side at most `longest_px`; never enlarged.

    The file says inside that it is a virtual stain, and of which slide (see `recognise`).

    Reads the smallest level that is large enough, so memory is at most that of (2 longest_px)^2 pixels. Raises
    OutputError when the output is not finished or the file cannot be written.
    """
    stain = read_stain(spec.path)
    levels = stain.levels
    enough = [number for number, size in enumerate(levels) if max(size) >= longest_px]
    level = enough[-1] if enough else 0
    height, width = levels[level]
    picture = Image.fromarray(read_window(open_level(spec.path, level), 0, 0, height, width))
    factor = min(1.0, longest_px / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BOX)
    trust = stain.provenance.get("trust")
    if isinstance(trust, dict) and str(trust.get("verdict", "")).endswith("unlike training"):
        picture = _with_notice(picture, f"{trust['verdict'].upper()}: do not believe this stain")
    data = encode_jpeg(
        np.asarray(picture), small=True, comment=comment_of(stain.provenance), exif=exif_of(stain.provenance)
    )
    with reporting(path):
        write_bytes(Path(path), data)


def _with_notice(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a band of words over its upper edge; its size stays."""
    out = picture.copy()
    band = max(12, min(picture.height // 12, 48))
    size = max(8, min(int(0.62 * band), int(1.6 * picture.width / len(text))))
    draw = ImageDraw.Draw(out)
    draw.rectangle((0, 0, picture.width, band), fill=(176, 32, 32))
    draw.text((band // 4, band // 2), text, fill=(255, 255, 255), anchor="lm", font=ImageFont.load_default(size))
    return out
