"""Eosin tells H&E from haematoxylin with DAB."""

from pathlib import Path

import numpy as np
import pytest

from wsistain.data.pictures import read_picture
from wsistain.markers import DAB, EOSIN, HAEMATOXYLIN
from wsistain.optics.pinkness import LEAST_PINK, MOST_PINK, pinkness_of

GLASS = np.full(3, 243, np.float32)


def _pixels(dye: tuple[float, ...]) -> np.ndarray:
    """Pixels with haematoxylin and, on three of four, more of a dye; a tenth is glass."""
    amounts = np.random.default_rng(0).uniform(0.2, 1.0, (2, 1000, 1)) * np.array([[1.0], [1.5]])[:, None]
    amounts[1, ::4], amounts[:, :100] = 0, 0
    od = sum(a * np.array(d) / np.linalg.norm(d) for a, d in zip(amounts, (HAEMATOXYLIN, dye), strict=True))
    return np.rint(243 * 10.0**-od).astype(np.uint8)


def test_eosin_is_pink_and_dab_is_not() -> None:
    he, ihc = (pinkness_of(_pixels(dye), GLASS) for dye in (EOSIN, DAB.od))
    assert he is not None and ihc is not None and he > MOST_PINK and ihc < LEAST_PINK
    assert pinkness_of(np.full((5000, 3), 242, np.uint8), GLASS) is None


@pytest.mark.parametrize(("folder", "is_pink"), [("tiles_he", True), ("tiles_ihc", False)])
def test_real_tiles_are_told_apart(real_data: Path, folder: str, is_pink: bool) -> None:
    files = [
        p for p in sorted((real_data / folder).glob("*")) if p.suffix in (".png", ".jpg") and p.stem != "no_tissue"
    ]
    assert files
    for path in files:
        found = pinkness_of(read_picture(path)[::4, ::4].reshape(-1, 3), GLASS)
        assert found is not None and (found > LEAST_PINK if is_pink else found < LEAST_PINK), path.name
