"""Colours of stored TIFF samples against OpenSlide (libtiff), over codecs, subsampling and planar layouts."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.slide.made import picture, through_openslide, whole, write_tiff
from tests.slide.raw_tiff import packed, units, write_raw_tiff
from wsistain import open_slide
from wsistain.errors import SlideError

SIZE, TILE = (100, 150), (32, 64)


def tiles_of(pixels: np.ndarray) -> list[np.ndarray]:
    rows, cols = -(-pixels.shape[0] // TILE[0]), -(-pixels.shape[1] // TILE[1])
    padded = np.zeros((rows * TILE[0], cols * TILE[1], 3), np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return [padded[r * 32 : r * 32 + 32, c * 64 : c * 64 + 64] for r in range(rows) for c in range(cols)]


def rationals(*values: float) -> list[int]:
    return [n for value in values for n in (round(value * 1000), 1000)]


SHARED = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (1, 2), None]


@pytest.mark.parametrize(
    ("compression", "subsampling"),
    # libtiff itself stumbles over uncompressed tiles of the units 4 x 2 and 4 x 4
    [(c, s) for c in (1, 5, 8, 32773, 50000) for s in SHARED if c != 1 or s not in ((4, 2), (4, 4))],
)
def test_stored_ycbcr_gives_openslides_colours(
    tmp_path: Path, compression: int, subsampling: tuple[int, int] | None
) -> None:
    across, down = subsampling or (2, 2)  # what a missing tag means
    size = (96, 128) if 4 in (across, down) else SIZE  # libtiff stumbles over cut tiles of such units
    samples = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    tiles = [packed(units(tile, across, down), compression) for tile in tiles_of(samples)]
    extra = [] if subsampling is None else [(530, 3, subsampling)]
    path = write_raw_tiff(tmp_path / "s.tif", size, TILE, tiles, compression=compression, extra=extra)
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert np.array_equal(whole(slide), through_openslide(path, 0, 0, 0, *size))


@pytest.mark.parametrize(
    "extra",
    [
        [(532, 5, rationals(16, 235, 128, 240, 128, 240))],
        [(532, 5, rationals(0, 255, 128, 255, 128, 255))],
        [(532, 5, rationals(15, 200, 120, 230, 131, 251))],
        [(529, 5, rationals(0.2126, 0.7152, 0.0722))],
        [(529, 5, rationals(0.2126, 0.7152, 0.0722)), (532, 5, rationals(16, 235, 128, 240, 128, 240))],
    ],
)
@pytest.mark.parametrize("planar", [1, 2])
def test_black_white_and_coefficients_of_ycbcr_are_read_as_openslide_does(
    tmp_path: Path, extra: list, planar: int
) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    pieces = [tile.tobytes() for tile in tiles_of(samples)]
    if planar == 2:
        pieces = [np.ascontiguousarray(tile[..., k]).tobytes() for k in range(3) for tile in tiles_of(samples)]
    path = write_raw_tiff(tmp_path / "s.tif", SIZE, TILE, pieces, planar=planar, extra=[(530, 3, (1, 1)), *extra])
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert np.array_equal(whole(slide), through_openslide(path, 0, 0, 0, *SIZE))


def test_subsampled_ycbcr_in_separate_planes_is_refused_with_a_way_out(tmp_path: Path) -> None:
    pieces = [bytes(32 * 64)] * 36
    path = write_raw_tiff(tmp_path / "s.tif", SIZE, TILE, pieces, planar=2, extra=[(530, 3, (2, 2))])
    with pytest.raises(SlideError, match="convert it with: vips"):
        open_slide(path)


@pytest.mark.parametrize("photometric", [0, 1, 3, 5, 8, 9, 10])
@pytest.mark.parametrize("reader", ["auto", "tiff", "openslide", "picture"])
def test_photometric_interpretations_that_are_no_rgb_are_refused(tmp_path: Path, photometric: int, reader: str) -> None:
    tiles = [tile.tobytes() for tile in tiles_of(picture(*SIZE))]
    path = write_raw_tiff(tmp_path / "s.tif", SIZE, TILE, tiles, photometric=photometric)
    with pytest.raises(SlideError):
        open_slide(path, reader=reader)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", ["webp", "jpegxl", "lerc", "lzma"])
def test_lossless_pictures_of_newer_codecs_are_read(tmp_path: Path, compression: str, planar: str) -> None:
    pixels = picture(150, 203)
    planar = "contig" if compression == "webp" else planar  # WebP holds colours only
    stored = pixels if planar == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    lossless = {"webp": {"lossless": True}, "jpegxl": {"lossless": True}, "lerc": {}, "lzma": {}}[compression]
    path = write_tiff(
        tmp_path / "s.tif", [stored], compression=compression, planarconfig=planar, compressionargs=lossless
    )
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert np.array_equal(whole(slide), pixels)


@pytest.mark.parametrize("mct", [True, False])
def test_jpeg_2000_called_ycbcr_is_turned_only_where_the_codestream_is_not(tmp_path: Path, mct: bool) -> None:
    rgb = picture(64, 64)
    stream = imagecodecs.jpeg2k_encode(rgb, codecformat="J2K", mct=mct, reversible=True)
    path = write_raw_tiff(tmp_path / "s.tif", (64, 64), (64, 64), [bytes(stream)], compression=34712)
    with open_slide(path) as slide:
        seen = whole(slide)
    if mct:
        assert np.array_equal(seen, rgb)
    else:
        raw = write_raw_tiff(tmp_path / "r.tif", (64, 64), (64, 64), [rgb.tobytes()], extra=[(530, 3, (1, 1))])
        assert np.array_equal(seen, through_openslide(raw, 0, 0, 0, 64, 64))


@pytest.mark.parametrize("compression", [6, 9, 33007, 34661, 52479])
def test_codecs_that_are_not_known_name_a_way_out(tmp_path: Path, compression: int) -> None:
    tiles = [tile.tobytes() for tile in tiles_of(picture(*SIZE))]
    path = write_raw_tiff(tmp_path / "s.tif", SIZE, TILE, tiles, compression=compression, photometric=2)
    with pytest.raises(SlideError, match=rf"compression {compression}\b.*convert it with: vips"):
        open_slide(path)
