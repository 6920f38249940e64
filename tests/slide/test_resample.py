from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.slide.made import picture, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError
from wsistain.slide.base import Slide, SlideInfo
from wsistain.slide.grid import Grid, GridSlide, TileKey
from wsistain.slide.resample import Sampling, choose_sampling, read_window


class Memory(GridSlide):
    """A slide of one level from an array."""

    def __init__(self, pixels: NDArray[np.uint8], mpp: float = 0.25) -> None:
        size = pixels.shape[:2]
        info = SlideInfo("memory", size, mpp, "given", (size,), (1.0,), (0, 0), "memory", "picture", "0")
        super().__init__(info, (Grid(*size, *size),))
        self._pixels = pixels

    def _decode(self, key: TileKey, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        del out
        return self._pixels

    def close(self) -> None:
        self._cache.clear()


def whole(slide: Slide, sampling: Sampling) -> NDArray[np.uint8]:
    return read_window(slide, sampling, 0, 0, *sampling.shape)


def area_by_the_book(pixels: NDArray[np.uint8], scale: float, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Mean over the exact area of each output pixel in float64, the last source pixel repeated outwards."""

    def one_axis(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        steps = np.concatenate([values, np.repeat(values[-1:], int(scale) + 2, axis=0)])
        total = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])
        edge = np.arange(n + 1) * scale
        low = np.floor(edge).astype(int)
        at = total[low] + (edge - low)[:, None, None] * steps[low]
        return np.diff(at, axis=0) / scale

    down = one_axis(pixels.astype(np.float64), shape[0])
    return one_axis(down.transpose(1, 0, 2), shape[1]).transpose(1, 0, 2)


SLIDE = Memory(picture(331, 287, seed=5))
PYRAMID_MPP = 0.25


@settings(deadline=None, max_examples=120)
@given(
    st.floats(0.13, 6.0),
    st.integers(-40, 400),
    st.integers(-40, 400),
    st.integers(1, 90),
    st.integers(1, 90),
)
def test_any_window_is_the_crop_of_the_whole_at_any_mpp(mpp: float, y: int, x: int, height: int, width: int) -> None:
    sampling = choose_sampling(SLIDE.info, mpp)
    all_pixels = whole(SLIDE, sampling)
    padded = np.full((sampling.shape[0] + 600, sampling.shape[1] + 600, 3), 255, np.uint8)
    padded[50 : 50 + sampling.shape[0], 50 : 50 + sampling.shape[1]] = all_pixels
    y, x = min(y, sampling.shape[0] + 40), min(x, sampling.shape[1] + 40)
    window = read_window(SLIDE, sampling, y, x, height, width)
    assert np.array_equal(window, padded[50 + y : 50 + y + height, 50 + x : 50 + x + width])


@pytest.mark.parametrize("mpp", [0.3, 0.4661, 0.5, 0.7, 1.0, 3.3, 8.0])
def test_shrinking_is_the_exact_area_mean(mpp: float) -> None:
    sampling = choose_sampling(SLIDE.info, mpp)
    found = whole(SLIDE, sampling)
    expected = area_by_the_book(SLIDE._pixels, sampling.scale, sampling.shape)
    assert np.abs(found - expected).max() < 0.62  # half a grey level, and the fixed-point weights


def test_halving_gives_the_rounded_mean_of_four(tmp_path: Path) -> None:
    pixels = picture(64, 64)
    found = whole(Memory(pixels), choose_sampling(Memory(pixels).info, 0.5))
    assert np.abs(found - pixels.reshape(32, 2, 32, 2, 3).mean((1, 3))).max() <= 0.5


@pytest.mark.parametrize("mpp", [0.125, 0.2, 0.31, 0.5, 1.7, 5.0])
@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
def test_a_constant_slide_stays_constant_up_to_its_edges(mpp: float, value: int) -> None:
    slide = Memory(np.full((123, 97, 3), value, np.uint8))
    assert (whole(slide, choose_sampling(slide.info, mpp)) == value).all()


def test_enlarging_is_linear_between_pixel_centres() -> None:
    ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    slide = Memory(ramp)
    sampling = choose_sampling(slide.info, 0.125)
    found = whole(slide, sampling)[5, 4:-4, 0].astype(float)
    expected = 2 * ((np.arange(sampling.shape[1]) + 0.5) / 2 - 0.5)
    assert np.abs(found - expected[4:-4]).max() <= 0.51


def test_strong_reduction_reads_block_by_block_and_gives_the_same() -> None:
    slide = Memory(picture(1500, 1300, seed=9))
    sampling = choose_sampling(slide.info, 2.3)
    found = whole(slide, sampling)
    assert np.abs(found - area_by_the_book(slide._pixels, sampling.scale, sampling.shape)).max() < 0.62
    asked: list[int] = []
    read = slide.read_level

    def watched(level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        asked.append(height * width)
        return read(level, y, x, height, width)

    slide.read_level = watched  # type: ignore[method-assign]
    assert np.array_equal(whole(slide, sampling), found)
    assert max(asked) < 1200 * 1200


def _info(mpp: float, downsamples: tuple[float, ...]) -> SlideInfo:
    sizes = tuple((int(8000 / d), int(6000 / d)) for d in downsamples)
    return SlideInfo("s.svs", sizes[0], mpp, "reader", sizes, downsamples, (256, 256), "aperio", "tiff", "0")


@pytest.mark.parametrize(
    ("mpp", "level", "scale"),
    [
        (None, 0, 1.0),
        (0.25, 0, 1.0),
        (0.2512, 0, 1.0),
        (0.5, 0, 2.0),
        (0.9, 0, 3.6),
        (0.99, 1, 1.0),
        (1.0, 1, 1.0),
        (1.5, 1, 1.5),
        (4.0, 2, 1.0),
        (40.0, 2, 10.0),
        (0.2, 0, 0.8),
        (0.125, 0, 0.5),
    ],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(mpp: float | None, level: int, scale: float) -> None:
    sampling = choose_sampling(_info(0.25, (1.0, 4.0, 16.0)), mpp)
    assert (sampling.level, sampling.scale) == (level, pytest.approx(scale))


def test_a_level_within_two_percent_is_copied_and_tells_its_own_mpp(tmp_path: Path) -> None:
    pixels = picture(128, 128)
    with open_slide(write_tiff(tmp_path / "s.tif", [pixels, pixels[::2, ::2]], um=0.2513)) as slide:
        for wanted, level in ((0.25, 0), (0.5, 1)):
            sampling = choose_sampling(slide.info, wanted)
            assert sampling == Sampling(level, 1.0, pytest.approx(0.2513 * 2**level), slide.info.level_sizes[level])
            assert np.array_equal(whole(slide, sampling), pixels[:: 2**level, :: 2**level])


def test_a_slide_more_than_twice_too_coarse_is_refused_with_both_numbers() -> None:
    with pytest.raises(SlideError, match=r"1\.1 um per px, too coarse for 0\.5"):
        choose_sampling(_info(1.1, (1.0,)), 0.5)
    assert choose_sampling(_info(0.998, (1.0,)), 0.5).scale == pytest.approx(0.501, abs=1e-3)


def test_an_mpp_that_is_no_length_is_a_wrong_argument() -> None:
    for mpp in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            choose_sampling(_info(0.25, (1.0,)), mpp)


def test_the_shape_covers_the_slide_and_no_more() -> None:
    info = replace(_info(0.25, (1.0,)), size_l0=(1000, 1001), level_sizes=((1000, 1001),))
    assert choose_sampling(info, 0.5).shape == (500, 501)
    assert choose_sampling(info, 0.75).shape == (334, 334)
