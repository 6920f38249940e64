"""Tissue masks against masks drawn by eye, beside the masks of other tools.

    python benchmarks/tissue.py ../shared/data --output benchmarks/results/tissue.json --overlays runs/tissue

What was drawn follows the rule that wsistain follows (fat, clefts, small lumens and tissue under pen are tissue), and its
thresholds were set looking at these pictures: the table tells what each method calls tissue, not how it does elsewhere.
Every mask is made from the same thumbnail of about 8 um per px (the picture itself where it is coarser). The others are
written here from their documentation, not run from their packages:

otsu      : grey below Otsu's threshold.
tiatoolbox: MorphologicalMasker: Otsu's threshold, islands below the area of an ellipse of 64 um removed, then grown by it.
histoqc   : the tissue steps of HistoQC's config_light: grey below 0.99 and the three channels apart (standard deviation
            over 10 levels), darker than 0.15 left out, holes below 1000 px filled, islands below 64 px and spurs (disk of
            7 px) removed. Its steps for bubbles, blur, and its least area of 90,000 px are left out: most pictures here
            are smaller than that area.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2gray
from skimage.filters import threshold_otsu
from skimage.morphology import disk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.slide.drawn import Drawn, dice, drawn
from wsistain.slide.reader import open_slide
from wsistain.slide.segment import segment
from wsistain.slide.tissue import read_thumbnail

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def otsu(rgb: RGB, mpp: float) -> Mask:
    """Grey below Otsu's threshold; nothing where all is one grey."""
    grey = (rgb2gray(rgb) * 255).round().astype(np.uint8)
    found: Mask = grey < threshold_otsu(grey) if grey.min() < grey.max() else np.zeros(grey.shape, bool)
    return found


def tiatoolbox(rgb: RGB, mpp: float) -> Mask:
    """Otsu's threshold, small islands removed, grown."""
    edge = max(1, round(64 / mpp))
    y, x = np.ogrid[:edge, :edge]
    ellipse = (y - (edge - 1) / 2) ** 2 + (x - (edge - 1) / 2) ** 2 <= (edge / 2) ** 2
    return ndimage.binary_dilation(_without_islands(otsu(rgb, mpp), int(ellipse.sum())), ellipse)


def histoqc(rgb: RGB, mpp: float) -> Mask:
    """Coloured and not white, without what is dark, small or a spur."""
    grey = rgb2gray(rgb)
    mask = (grey < 0.99) & (rgb.astype(np.float32).std(axis=2) > 10) & ~(grey < 0.15)
    mask = ~_without_islands(~mask, 1000)
    return ndimage.binary_opening(_without_islands(mask, 64), disk(7))


def _without_islands(mask: Mask, least_px: int) -> Mask:
    labels, n = ndimage.label(mask)
    large = np.bincount(labels.ravel(), minlength=n + 1) >= least_px
    large[0] = False
    return large[labels]


METHODS: dict[str, Callable[[RGB, float], Mask]] = {
    "wsistain": segment,
    "otsu": otsu,
    "tiatoolbox": tiatoolbox,
    "histoqc": histoqc,
}


def main() -> None:
    """Print Dice for every picture and method, and the share of pen on glass that is taken for tissue."""
    options = common.parser(__doc__ or "")
    options.add_argument("data", type=Path, help="the folder of shared test data")
    options.add_argument("--overlays", type=Path, help="folder for pictures of the masks")
    args = options.parse_args()
    pictures: dict[str, Any] = {}
    for picture in drawn():
        pictures[picture.name] = measure(picture, args.data, args.overlays)
    means = {name: round(float(np.mean([p[name]["dice"] for p in pictures.values()])), 4) for name in METHODS}
    partly = [p for p in pictures.values() if 0 < p["tissue_share"] < 1]
    results = {
        "mean_dice": means,
        "mean_dice_where_there_is_glass": {
            name: round(float(np.mean([p[name]["dice"] for p in partly])), 4) for name in METHODS
        },
        "pen_on_glass_taken": {name: pictures["slide_thumb_pen_marks"][name]["pen_taken"] for name in METHODS},
        "pictures": pictures,
    }
    common.report("tissue", results, args.output)


def measure(picture: Drawn, data: Path, overlays: Path | None) -> dict[str, Any]:
    """Dice of every method on one picture, and pen taken for tissue where pen lies on glass."""
    with open_slide(data / picture.picture, mpp=picture.mpp) as slide:
        rgb, mpp = read_thumbnail(slide)
    tissue = picture.mask("tissue", rgb.shape[:2])
    pen = picture.mask("pen", rgb.shape[:2]) & ~tissue
    found: dict[str, Any] = {"tissue_share": round(float(tissue.mean()), 4)}
    for name, method in METHODS.items():
        mask = method(rgb, mpp)
        found[name] = {"dice": round(dice(mask, tissue), 4), "share": round(float(mask.mean()), 4)}
        if pen.any():
            found[name]["pen_taken"] = round(float(mask[pen].mean()), 4)
        if overlays and name == "wsistain":
            overlays.mkdir(parents=True, exist_ok=True)
            shown = rgb.copy()
            shown[~mask] //= 2
            shown[tissue & ~ndimage.binary_erosion(tissue, border_value=1)] = (0, 220, 0)
            Image.fromarray(shown).save(overlays / f"{picture.name}.png")
    return found


if __name__ == "__main__":
    main()
