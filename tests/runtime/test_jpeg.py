"""Every JPEG of ours: where it is made, how much of colour it keeps, and what it carries."""

import ast
import inspect
import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

import wsistain
from wsistain.cli.export import export
from wsistain.errors import OutputError
from wsistain.runtime.jpeg import SHARED, VIEWED, check_quality, encode_jpeg

PACKAGE = Path(wsistain.__file__).parent


def dabbed() -> np.ndarray:
    """Brown dots of one pixel on pale blue, uint8 (48, 40, 3): what shared colours smear."""
    pixels = np.full((48, 40, 3), (200, 210, 235), np.uint8)
    pixels[::4, ::4] = (110, 70, 40)
    return pixels


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def encodes_jpeg(call: ast.Call) -> bool:
    """Whether a call makes a JPEG: an encoder by its name, or a picture saved as one."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    saved = any(k.arg == "format" and ast.unparse(k.value).strip("'\"").upper() == "JPEG" for k in call.keywords)
    return name in {"jpeg8_encode", "jpeg_encode", "mozjpeg_encode"} or (name == "save" and saved)


def test_no_other_module_encodes_jpeg() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and encodes_jpeg(node)
    }
    assert found == {"runtime/jpeg.py"}


def test_the_colour_of_every_pixel_is_kept_unless_somebody_asks_for_less() -> None:
    pixels = dabbed()

    def off(subsampling: str) -> float:
        back = imagecodecs.jpeg8_decode(encode_jpeg(pixels, subsampling=subsampling))
        return float(np.abs(back.astype(int) - pixels)[::4, ::4].mean())

    assert 2 * off("4:4:4") < off("4:2:0")
    assert encode_jpeg(pixels) == encode_jpeg(pixels, subsampling="4:4:4")


@pytest.mark.parametrize("subsampling", SHARED)
def test_what_shares_its_colour_is_what_the_file_says(subsampling: str) -> None:
    layers = opened(encode_jpeg(dabbed(), subsampling=subsampling)).layer  # type: ignore[attr-defined]
    assert layers[0][1:3] == SHARED[subsampling] and [layer[1:3] for layer in layers[1:]] == [(1, 1), (1, 1)]


def test_red_green_and_blue_stay_the_components_where_asked() -> None:
    data = encode_jpeg(dabbed(), as_rgb=True)
    back = imagecodecs.jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB")
    assert np.abs(back.astype(int) - dabbed()).mean() < 3
    assert np.array_equal(np.asarray(opened(data)), back)


def test_tables_of_its_own_make_it_smaller_and_change_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(90, 200, (64, 64, 3), np.uint8)
    plain, small = encode_jpeg(pixels), encode_jpeg(pixels, small=True)
    assert len(small) < len(plain)
    assert np.array_equal(imagecodecs.jpeg8_decode(small), imagecodecs.jpeg8_decode(plain))


def test_grey_and_windows_of_larger_arrays_are_taken() -> None:
    pixels = dabbed()
    assert imagecodecs.jpeg8_decode(encode_jpeg(pixels[..., 0])).shape == (48, 40)
    assert encode_jpeg(pixels[8:24, 8:24]) == encode_jpeg(pixels[8:24, 8:24].copy())


@pytest.mark.parametrize("as_rgb", [False, True])
def test_comment_and_exif_are_read_by_pillow_and_change_no_pixel(as_rgb: bool) -> None:
    exif = Image.Exif()
    exif[270] = "virtual"
    picture = opened(encode_jpeg(dabbed(), as_rgb=as_rgb, comment=b'{"a": 1}', exif=exif.tobytes()))
    assert picture.info["comment"] == b'{"a": 1}'
    assert picture.getexif()[270] == "virtual"
    assert np.array_equal(np.asarray(picture), np.asarray(opened(encode_jpeg(dabbed(), as_rgb=as_rgb))))


def test_a_comment_that_does_not_fit_is_refused_and_the_longest_is_kept() -> None:
    assert opened(encode_jpeg(dabbed(), comment=b"x" * 65533)).info["comment"] == b"x" * 65533
    with pytest.raises(ValueError, match="65534 bytes do not fit"):
        encode_jpeg(dabbed(), comment=b"x" * 65534)


def test_a_quality_out_of_range_is_refused() -> None:
    check_quality(1), check_quality(100)
    for quality in (0, 101):
        with pytest.raises(OutputError, match=f"quality {quality} is not in 1 to 100"):
            check_quality(quality)


def test_the_command_line_shows_the_quality_that_is_meant() -> None:
    assert inspect.signature(export).parameters["quality"].default.default == VIEWED
