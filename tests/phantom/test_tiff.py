"""Pyramids that other readers open, with the right um per px, whatever the block size."""

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsistain.errors import ConfigError, OutputError
from wsistain.phantom.quick_slide import render_quick, write_quick_slide
from wsistain.phantom.tiff import halve, level_shapes, write_pyramid


def ramp_window(y, x, h, w):
    yy, xx = np.arange(y, y + h)[:, None], np.arange(x, x + w)[None, :]
    return np.stack(np.broadcast_arrays(yy % 256, xx % 256, (yy + xx) // 4 % 256), -1).astype(np.uint8)


@pytest.mark.parametrize("vendor", ["generic", "aperio"])
@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "deflate", "lzw", "none"])
def test_quick_slides_open_everywhere_with_their_mpp(tmp_path, vendor, compression):
    path = write_quick_slide(
        tmp_path / "s.tiff", height=300, width=421, mpp=0.4661, tile_px=128, vendor=vendor, compression=compression,
        quality=50,
    )  # fmt: skip
    expected = render_quick(0, 0, 300, 421, shape=(300, 421), mpp=0.4661, seed=0).astype(int)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[0].shape == (300, 421, 3)
        pixels = tiff.pages[0].asarray().astype(int)
    if compression in ("deflate", "lzw", "none"):
        np.testing.assert_array_equal(pixels, expected)
    assert np.abs(pixels - expected).mean() < 6
    if compression != "jpeg2000" or vendor == "aperio":
        slide = openslide.OpenSlide(path)
        assert slide.level_dimensions == ((421, 300), (211, 150), (106, 75))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.4661, rel=1e-4)
        assert slide.properties["openslide.vendor"] == ("aperio" if vendor == "aperio" else "generic-tiff")
        seen = np.asarray(slide.read_region((20, 30), 0, (200, 150)).convert("RGB")).astype(int)
        assert np.abs(seen - pixels[30:180, 20:220]).max() <= 3
        slide.close()
    other = tiffslide.TiffSlide(path)
    assert float(other.properties["tiffslide.mpp-x"]) == pytest.approx(0.4661, rel=1e-4)
    assert len(other.level_dimensions) == 3
    other.close()


def test_lower_levels_are_exact_means_whatever_the_block(tmp_path):
    files = [
        write_pyramid(tmp_path / f"{b}.tiff", (333, 410), 1.0, ramp_window, tile_px=64, levels=3, compression="deflate", block_px=b)
        for b in (64, 128, 512)
    ]  # fmt: skip
    assert len({f.read_bytes() for f in files}) == 1
    with tifffile.TiffFile(files[0]) as tiff:
        levels = (
            [page.asarray() for page in tiff.series[0].levels]
            if len(tiff.series[0].levels) > 1
            else [page.asarray() for page in tiff.pages]
        )
    np.testing.assert_array_equal(levels[0], ramp_window(0, 0, 333, 410))
    np.testing.assert_array_equal(levels[1], halve(levels[0]))
    np.testing.assert_array_equal(levels[2], halve(levels[1]))


def test_means_of_two_by_two_round_half_up():
    rgb = np.zeros((3, 2, 3), np.uint8)
    rgb[0, 0], rgb[2] = 2, 7
    assert halve(rgb)[0, 0, 0] == 1 and halve(rgb)[1, 0, 0] == 7


def test_levels_stop_where_a_picture_is_small():
    assert level_shapes((5000, 3000), None, 2, 256)[-1] == (625, 375)
    assert level_shapes((40, 40), 8, 2, 16)[-1] == (3, 3)


def test_every_window_is_asked_for_once_and_no_wider_than_a_block(tmp_path):
    asked = []

    def window(y, x, h, w):
        asked.append((y, x, h, w))
        return ramp_window(y, x, h, w)

    write_pyramid(tmp_path / "s.tiff", (500, 700), 0.5, window, tile_px=64, block_px=256)
    assert len(asked) == len(set(asked)) == 6
    assert sum(h * w for *_, h, w in asked) == 500 * 700 and max(h * w for *_, h, w in asked) == 256 * 256


def test_nothing_is_left_when_a_window_fails(tmp_path):
    def window(y, x, h, w):
        if y:
            raise RuntimeError("lamp")
        return ramp_window(y, x, h, w)

    with pytest.raises(RuntimeError, match="lamp"):
        write_pyramid(tmp_path / "s.tiff", (500, 200), 0.5, window, tile_px=64, block_px=256)
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="multiple of 16"):
        write_pyramid(tmp_path / "s.tiff", (50, 50), 0.5, ramp_window, tile_px=50)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_pyramid(tmp_path / "file" / "s.tiff", (50, 50), 0.5, ramp_window)


def test_a_window_of_the_quick_slide_is_the_crop_of_the_whole():
    whole = render_quick(0, 0, 200, 260, shape=(200, 260), mpp=0.5, seed=3)
    np.testing.assert_array_equal(
        whole[31:90, 17:205], render_quick(31, 17, 59, 188, shape=(200, 260), mpp=0.5, seed=3)
    )
    assert 0.2 < (whole.mean(-1) < 235).mean() < 0.98
