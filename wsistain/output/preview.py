"""A small JPEG of the whole stain, for a quick look."""

from pathlib import Path

from PIL import Image

from wsistain.output.layout import OutputSpec
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.output.recognise import comment_of, exif_of
from wsistain.runtime.files import replacing, reporting


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
    with reporting(path), replacing(Path(path)) as part:
        picture.save(
            part, format="JPEG", quality=90, comment=comment_of(stain.provenance), exif=exif_of(stain.provenance)
        )
