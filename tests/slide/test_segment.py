"""What tells tissue from pen, black, bars and edges of glass, on made scenes of 8 um per px."""

import numpy as np
import pytest

from tests.slide.drawn import dice
from tests.slide.scenes import INKS, SHAPE, box, he, picture, piece, rng, stroke, texture
from wsistain.slide.glass import WHITE, glass_colour, unscanned
from wsistain.slide.segment import segment, segment_all

MPP = 8.0
TISSUE = box(70, 120, 110, 150)


@pytest.mark.parametrize("most", [0.9, 0.4])
@pytest.mark.parametrize("height", [8, 25, 60])
@pytest.mark.parametrize("ink", INKS)
def test_streaky_pen_on_glass_is_no_tissue(ink: str, height: int, most: float) -> None:
    od = piece(he(), TISSUE) + stroke(ink, 210, height, most)
    shown = segment_all(picture(od), MPP)
    assert dice(shown.tissue, TISSUE) > 0.97
    assert not shown.tissue[205:].any()
    assert shown.inked.sum() < 0.002 * TISSUE.sum()
    if ink != "black":
        assert shown.pen[210 : 210 + height].mean() > 0.9


@pytest.mark.parametrize(("height", "most"), [(8, 0.25), (25, 0.2), (60, 0.2)])
def test_pale_red_pen_on_glass_is_no_muscle(height: int, most: float) -> None:
    shown = segment_all(picture(piece(he(), TISSUE) + stroke("red", 210, height, most)), MPP)
    assert dice(shown.tissue, TISSUE) > 0.97 and not shown.tissue[205:].any()


@pytest.mark.parametrize("ink", INKS)
def test_pen_across_tissue_leaves_it_whole_and_is_named(ink: str) -> None:
    od = piece(he(), TISSUE)
    od[115:131, 60:340] += np.array(INKS[ink]) * (0.7 + 0.4 * texture((16, 280), 3, 5))[..., None]
    shown = segment_all(picture(od), MPP)
    assert dice(shown.tissue, TISSUE) > 0.97
    under = TISSUE & box(115, 0, 16, SHAPE[1])
    assert (shown.inked & under).sum() > 0.2 * under.sum()
    assert not shown.inked[:100].any() and not shown.inked[150:].any()


@pytest.mark.parametrize("ink", ["red", "green", "blue"])
def test_an_outline_beside_tissue_is_on_glass(ink: str) -> None:
    od = piece(he(), TISSUE)
    od[50:200, 90:118] += np.array(INKS[ink]) * (0.4 + 0.3 * texture((150, 28), 3, 5))[..., None]
    shown = segment_all(picture(od), MPP)
    assert shown.tissue[50:200, 90:112].mean() < 0.1
    assert dice(shown.tissue, TISSUE) > 0.95


@pytest.mark.parametrize("grey", [20, 60, 120])
@pytest.mark.parametrize("side", ["left", "top"])
def test_a_dark_bar_beside_nothing_but_tissue_is_not_taken_for_glass(grey: int, side: str) -> None:
    image = picture(he() + 0.08)
    bar = image[:, :50] if side == "left" else image[:40]
    bar[:] = np.clip(grey + rng().normal(0, 1, bar.shape), 0, 255)
    assert np.allclose(glass_colour(image), WHITE)
    mask = segment(image, MPP)
    assert mask[60:, 60:].all()
    assert (mask[:, :40] if side == "left" else mask[:30]).mean() < 0.05


def test_unscanned_black_is_neither_tissue_nor_glass() -> None:
    image = picture(piece(he(), TISSUE))
    plain = segment(image, MPP)
    image[:, :90] = 0
    image[250:] = np.clip(rng().normal(0, 1.5, image[250:].shape), 0, 4)  # as JPEG leaves it
    shown = segment_all(image, MPP)
    assert dice(shown.tissue, plain) > 0.99
    assert shown.unscanned[:, :90].all() and shown.unscanned[252:].all()
    assert shown.unscanned[:248, 93:].sum() == 0


def test_tissue_up_to_a_black_canvas_is_found_without_any_glass() -> None:
    image = picture(he() + 0.05)
    image[:60] = image[240:] = image[:, :80] = image[:, 320:] = 0
    assert dice(segment(image, MPP), box(60, 80, 180, 240)) > 0.97


def test_dark_ink_and_pigment_are_not_unscanned() -> None:
    image = picture(piece(he(), TISSUE))
    image[100:108, 150:158] = 3  # 64 um of pigment
    image[220:260, 50:90] = np.clip(rng().normal(8, 3, (40, 40, 3)), 0, 255)  # ink as black as ink is
    assert not unscanned(image, MPP).any()


@pytest.mark.parametrize("strength", [0.3, 0.15, 0.08])
def test_pale_blue_ihc_is_tissue(strength: float) -> None:
    pale = strength * 0.4 * texture(SHAPE, 1.5, 6)[..., None] * np.array([1.35, 1.0, 0.75])
    assert dice(segment(picture(piece(pale, TISSUE)), MPP), TISSUE) > 0.95


def test_an_uneven_lamp_is_no_pale_tissue() -> None:
    shade = np.linspace(0, 0.05, SHAPE[1])[None, :, None] * np.ones((*SHAPE, 3))
    assert segment(picture(shade), MPP).mean() < 0.001


MUSCLE = np.array([0.06, 0.28, 0.16])


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_thin_strands_of_muscle_are_kept_whole(width: int) -> None:
    strand = np.zeros(SHAPE, bool)
    for x in range(40, 360):
        y = 150 + round(12 * np.sin(x / 30))
        strand[y : y + width, x] = True
    mask = segment(picture(piece(np.broadcast_to(MUSCLE, (*SHAPE, 3)), strand)), MPP)
    assert (mask & strand).sum() > 0.97 * strand.sum()
    assert mask.sum() < strand.sum() + 2.5 * 320  # no wider than smoothing makes it


@pytest.mark.parametrize("um", [48, 64, 80, 96])
def test_specks_of_tissue_below_a_tenth_of_a_millimetre_are_kept(um: int) -> None:
    n = um // 8
    specks = box(60, 60, n, n) | box(140, 300, n, n) | box(230, 150, n, n)
    assert (segment(picture(piece(he(), specks)), MPP) & specks).sum() == specks.sum()


def test_edges_of_a_coverslip_are_not_tissue() -> None:
    for colour, tint in (((0.30, 0.28, 0.29), 0.012), ((0.20, 0.17, 0.24), 0.0), ((0.12, 0.10, 0.13), 0.004)):
        across, along = piece(he(), TISSUE), piece(he(), TISSUE)
        across[:, 340:344] = along[270:273] = colour
        across[:, 344:] += tint
        for od in (across, along):
            assert dice(segment(picture(od), MPP), TISSUE) > 0.97


def test_a_grey_frame_of_dots_is_not_tissue() -> None:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    dots = np.zeros(SHAPE, bool)
    for row in range(20, 290, 18):
        dots |= ((y - row) ** 2 + (x - 20) ** 2 <= 30) | ((y - row) ** 2 + (x - 380) ** 2 <= 30)
    od = np.where(dots[..., None], np.array([0.45, 0.44, 0.46]), piece(he(), TISSUE))
    assert not segment(picture(od), MPP)[dots].any()


@pytest.mark.parametrize("ink", ["red", "green", "blue"])
def test_a_very_pale_stroke_on_glass_is_no_tissue(ink: str) -> None:
    od = piece(he(), TISSUE)
    od[215:240, 20:380] += np.array(INKS[ink]) * (0.035 + 0.01 * texture((25, 360), 8, 5))[..., None]
    mask = segment(picture(od), MPP)
    assert mask[210:245].mean() < 0.02
    assert dice(mask, TISSUE) > 0.97


def test_a_blue_stain_all_over_is_no_pen() -> None:
    blue = (0.1 + 0.6 * texture(SHAPE, 2, 7))[..., None] * np.array([1.0, 0.55, 0.12])
    shown = segment_all(picture(blue), MPP)
    assert shown.tissue.mean() > 0.95 and not shown.pen.any()


def test_the_same_thumbnail_gives_the_same_mask_and_turning_it_turns_the_mask() -> None:
    image = picture(piece(he(), TISSUE) + stroke("red", 210, 25, 0.4))
    mask = segment(image, MPP)
    assert np.array_equal(mask, segment(image.copy(), MPP))
    for turned, back in (
        (image[::-1], np.flipud),
        (image[:, ::-1], np.fliplr),
        (image.transpose(1, 0, 2), np.transpose),
    ):
        assert dice(back(segment(np.ascontiguousarray(turned), MPP)), mask) > 0.98
