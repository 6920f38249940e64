from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.slide.drawn import Drawn, dice, drawn
from tests.slide.made import write_tiff
from wsistain import open_slide
from wsistain.slide.base import SlideInfo
from wsistain.slide.glass import glass_colour
from wsistain.slide.segment import segment
from wsistain.slide.tissue import TissueMask, find_tissue

WHOLLY_TISSUE = [
    "henorm_example1.png", "histoqc_template1.png", "histoqc_template3.png", "ndpi_frame_wide.jpg", "stardist_histo.jpg",
    "tcga_gland_dense_nuclei.png", "tcga_red_pen.png", "tcga_smooth_muscle_vessel.png", "tiatoolbox_target.png",
    "torchstain_source.png", "torchstain_target.png", "tupac_breast_a.png", "tcga_adipose.png", "tcga_frozen_loose.png",
]  # fmt: skip

LEAST_DICE = {  # with what was drawn by eye; what is not here is above 0.93
    "thumb_OS-1": 0.86,
    "thumb_OS-2_ki67": 0.72,
}


@pytest.mark.parametrize("picture", drawn(), ids=lambda picture: picture.name)
def test_the_mask_is_what_one_sees(real_data: Path, picture: Drawn) -> None:
    with open_slide(real_data / picture.picture, mpp=picture.mpp) as slide:
        mask = find_tissue(slide).mask
    tissue = picture.mask("tissue", mask.shape)
    assert dice(mask, tissue) > LEAST_DICE.get(picture.name, 0.93)
    pen_on_glass = picture.mask("pen", mask.shape) & ~tissue
    assert (mask & pen_on_glass).sum() <= 0.22 * pen_on_glass.sum()


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("name", WHOLLY_TISSUE)
def test_tiles_full_of_tissue_are_tissue(real_data: Path, name: str, mpp: float) -> None:
    assert find_tissue(open_slide(real_data / "tiles_he" / name, mpp=mpp)).share > 0.98


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 2.0])
def test_blank_tiles_are_glass(real_data: Path, mpp: float) -> None:
    assert find_tissue(open_slide(real_data / "tiles_he" / "no_tissue.png", mpp=mpp)).share < 0.02
    assert find_tissue(open_slide(real_data / "tiles_he" / "almost_white.png", mpp=mpp)).share < 0.1


def test_pen_on_glass_is_left_out_and_pen_on_tissue_kept(real_data: Path) -> None:
    mask = find_tissue(open_slide(real_data / "tiles_he" / "slide_thumb_pen_marks.png", mpp=8)).mask
    assert not mask[60:110, 300:420].any(where=_green(real_data)[60:110, 300:420])  # green outline at the upper right
    assert mask[180:390, 110:400].mean() > 0.99  # with its black circles


def _green(real_data: Path) -> NDArray[np.bool_]:
    slide = open_slide(real_data / "tiles_he" / "slide_thumb_pen_marks.png", mpp=8)
    red, green, blue = (slide.read_level(0, 0, 0, *slide.info.size_l0)[..., i].astype(int) for i in range(3))
    return (green - red > 60) & (np.abs(green - blue) < 40)


def test_real_slides_have_plausible_shares(real_data: Path) -> None:
    slides = real_data / "slides"
    assert 0.35 < find_tissue(open_slide(slides / "CMU-1-Small-Region.svs")).share < 0.5
    assert 0.7 < find_tissue(open_slide(slides / "tma_core_HE.tif")).share < 0.85
    assert find_tissue(open_slide(slides / "dicom_50px.dcm")).share == 0
    assert find_tissue(open_slide(slides / "tiny_16px.svs")).share in (0.0, 1.0)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "tma_core_HE.tif"])
def test_the_mask_depends_little_on_the_scale_of_the_scan(real_data: Path, tmp_path: Path, name: str) -> None:
    with open_slide(real_data / "slides" / name) as slide:
        size = tuple(n // 16 * 16 for n in slide.info.size_l0)
        pixels, mpp = slide.read_level(0, 0, 0, *size), slide.info.mpp
    wanted = segment(_shrunk(pixels, 16), 16 * mpp)
    for step in (0.5, 1, 2, 4, 16):
        scan = pixels.repeat(2, axis=0).repeat(2, axis=1) if step < 1 else _shrunk(pixels, int(step))
        path = write_tiff(tmp_path / f"{step}.tif", [scan])
        with open_slide(path, mpp=mpp * step) as slide:
            mask = find_tissue(slide).mask
        assert dice(mask[: wanted.shape[0], : wanted.shape[1]], wanted) > 0.95


def _shrunk(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    blocks = pixels.reshape(height // step, step, width // step, step, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8)


GLASS, PINK, FAINT = (238, 236, 240), (220, 140, 190), (229, 212, 228)


def scene() -> NDArray[np.uint8]:
    """A clean glass slide, 400 x 500 px of 8 um, with scanner noise."""
    rng = np.random.default_rng(0)
    return np.clip(np.array(GLASS) + rng.normal(0, 1.2, (400, 500, 3)), 0, 255).astype(np.uint8)


def paint(image: NDArray[np.uint8], y: int, x: int, h: int, w: int, colour: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    image[y : y + h, x : x + w] = np.clip(np.array(colour) + rng.normal(0, 3, (h, w, 3)), 0, 255)


def test_glass_alone_gives_nothing() -> None:
    assert np.allclose(glass_colour(scene()), GLASS, atol=1)
    assert not segment(scene(), 8.0).any()


def test_a_piece_of_tissue_is_found_to_the_pixel_or_so() -> None:
    image = scene()
    paint(image, 100, 150, 120, 200, PINK)
    mask = segment(image, 8.0)
    assert mask[102:218, 152:348].all()
    assert not mask[:94].any() and not mask[226:].any() and not mask[:, :144].any() and not mask[:, 356:].any()


@pytest.mark.parametrize("colour", [(30, 30, 34), (210, 25, 40), (20, 120, 60), (30, 60, 190)])
def test_strokes_of_pen_on_glass_are_not_tissue(colour: tuple[int, int, int]) -> None:
    image = scene()
    paint(image, 100, 150, 120, 150, PINK)
    paint(image, 280, 50, 12, 400, colour)
    paint(image, 60, 30, 250, 10, colour)
    mask = segment(image, 8.0)
    assert mask[102:218, 152:298].all()
    assert mask.sum() < 1.1 * 120 * 150


@pytest.mark.parametrize("colour", [(30, 30, 34), (210, 25, 40), (20, 120, 60), (30, 60, 190)])
def test_strokes_of_pen_on_tissue_do_not_cut_it(colour: tuple[int, int, int]) -> None:
    image = scene()
    paint(image, 100, 150, 160, 250, PINK)
    paint(image, 150, 200, 8, 150, colour)
    assert segment(image, 8.0)[102:258, 152:398].all()


def test_dust_shadows_and_coverslip_edges_are_not_tissue() -> None:
    image = scene()
    rng = np.random.default_rng(2)
    for y, x in rng.integers(5, 390, (60, 2)):
        image[y : y + 2, x : x + 2] = 90  # dust
    image[:, 470:474] = (120, 122, 121)  # edge of the coverslip
    image[390:] = np.linspace(235, 140, 10)[:, None, None]  # shadow at the end of the glass
    assert segment(image, 8.0).mean() < 0.001


def test_fat_is_tissue_and_a_large_empty_lumen_is_not() -> None:
    image = scene()
    paint(image, 40, 40, 320, 420, PINK)
    paint(image, 60, 60, 120, 160, GLASS)  # 1 x 1.3 mm of fat: walls one pixel thick every 72 um
    image[60:180:9, 60:220] = FAINT
    image[60:180, 60:220:9] = FAINT
    paint(image, 220, 260, 110, 160, GLASS)  # a lumen of 0.9 x 1.3 mm
    paint(image, 200, 100, 40, 40, GLASS)  # a small one of 0.3 mm
    mask = segment(image, 8.0)
    assert mask[60:180, 60:220].mean() > 0.9
    assert mask[200:240, 100:140].all()
    assert mask[230:320, 270:410].mean() < 0.05


def test_very_pale_tissue_is_found() -> None:
    image = scene()
    paint(image, 100, 100, 150, 200, (231, 222, 236))
    mask = segment(image, 8.0)
    assert mask[105:245, 105:295].mean() > 0.99
    assert mask.sum() < 1.2 * 150 * 200


def test_grey_glass_and_unscanned_white_are_both_glass() -> None:
    image = (scene().astype(float) * 0.5).astype(np.uint8)
    paint(image, 100, 150, 120, 150, (110, 70, 95))
    image[:, 400:] = 255
    mask = segment(image, 8.0)
    assert mask[102:218, 152:298].all() and mask.sum() < 1.1 * 120 * 150


def test_the_thumbnail_is_read_from_a_coarse_level_and_bounded(tmp_path: Path) -> None:
    image = np.full((1024, 1024, 3), 240, np.uint8)
    image[256:640, 320:832] = PINK
    levels = [image, image[::4, ::4], image[::16, ::16]]
    with open_slide(write_tiff(tmp_path / "s.tif", levels), mpp=0.5) as slide:
        asked: list[int] = []
        read = slide.read_level

        def watched(level: int, *window: int) -> NDArray[np.uint8]:
            asked.append(level)
            return read(level, *window)

        slide.read_level = watched
        mask = find_tissue(slide)
        assert set(asked) == {2}
        assert mask.downsample == 16 and mask.mask.shape == (64, 64)
        assert mask.share == pytest.approx(384 * 512 / 1024**2, rel=0.2)


def test_dilation_grows_by_at_least_the_length_asked_for() -> None:
    mask = np.zeros((50, 50), bool)
    mask[25, 25] = True
    tissue = TissueMask(mask, 16.0)
    assert tissue.dilated(0) is tissue
    grown = tissue.dilated(40).mask
    assert grown[22:29, 22:29].all() and grown.sum() == 49


def test_everywhere_covers_everything() -> None:
    info = SlideInfo("s", (1000, 777), 0.5, "given", ((1000, 777),), (1.0,), (0, 0), "", "picture", "0")
    mask = TissueMask.everywhere(info)
    assert mask.share == 1
    assert mask.covers(999, 776, 1, 1) and mask.covers(0, 0, 1, 1)
    assert not mask.covers(1100, 0, 10, 10) and not mask.covers(-20, 0, 20, 10)


@given(
    st.integers(-80, 400),
    st.integers(-80, 400),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([1.0, 3.7, 16.0]),
)
def test_covers_says_whether_any_tissue_pixel_is_touched(y: int, x: int, h: int, w: int, downsample: float) -> None:
    mask = np.random.default_rng(4).random((23, 19)) < 0.02
    rows, cols = np.nonzero(mask)
    touched = (
        (rows * downsample < y + h)
        & ((rows + 1) * downsample > y)
        & (cols * downsample < x + w)
        & ((cols + 1) * downsample > x)
    )
    assert TissueMask(mask, downsample).covers(y, x, h, w) == touched.any()
