"""Rows of equal dots and straight edges are found by their geometry, whatever their colour; tissue is not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.slide.drawn import dice
from tests.slide.scenes import SHAPE, box, he, picture, piece, rng
from wsistain.slide.printed import printed_dots, straight_edges
from wsistain.slide.segment import segment

MPP = 8.0
TISSUE = box(90, 130, 110, 150)
COLOURS = [(0.35, 0.55, 0.75), (0.25, 0.55, 0.60), (0.40, 0.55, 0.35), (0.10, 0.16, 0.22)]  # brown, rust, violet, pale


def discs(centres: list[tuple[float, float]], radius: float) -> NDArray[np.bool_]:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    found = np.zeros(SHAPE, bool)
    for row, col in centres:
        found |= (y - row) ** 2 + (x - col) ** 2 <= radius**2
    return found


def frame(pitch: float) -> list[tuple[float, float]]:
    """Centres of dots along the border of the picture."""
    rows, cols = np.arange(18, 285, pitch), np.arange(18, 385, pitch)
    return [(y, x) for y in rows for x in (cols[0], cols[-1])] + [(y, x) for x in cols for y in (rows[0], rows[-1])]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("pitch", "radius"), [(18, 4), (27, 7), (16, 3)])
def test_a_printed_frame_of_dots_is_not_tissue(colour: tuple[float, ...], pitch: float, radius: float) -> None:
    dots = discs(frame(pitch), radius)
    mask = segment(picture(np.where(dots[..., None], np.array(colour), piece(he(), TISSUE))), MPP)
    assert mask[dots].mean() < 0.02
    assert dice(mask, TISSUE) > 0.97


def test_specks_without_order_of_several_sizes_and_large_cores_are_no_print() -> None:
    places = rng(5).uniform((15, 15), (285, 385), (60, 2))
    scattered = discs([(y, x) for y, x in places], 4)
    assert printed_dots(scattered, MPP).sum() < 0.1 * scattered.sum()
    grown = np.zeros(SHAPE, bool)
    for k, centre in enumerate(frame(27)):
        grown |= discs([centre], 2 + 1.5 * (k * 7 % 5))
    assert printed_dots(grown, MPP).sum() < 0.4 * grown.sum()
    cores = discs(
        [(y, x) for y in range(30, 300, 60) for x in range(30, 400, 60)], 24
    )  # a tissue array at 25 um per px
    assert not printed_dots(cores, 25.0).any()


def test_dots_inside_tissue_leave_it_whole() -> None:
    dots = discs([(y, x) for y in range(110, 190, 16) for x in range(150, 270, 16)], 4)
    od = np.where(dots[..., None], np.array(COLOURS[0]), piece(he(), TISSUE))
    assert dice(segment(picture(od), MPP), TISSUE) > 0.97


def edges(lines: list[tuple[tuple[float, float], tuple[float, float]]], half: float = 2.0) -> NDArray[np.bool_]:
    """Lines from (row, col) to (row, col), as wide as 2 half."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    found = np.zeros(SHAPE, bool)
    for (top, left), (bottom, right) in lines:
        length = np.hypot(bottom - top, right - left)
        along = ((y - top) * (bottom - top) + (x - left) * (right - left)) / length
        across = ((x - left) * (bottom - top) - (y - top) * (right - left)) / length
        found |= (np.abs(across) <= half) & (along >= 0) & (along <= length)
    return found


CROSSING = {
    "cross": [((0, 25), (299, 25)), ((275, 0), (275, 399))],
    "tilted": [((0, 22), (299, 34)), ((285, 0), (272, 399))],
    "corner": [((0, 25), (275, 25)), ((275, 25), (275, 399))],
    "rectangle": [((20, 20), (20, 380)), ((20, 380), (280, 380)), ((280, 380), (280, 20)), ((280, 20), (20, 20))],
    "pair": [((0, 20), (299, 24)), ((0, 34), (299, 38)), ((285, 0), (281, 399))],
    "through tissue": [((0, 330), (299, 80))],
}


@pytest.mark.parametrize("colour", COLOURS[1:])
@pytest.mark.parametrize("kind", CROSSING)
def test_coloured_edges_that_cross_are_not_tissue(kind: str, colour: tuple[float, ...]) -> None:
    line = edges(CROSSING[kind])
    mask = segment(picture(piece(he(), TISSUE) + np.where(line[..., None], np.array(colour), 0.0)), MPP)
    far = line & ~box(84, 124, 122, 162)
    assert mask[far].mean() < 0.08  # the short ends beyond a crossing may stay
    assert dice(mask, TISSUE) > 0.97


def test_wavy_strands_and_short_ones_inside_the_picture_are_no_edges() -> None:
    wavy = np.zeros(SHAPE, bool)
    for x in range(SHAPE[1]):
        y = 150 + round(14 * np.sin(x / 25))
        wavy[y : y + 3, x] = True
    assert not straight_edges(wavy, MPP).any()
    assert not straight_edges(edges([((100, 100), (100, 260))]), MPP).any()
    assert not straight_edges(edges([((0, 100), (120, 100))]), MPP).any()
    assert not straight_edges(TISSUE, MPP).any()
