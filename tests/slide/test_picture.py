from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.slide.made import picture, whole
from wsistain import open_slide
from wsistain.errors import SlideError
from wsistain.slide import picture as module


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_flat_pictures_open_with_a_given_mpp(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tile.{suffix}"
    Image.fromarray(picture(90, 70)).save(path)
    with pytest.raises(SlideError, match="--mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.info.reader, slide.info.mpp, slide.info.mpp_source) == ("picture", 0.5, "given")
        assert np.array_equal(whole(slide), np.asarray(Image.open(path)))
        assert (slide.read_level(0, 85, -3, 10, 10)[5:] == 255).all()


def test_a_density_tag_in_the_range_of_slides_is_an_mpp_and_72_dpi_is_not(tmp_path: Path) -> None:
    path = tmp_path / "tile.png"
    Image.fromarray(picture(50, 50)).save(path, dpi=(50800, 50800))
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.5, rel=1e-3)
    Image.fromarray(picture(50, 50)).save(path, dpi=(72, 72))
    with pytest.raises(SlideError, match=r"352\.\d+ um.*--mpp"):
        open_slide(path)


def test_transparent_pixels_are_white_and_palettes_are_colours(tmp_path: Path) -> None:
    rgba = np.dstack([picture(40, 40), np.full((40, 40), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        assert (slide.read_level(0, 0, 0, 10, 40) == 255).all()
        assert np.array_equal(slide.read_level(0, 10, 0, 30, 40), rgba[10:, :, :3])
    flat = np.zeros((16, 16, 3), np.uint8)
    flat[:, 8:] = (200, 10, 60)
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    with open_slide(tmp_path / "p.png", mpp=0.5) as slide:
        assert np.array_equal(whole(slide), flat)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.fromarray(picture(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        assert np.array_equal(whole(slide), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("mode", ["L", "I;16", "LA", "1"])
def test_pictures_that_are_not_8_bit_rgb_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "tile.png"
    Image.new(mode, (30, 30)).save(path)
    with pytest.raises(SlideError, match=f"mode {mode}"):
        open_slide(path, mpp=0.5)


def test_pictures_too_large_to_hold_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PX", 1000)
    Image.fromarray(picture(50, 50)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="tiled TIFF"):
        open_slide(tmp_path / "a.png", mpp=0.5)


@pytest.mark.parametrize("folder", ["tiles_he", "tiles_ihc"])
def test_every_real_tile_opens(real_data: Path, folder: str) -> None:
    for path in sorted((real_data / folder).iterdir()):
        with open_slide(path, mpp=0.5) as slide:
            expected = np.asarray(Image.open(path).convert("RGB"))
            assert np.array_equal(whole(slide), expected), path.name


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_above_pillows_bound_are_read_up_to_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"tile.{suffix}"
    Image.fromarray(picture(90, 70)).save(path)
    expected = np.asarray(Image.open(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # stands for its 89 million: twice as many px is a "bomb"
    with open_slide(path, mpp=0.5) as slide:
        assert np.array_equal(whole(slide), expected)
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(module, "MAX_PX", 6000)
    with pytest.raises(SlideError, match="convert it to a tiled TIFF"):
        open_slide(path, mpp=0.5)


def test_a_density_that_only_tells_the_shape_of_a_pixel_is_heeded(tmp_path: Path) -> None:
    path = tmp_path / "tile.jpg"
    Image.fromarray(picture(64, 64)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"JFIF\0") + 7
    data[at : at + 5] = bytes([0, 0, 1, 0, 2])  # no unit, 1 : 2
    path.write_bytes(data)
    with pytest.raises(SlideError, match="not square"):
        open_slide(path, mpp=0.5)
