from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.slide.made import APERIO, patch_tile, picture, through_openslide, whole, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError
from wsistain.slide import openslide_reader
from wsistain.slide.openslide_reader import ViaOpenSlide, rgb_on_white


class Scan:
    """Stands in for OpenSlide: a MIRAX-like slide with scanned bounds, unscanned transparent area and odd downsamples."""

    def __init__(self, path: object) -> None:
        del path
        rgba = np.dstack([picture(600, 500, seed=1), np.full((600, 500), 255, np.uint8)])
        rgba[300:340, 200:260] = 0  # a field that was not scanned
        self.rgba = rgba
        self.level_dimensions = ((500, 600), (166, 200))
        self.level_downsamples = (1.0, 3.006)
        self.properties = {
            "openslide.vendor": "mirax",
            "openslide.mpp-x": "0.25",
            "openslide.mpp-y": "0.25",
            "openslide.bounds-x": "40",
            "openslide.bounds-y": "90",
            "openslide.bounds-width": "400",
            "openslide.bounds-height": "450",
        }

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        x, y = location
        step = 1 if level == 0 else 3
        height, width = size[1], size[0]
        out = np.zeros((height, width, 4), np.uint8)
        rows, cols = y + step * np.arange(height), x + step * np.arange(width)
        inside = np.ix_((rows >= 0) & (rows < 600), (cols >= 0) & (cols < 500))
        out[inside] = self.rgba[np.ix_(rows[(rows >= 0) & (rows < 600)], cols[(cols >= 0) & (cols < 500)])]
        return Image.fromarray(out)

    def close(self) -> None:
        self.rgba = np.zeros((0, 0, 4), np.uint8)


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ViaOpenSlide:
    path = tmp_path / "slide.mrxs"
    path.write_bytes(b"index")
    monkeypatch.setattr(openslide_reader.openslide, "OpenSlide", Scan)
    return ViaOpenSlide(path)


def test_scanned_bounds_are_the_slide(scan: ViaOpenSlide) -> None:
    assert scan.info.size_l0 == (450, 400)
    assert scan.info.level_sizes[1] == (149, 133)
    expected = Scan(None).rgba[90:540, 40:440, :3].copy()
    expected[300 - 90 : 340 - 90, 200 - 40 : 260 - 40] = 255
    assert np.array_equal(whole(scan), expected)
    assert np.array_equal(scan.read_level(0, 200, 150, 77, 90), expected[200:277, 150:240])


def test_beyond_the_bounds_is_glass_though_the_file_goes_on(scan: ViaOpenSlide) -> None:
    window = scan.read_level(0, 440, 390, 30, 30)
    assert (window[10:] == 255).all() and (window[:, 10:] == 255).all()
    assert (window[:10, :10] != 255).any()


def test_a_pixel_of_an_odd_level_does_not_depend_on_the_window(scan: ViaOpenSlide) -> None:
    all_pixels = whole(scan, 1)
    for y, x in ((0, 0), (13, 7), (100, 101)):
        scan._cache.clear()
        assert np.array_equal(scan.read_level(1, y, x, 31, 29), all_pixels[y : y + 31, x : x + 29])


@pytest.mark.parametrize("name", ["bone_jpeg.dcm", "dicom_50px.dcm", "camelyon_lymph_node.dcm"])
def test_dicom_slides_give_openslides_pixels_in_any_window(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    with open_slide(path, mpp=0.5) as slide:
        height, width = slide.info.size_l0
        reference = through_openslide(path, 0, 0, 0, height, width)
        assert np.array_equal(whole(slide), reference)
        assert np.array_equal(slide.read_level(0, 11, 17, 30, 25), reference[11:41, 17:42])


def test_only_the_damaged_native_tiles_are_white_and_counted(tmp_path: Path) -> None:
    pixels = picture(512, 640)
    path = write_tiff(tmp_path / "slide.svs", [pixels], compression="jpeg", description=APERIO)
    with open_slide(path, reader="openslide") as slide:
        expected = whole(slide)
    for index in (3, 47):
        patch_tile(path, 0, index, b"\0" * 10_000)
        row, col = divmod(index, 10)
        expected[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64] = 255
    with open_slide(path, reader="openslide") as slide:
        for _ in range(2):
            assert np.array_equal(whole(slide), expected)
            slide._cache.clear()
        assert slide.unreadable_tiles == 2


def test_transparent_pixels_become_white_and_half_transparent_ones_are_mixed() -> None:
    rgba: NDArray[np.uint8] = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 200, 51]]], np.uint8)
    assert rgb_on_white(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [224, 204, 244]]]


def test_openslide_is_the_real_one_elsewhere() -> None:
    assert openslide.OpenSlide is not Scan


@pytest.mark.parametrize("kind", ["another", "copy"])
def test_levels_of_plain_tiffs_are_proved_here_too(tmp_path: Path, kind: str) -> None:
    pixels = np.dstack([picture(256, 320), np.full((256, 320), 255, np.uint8)])
    small = pixels[::2, ::2] if kind == "copy" else np.dstack([picture(128, 160, seed=5), pixels[::2, ::2, 3]])
    path = write_tiff(tmp_path / "s.tif", [pixels, np.ascontiguousarray(small)], extrasamples=["unassalpha"])
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert len(slide.info.level_sizes) == (2 if kind == "copy" else 1)


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_a_half_transparent_slide_looks_alike_however_its_alpha_is_stored(
    tmp_path: Path, tile: tuple[int, int] | None
) -> None:
    rgb, alpha = picture(128, 128), np.repeat(np.array([0, 51, 255, 204], np.uint8), 32)[None, :, None].repeat(128, 0)
    on_white = (rgb.astype(int) * alpha + 255 * (255 - alpha.astype(int))) / 255
    for kind, colours in (("unassalpha", rgb), ("assocalpha", (rgb.astype(int) * alpha // 255).astype(np.uint8))):
        path = write_tiff(tmp_path / f"{kind}.tif", [np.dstack([colours, alpha])], extrasamples=[kind], tile=tile)
        with open_slide(path, reader="auto" if tile else "picture") as slide:
            assert np.abs(whole(slide) - on_white).max() <= 3


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide", "picture"])
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_a_fourth_channel_that_is_not_said_to_be_alpha_is_refused(
    tmp_path: Path, reader: str, tile: tuple[int, int] | None
) -> None:
    pixels = np.dstack([picture(64, 64), picture(64, 64, seed=3)[..., :1]])
    path = write_tiff(tmp_path / "s.tif", [pixels], extrasamples=["unspecified"], tile=tile)
    with pytest.raises(SlideError, match="does not say that it is alpha"):
        open_slide(path, reader=reader, mpp=0.5)


def test_the_picture_reader_takes_an_alpha_channel(tmp_path: Path) -> None:
    pixels = np.dstack([picture(40, 50), np.full((40, 50), 255, np.uint8)])
    path = write_tiff(tmp_path / "s.tif", [pixels], extrasamples=["unassalpha"], tile=None)
    with open_slide(path, reader="picture") as slide:
        assert np.array_equal(whole(slide), pixels[..., :3])
