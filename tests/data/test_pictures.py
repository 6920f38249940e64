from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.made_patches import save, tissue
from wsistain.data.pictures import picture_size, read_mask, read_picture, resize, resize_short
from wsistain.errors import DataError


def test_a_png_comes_back_as_it_was_and_a_jpeg_as_pillow_decodes_it(tmp_path: Path) -> None:
    he, _ = tissue(0, 40)
    np.testing.assert_array_equal(read_picture(save(he, tmp_path / "a.png")), he)
    path = save(he, tmp_path / "a.jpg")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_picture(path), np.asarray(picture))
    assert picture_size(path) == (40, 40)


def test_an_opaque_alpha_channel_is_dropped_and_a_real_one_refused(tmp_path: Path) -> None:
    he, _ = tissue(0, 16)
    rgba = np.dstack([he, np.full((16, 16), 255, dtype=np.uint8)])
    np.testing.assert_array_equal(read_picture(save(rgba, tmp_path / "opaque.png")), he)
    rgba[0, 0, 3] = 254
    with pytest.raises(DataError, match="partly transparent"):
        read_picture(save(rgba, tmp_path / "clear.png"))


def test_grey_and_16_bit_pictures_are_no_patches(tmp_path: Path) -> None:
    grey = save(np.zeros((8, 8), dtype=np.uint8), tmp_path / "grey.png")
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(deep)
    for path in (grey, deep):
        with pytest.raises(DataError, match=path.name):
            read_picture(path)
        with pytest.raises(DataError, match="wanted 8-bit RGB"):
            picture_size(path)
    assert picture_size(grey, is_mask=True) == (8, 8)


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".webp"])
def test_other_lossless_kinds_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    he, _ = tissue(0, 40)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(he).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_picture(path), he)
    assert picture_size(path) == (40, 40)


@pytest.mark.parametrize(
    "how", [{"photometric": "rgb", "planarconfig": "separate"}, {"photometric": "rgb", "tile": (16, 16)}]
)
def test_tiffs_in_planes_and_tiles_are_read_alike(tmp_path: Path, how: dict[str, Any]) -> None:
    he, _ = tissue(0, 40)
    planes = np.moveaxis(he, -1, 0) if "planarconfig" in how else he
    tifffile.imwrite(tmp_path / "a.tif", planes, **how)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), he)


def test_tiffs_that_hold_something_else_are_refused_by_header_and_by_decoding(tmp_path: Path) -> None:
    he, _ = tissue(0, 40)
    made = {
        "deep": (he.astype(np.uint16) * 257, "rgb", r"16-bit pixels, wanted 8-bit RGB"),
        "grey": (he[..., 0], "minisblack", r"1 channels|wanted RGB"),
        "stack": (np.stack([he, he]), "rgb", "2 pictures, wanted one"),
    }
    for name, (pixels, photometric, text) in made.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, photometric=photometric)
        for read in (picture_size, read_picture):
            with pytest.raises(DataError, match=text):
                read(path)
    lab = tmp_path / "lab.tif"
    Image.fromarray(he).convert("LAB").save(lab)
    for read in (picture_size, read_picture):
        with pytest.raises(DataError, match="CIELAB pixels, wanted 8-bit RGB"):
            read(lab)
    deep = tmp_path / "deep.png"
    deep.write_bytes(imagecodecs.png_encode(he.astype(np.uint16) * 257))
    with pytest.raises(DataError, match="16-bit"):
        picture_size(deep)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_what_viewers_turn_is_refused_and_what_they_do_not_is_read(tmp_path: Path, suffix: str) -> None:
    he, _ = tissue(0, 40)
    for orientation in (1, 2, 6):
        path, exif = tmp_path / f"{orientation}{suffix}", Image.Exif()
        exif[274] = orientation
        if suffix == ".tif":
            tifffile.imwrite(path, he, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)])
        else:
            Image.fromarray(he).save(path, exif=exif)
        for read in (picture_size, read_picture):
            if orientation == 1:
                assert np.shape(read(path))[0] in (2, 40)
            else:
                with pytest.raises(
                    DataError, match=rf"turned or mirrored \(orientation {orientation}\); save it upright"
                ):
                    read(path)


def test_a_png_that_says_after_its_pixels_how_it_is_turned_is_refused(tmp_path: Path) -> None:
    he, _ = tissue(0, 40)
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(he).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4], "big")
    chunk, rest = data[at : at + length], data[:at] + data[at + length :]
    (tmp_path / "a.png").write_bytes(rest[:-12] + chunk + rest[-12:])
    with pytest.raises(DataError, match="orientation 3"):
        read_picture(tmp_path / "a.png")


def test_damage_inside_a_jpeg_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    path = save(noise, tmp_path / "a.jpg")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = (
        np.random.default_rng(1).integers(0, 256, 400, dtype=np.uint8).tobytes()
    )
    path.write_bytes(bytes(data))
    assert imagecodecs.jpeg8_decode(bytes(data)).shape == (128, 128, 3)  # the decoder alone does not tell
    with pytest.raises(DataError, match=r"a\.jpg cannot be decoded"):
        read_picture(path)


def test_resizing_by_the_shorter_side_keeps_the_form() -> None:
    assert resize_short(np.zeros((151, 201, 3), np.uint8), 76).shape == (76, 101, 3)
    assert resize_short(np.zeros((30, 10), bool), 5, nearest=True).shape == (15, 5)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_cut_short_is_found_by_header_and_by_decoding(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (picture_size, read_picture):
        with pytest.raises(DataError, match=path.name):
            read(path)


@pytest.mark.parametrize("content", [b"", b"plain text, no picture", b"\xff\xd8\xff\xe0 junk \xff\xd9"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for read in (picture_size, read_picture):
        with pytest.raises(DataError, match=r"x\.jpg"):
            read(path)
    with pytest.raises(DataError, match="absent"):
        read_picture(tmp_path / "absent.png")


def test_the_real_broken_tiles_are_refused(real_data: Path) -> None:
    for name in ("truncated_tile.jpg", "truncated_tile.png"):
        with pytest.raises(DataError, match="cut short"):
            read_picture(real_data / "bad" / name)


def test_real_tiles_with_alpha_and_without_are_read(real_data: Path) -> None:
    assert read_picture(real_data / "tiles_he" / "tupac_breast_a.png").shape == (600, 600, 3)
    assert read_picture(real_data / "tiles_he" / "stardist_histo.jpg").shape == (300, 500, 3)


def test_masks_are_boolean_whether_stored_as_1_or_255(tmp_path: Path) -> None:
    truth = np.random.default_rng(1).random((12, 20)) < 0.4
    for name, stored in (("one.png", truth.astype(np.uint8)), ("white.png", truth.astype(np.uint8) * 255)):
        np.testing.assert_array_equal(read_mask(save(stored, tmp_path / name)), truth)
    np.testing.assert_array_equal(read_mask(save(np.dstack([truth * np.uint8(255)] * 3), tmp_path / "rgb.png")), truth)
    assert not read_mask(save(np.zeros((4, 4), dtype=np.uint8), tmp_path / "none.png")).any()


def test_resizing_is_pillows_bicubic_up_to_rounding() -> None:
    he = np.random.default_rng(2).integers(0, 256, (97, 120, 3), dtype=np.uint8)
    for height, width in ((40, 50), (97, 120), (150, 130)):
        ours = resize(he, height, width)
        pillow = np.asarray(Image.fromarray(he).resize((width, height), Image.Resampling.BICUBIC))
        assert ours.shape == (height, width, 3)
        difference = np.abs(ours.astype(int) - pillow)  # of noise, the worst case
        assert difference.max() <= 2 and difference.mean() < 0.1


def test_a_resized_mask_stays_a_mask_over_the_same_tissue() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[16:48, 8:24] = True
    small = resize(mask, 32, 32, nearest=True)
    assert small.dtype == bool
    np.testing.assert_array_equal(small, mask[::2, ::2])
