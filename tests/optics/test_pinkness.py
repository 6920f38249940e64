"""Eosin tells H&E from haematoxylin with DAB."""

from pathlib import Path

import numpy as np
import pytest

from wsistain.data.pictures import read_picture
from wsistain.data.sides import look_of_pictures
from wsistain.markers import DAB, EOSIN, HAEMATOXYLIN
from wsistain.optics.pinkness import LEAST_PINK, MOST_PINK, look_of, pinkness_of

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


def _painted(dyes: tuple[tuple[float, ...], ...], strength: float, seed: int, glass: np.ndarray) -> np.ndarray:
    """Pixels (n, 3) of dyes in uneven amounts that come to about `strength` of optical density; a tenth is glass."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, strength / 2, (len(dyes), 4000, 1))
    amounts[:, :400] = 0
    od = sum(a * np.array(d) / np.linalg.norm(d) for a, d in zip(amounts, dyes, strict=True))
    return np.rint(glass * 10.0**-od).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_he_of_any_strength_balance_and_lamp_is_never_refused_and_dab_always(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strength, weaker = rng.uniform(0.15, 1.2), rng.uniform(0.35, 1.0)
    glass = rng.uniform(190, 250, 3).astype(np.float32)
    for dyes in ((HAEMATOXYLIN, EOSIN), (tuple(weaker * d for d in HAEMATOXYLIN), EOSIN)):
        he = look_of(_painted(dyes, strength, seed, glass), glass)
        assert he is not None and he.not_he() is None and he.doubt() is None
    ihc = look_of(_painted((HAEMATOXYLIN, DAB.od), strength, seed, glass), glass)
    assert ihc is not None and "haematoxylin with DAB" in str(ihc.not_he()) and ihc.not_dab() is None


def test_blue_alone_is_doubted_grey_is_refused_and_glass_is_not_judged() -> None:
    blue = look_of(_painted((HAEMATOXYLIN,), 0.5, 0, GLASS), GLASS)
    assert blue is not None and blue.not_he() is None and "hardly any eosin" in str(blue.doubt())
    grey = look_of(np.repeat(np.arange(10, 240, dtype=np.uint8), 9).reshape(-1, 1).repeat(3, axis=1), GLASS)
    assert grey is not None and grey.not_he() == grey.not_dab() == "it has no colour"
    assert look_of(np.full((5000, 3), 240, np.uint8), GLASS) is None


def test_real_he_is_taken_and_real_ihc_is_refused_or_doubted(real_data: Path) -> None:
    he = [p for p in sorted((real_data / "tiles_he").iterdir()) if p.suffix in (".png", ".jpg")]
    for path in he:
        for pale in (1.0, 0.5):  # half of the light that is missing
            look = look_of_pictures(
                [np.rint(243 - pale * (243.0 - read_picture(path)[::2, ::2])).clip(0, 255).astype(np.uint8)]
            )
            assert look is None or look.not_he() is None, path.name
            assert look is None or pale < 1 or look.doubt() is None, path.name
    ihc = sorted((real_data / "tiles_ihc").iterdir())
    looks = [look_of_pictures([read_picture(path)]) for path in ihc]
    assert ihc and all(look is not None and look.doubt() for look in looks)
    assert (
        sum(look is not None and look.not_he() is not None for look in looks) == 2
    )  # the third is a thumbnail, hardly brown
