"""Pen over tissue, folds and defocus are found, and clean slides are called clean."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.slide.drawn import drawn
from tests.slide.made import write_tiff
from tests.slide.scenes import HAEMATOXYLIN, INKS, SHAPE, box, he, picture, piece, texture
from wsistain import open_slide
from wsistain.phantom.quick_slide import render_quick, write_quick_slide
from wsistain.slide.quality import Quality, examine, folds, is_sharp
from wsistain.slide.segment import segment_all
from wsistain.slide.tissue import find_tissue, read_thumbnail

TISSUE = box(70, 120, 110, 150)


def examined(path: Path, image: NDArray[np.uint8], mpp: float = 8.0) -> Quality:
    with open_slide(write_tiff(path, [image]), mpp=mpp) as slide:
        return examine(slide).quality


def test_a_clean_slide_is_called_clean_and_its_mask_is_that_of_find_tissue(tmp_path: Path) -> None:
    with open_slide(write_quick_slide(tmp_path / "s.tif", height=600, width=900)) as slide:
        shown = examine(slide)
        assert np.array_equal(shown.tissue.mask, find_tissue(slide).mask)
        assert shown.unscanned is None
    quality = shown.quality
    assert quality.describe() == {"pen": 0.0, "pen_mm2": 0.0, "fold": 0.0, "out_of_focus": 0.0}
    assert quality.warnings() == ()


def test_pen_over_tissue_is_measured_and_said(tmp_path: Path) -> None:
    od = piece(he(), TISSUE)
    od[110:130, 140:250] += np.array(INKS["green"]) * (0.8 + 0.4 * texture((20, 110), 3, 5))[..., None]
    quality = examined(tmp_path / "s.tif", picture(od))
    assert quality.pen_mm2 == pytest.approx(20 * 110 * 64e-6, rel=0.4)
    assert quality.pen == pytest.approx(20 * 110 / TISSUE.sum(), rel=0.4)
    (sentence,) = quality.warnings()
    assert "pen lies over" in sentence and f"{quality.pen_mm2:.2f} mm2" in sentence


def test_pen_on_glass_is_not_said_to_lie_over_tissue(tmp_path: Path) -> None:
    od = piece(he(), TISSUE)
    od[220:240, 50:350] += np.array(INKS["red"]) * 0.8
    assert not examined(tmp_path / "s.tif", picture(od)).warnings()


def test_a_fold_is_found_where_it_lies() -> None:
    od = piece(he(), TISSUE)
    fold = box(100, 130, 8, 120)
    od[fold] *= 2.3
    found = folds(picture(od), TISSUE, 8.0)
    assert (found & fold).sum() > 0.5 * fold.sum()
    assert (found & ~fold).sum() < 0.2 * fold.sum()
    assert not folds(picture(piece(he(), TISSUE)), TISSUE, 8.0).any()


def test_a_narrow_fold_is_found_and_a_dark_rim_or_crowded_nuclei_are_none() -> None:
    od = piece(he(), TISSUE)
    fold, nuclei, rim = box(100, 140, 4, 110), box(140, 140, 4, 110), box(70, 120, 4, 150)
    od[fold] *= 2.4
    od[nuclei] += 0.45 * HAEMATOXYLIN
    od[rim] *= 2.4
    found = folds(picture(od), TISSUE, 8.0)
    assert (found & fold).sum() > 0.6 * fold.sum()
    assert (found & nuclei).sum() < 0.1 * nuclei.sum()
    assert (found & rim).sum() < 0.25 * rim.sum()


def test_folds_drawn_by_eye_are_found(real_data: Path) -> None:
    for picture_drawn in drawn():
        if "fold" not in picture_drawn.shapes:
            continue
        with open_slide(real_data / picture_drawn.picture, mpp=picture_drawn.mpp) as slide:
            thumbnail, mpp = read_thumbnail(slide)
        fold = picture_drawn.mask("fold", thumbnail.shape[:2])
        shown = segment_all(thumbnail, mpp)
        found = folds(thumbnail, shown.tissue & ~shown.pen, mpp)
        assert (found & fold).sum() > 0.6 * fold.sum(), picture_drawn.name


@pytest.mark.parametrize(("blur_um", "out"), [(0.0, 0.0), (2.5, 1.0), (4.0, 1.0)])
def test_defocus_is_found(tmp_path: Path, blur_um: float, out: float) -> None:
    image = render_quick(400, 400, 800, 800, shape=(2000, 2000), mpp=0.5, seed=0)
    if blur_um:
        sigma = blur_um / 0.5
        image = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)
    assert examined(tmp_path / "s.tif", image, 0.5).out_of_focus == out


def test_focus_is_not_judged_on_coarse_slides_and_plain_glass(tmp_path: Path) -> None:
    assert examined(tmp_path / "s.tif", picture(piece(he(), TISSUE))).out_of_focus is None
    assert is_sharp(np.full((128, 128, 3), 240, np.uint8)) is None


def test_few_small_windows_are_read(tmp_path: Path) -> None:
    image = np.tile(render_quick(400, 400, 512, 512, shape=(2000, 2000), mpp=0.5, seed=0), (8, 8, 1))
    with open_slide(write_tiff(tmp_path / "s.tif", [image, image[::4, ::4], image[::16, ::16]]), mpp=0.5) as slide:
        pixels = []
        read = slide.read_level

        def counted(level: int, *window: int) -> NDArray[np.uint8]:
            pixels.append(window[2] * window[3])
            return read(level, *window)

        slide.read_level = counted  # type: ignore[method-assign]
        examine(slide)
    assert len(pixels) <= 26 and sum(pixels) < 4096 * 4096 / 4


def test_a_slide_without_tissue_has_nothing_spoilt(tmp_path: Path) -> None:
    assert examined(tmp_path / "s.tif", picture(np.zeros((*SHAPE, 3)))) == Quality()


def test_real_tiles_are_sharp_and_the_one_with_pen_says_so(real_data: Path) -> None:
    for name in ("henorm_example1.png", "tcga_adipose.png", "tiatoolbox_target.png", "tcga_red_pen.png"):
        with open_slide(real_data / "tiles_he" / name, mpp=0.5) as slide:
            quality = examine(slide).quality
        assert quality.out_of_focus == 0
        assert bool(quality.warnings()) == (name == "tcga_red_pen.png"), name
