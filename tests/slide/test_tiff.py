import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slide.made import APERIO, patch_tile, picture, set_tag, through_openslide, whole, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError
from wsistain.slide.tiff import TiledTiff

READ_BY_BOTH = [
    "CMU-1-Small-Region.svs",
    "tiny_16px.svs",
    "boxes_pyramid.tiff",
    "wide_10000x5000_zstd.tiff",
]


@pytest.mark.parametrize("name", READ_BY_BOTH)
def test_every_pixel_of_a_real_slide_equals_openslides_at_every_level(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.reader == "tiff"
        for level, (height, width) in enumerate(slide.info.level_sizes):
            height, width = min(height, 3000), min(width, 2300)  # the synthetic one repeats itself over 10,000 px
            window = slide.read_level(level, 0, 0, height, width)
            assert np.array_equal(window, through_openslide(path, level, 0, 0, height, width))


@pytest.mark.parametrize("name", READ_BY_BOTH)
def test_windows_over_tile_borders_and_past_the_edges_equal_openslides(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    with open_slide(path, mpp=0.5) as slide:
        height, width = slide.info.size_l0
        tile_h, tile_w = slide.info.tile_px
        places = [
            (-5, -7),
            (tile_h - 3, tile_w - 2),
            (height - 20, width - 31),
            (height + 3, width + 3),
            (2 * tile_h, 0),
        ]
        for y, x in places:
            assert np.array_equal(slide.read_level(0, y, x, 70, 90), through_openslide(path, 0, y, x, 70, 90))


def test_damaged_tiles_of_a_real_slide_are_those_that_openslide_cannot_read(real_data: Path) -> None:
    path = real_data / "bad" / "zeroed_tile_data.svs"
    with open_slide(path) as ours, open_slide(path, reader="openslide") as reference:
        assert np.array_equal(whole(ours), whole(reference))
        assert ours.unreadable_tiles == reference.unreadable_tiles == 8


def test_the_tma_core_that_openslide_does_not_know_equals_tifffile(real_data: Path) -> None:
    path = real_data / "slides" / "tma_core_HE.tif"
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert slide.info.mpp == pytest.approx(0.5, rel=1e-3)
        assert np.array_equal(whole(slide), tifffile.imread(path))


@pytest.mark.parametrize(
    ("compression", "options"),
    [
        (None, {}),
        ("lzw", {}),
        ("lzw", {"predictor": True}),
        ("adobe_deflate", {"predictor": True}),
        ("zstd", {}),
        ("packbits", {}),
        ("jpeg", {"photometric": "ycbcr", "subsampling": (2, 2)}),
        ("jpeg", {"photometric": "ycbcr", "subsampling": (2, 1)}),
        ("jpeg", {"photometric": "ycbcr", "subsampling": (1, 1)}),
        ("jpeg", {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}),
    ],
)
def test_each_codec_gives_openslides_pixels(tmp_path: Path, compression: str | None, options: dict) -> None:
    pixels = picture(150, 203)
    path = write_tiff(tmp_path / "slide.tif", [pixels, pixels[::2, ::2]], compression=compression, **options)
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        for level in (0, 1):
            size = slide.info.level_sizes[level]
            assert np.array_equal(whole(slide, level), through_openslide(path, level, 0, 0, *size))
        if compression != "jpeg":
            assert np.array_equal(whole(slide), pixels)


@pytest.mark.parametrize("code", [33003, 33005])
def test_aperio_jpeg_2000_gives_openslides_pixels(tmp_path: Path, code: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3)).astype(np.uint8)
    path = write_tiff(
        tmp_path / "slide.svs",
        [pixels],
        compression=34712,
        description=APERIO,
        compressionargs={"level": 40, "mct": False},
    )
    set_tag(path, 0, "Compression", code)
    with open_slide(path) as slide:
        assert (slide.info.reader, slide.info.vendor, slide.info.mpp) == ("tiff", "aperio", 0.25)
        assert np.array_equal(whole(slide), through_openslide(path, 0, 0, 0, 128, 192))


def _share_jpeg_tables(path: Path) -> None:
    """Move the tables of the tiles of a JPEG TIFF into its JPEGTables tag, as SVS files have it."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        height, width = page.imagelength, page.imagewidth
        data = path.read_bytes()
    tiles, tables = [], b""
    for offset, count in zip(offsets, counts, strict=True):
        stream, short, kept = data[offset : offset + count], b"\xff\xd8", b""
        at = 2
        while stream[at + 1] != 0xDA:
            size = 2 + int.from_bytes(stream[at + 2 : at + 4])
            segment = stream[at : at + size]
            if stream[at + 1] in (0xDB, 0xC4):
                kept += segment
            else:
                short += segment
            at += size
        tiles.append(short + stream[at:])
        tables = b"\xff\xd8" + kept + b"\xff\xd9"
    tifffile.imwrite(
        path, iter(tiles), shape=(height, width, 3), dtype=np.uint8, tile=(64, 64), compression="jpeg", photometric="rgb",
        metadata=None, description=APERIO, extratags=[(347, 7, len(tables), tables, True)],
    )  # fmt: skip


def test_shared_tables_and_rgb_photometric_of_aperio_are_read_as_openslide_does(tmp_path: Path) -> None:
    path = write_tiff(
        tmp_path / "slide.svs", [picture(130, 190)], compression="jpeg", compressionargs={"outcolorspace": "rgb"}
    )
    _share_jpeg_tables(path)
    with tifffile.TiffFile(path) as tif:
        assert tif.pages.first.jpegtables is not None
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert np.array_equal(whole(slide), through_openslide(path, 0, 0, 0, 130, 190))


def test_tiles_that_were_never_written_are_glass_and_not_counted(tmp_path: Path) -> None:
    pixels = picture(128, 192)
    path = write_tiff(tmp_path / "slide.tif", [pixels])
    patch_tile(path, 0, 4, None)
    pixels[64:, 64:128] = 255
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert np.array_equal(whole(slide), pixels)
        assert slide.unreadable_tiles == 0


def test_an_svs_pyramid_with_missing_tiles_goes_to_openslide_which_mends_its_levels(tmp_path: Path) -> None:
    pixels = picture(256, 256)
    path = write_tiff(tmp_path / "slide.svs", [pixels, pixels[::4, ::4]], compression="jpeg", description=APERIO)
    patch_tile(path, 0, 5, None)
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert np.array_equal(whole(slide, 1), through_openslide(path, 1, 0, 0, 64, 64))
    with open_slide(path, reader="tiff") as slide:
        assert (slide.read_level(0, 64, 64, 64, 64) == 255).all()


@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw", "zstd", "jpeg"])
def test_undecodable_tiles_are_white_and_counted_once(tmp_path: Path, compression: str) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(128, 256)], compression=compression)
    with open_slide(path) as slide:
        expected = whole(slide)
    patch_tile(path, 0, 2, bytes(100_000))
    expected[:64, 128:192] = 255
    with open_slide(path) as slide:
        for _ in range(2):
            assert np.array_equal(whole(slide), expected)
        assert slide.unreadable_tiles == 1


def test_a_hole_of_zeros_in_a_jpeg_tile_is_found_though_libjpeg_only_warns(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(256, 512)], tile=(256, 256), compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages.first.dataoffsets[1], tif.pages.first.databytecounts[1]
    with path.open("r+b") as file:
        file.seek(offset + count // 2)
        file.write(bytes(512))
    with open_slide(path) as slide:
        assert (slide.read_level(0, 0, 256, 256, 256) == 255).all()
        assert slide.unreadable_tiles == 1


def test_flat_tiles_with_optimised_tables_are_not_taken_for_damaged(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    flat = np.full((512, 512, 3), 200, np.uint8)
    data = imagecodecs.jpeg8_encode(flat, level=80, optimize=True, subsampling="444")
    assert bytes(64) in data
    tifffile.imwrite(
        path, iter([data]), shape=flat.shape, dtype=np.uint8, tile=(512, 512), compression="jpeg", photometric="ycbcr",
        subsampling=(1, 1), metadata=None, resolution=(40000, 40000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_slide(path) as slide:
        assert np.array_equal(whole(slide), flat)
        assert slide.unreadable_tiles == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_of_rgb_files_are_honoured(tmp_path: Path, orientation: int) -> None:
    pixels = picture(100, 150)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    path = write_tiff(tmp_path / "slide.tif", [pixels, pixels[::2, ::2]], extratags=[(274, 3, 1, orientation, True)])
    with open_slide(path) as slide:
        assert slide.info.size_l0 == turned.shape[:2]
        assert np.array_equal(whole(slide), turned)
        assert np.array_equal(slide.read_level(0, 33, 21, 60, 70), turned[33:93, 21:91][:60, :70])
        assert slide.info.level_sizes[1] == (turned.shape[0] // 2, turned.shape[1] // 2)


@pytest.mark.parametrize("layout", ["interleaved", "separate", "planes"])
def test_ome_tiff_pyramids_in_sub_ifds_are_read_in_every_layout(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "slide.ome.tif"
    pixels = picture(200, 260)
    small = np.ascontiguousarray(pixels[::2, ::2])
    options: dict = {"photometric": "rgb", "tile": (64, 64), "compression": "adobe_deflate"}
    metadata: dict = {"axes": "YXS", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}
    if layout != "interleaved":
        pixels, small = (np.ascontiguousarray(p.transpose(2, 0, 1)) for p in (pixels, small))
        metadata["axes"] = "CYX"
        options |= {"planarconfig": "separate"} if layout == "separate" else {"photometric": "minisblack"}
        metadata["Channel"] = {"Name": ["Red", "Green", "Blue"]}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, subifds=1, metadata=metadata, **options)
        writer.write(small, subfiletype=1, **options)
    with open_slide(path) as slide:
        assert (slide.info.reader, slide.info.vendor, slide.info.mpp) == ("tiff", "ome-tiff", 0.3)
        assert slide.info.level_sizes == ((200, 260), (100, 130))
        expected = (pixels, small) if layout == "interleaved" else (p.transpose(1, 2, 0) for p in (pixels, small))
        for level, level_pixels in enumerate(expected):
            assert np.array_equal(whole(slide, level), level_pixels)


def test_three_channels_that_are_not_red_green_blue_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "fluorescence.ome.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC", "Cy5"]}, "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}
    tifffile.imwrite(
        path, picture(64, 64).transpose(2, 0, 1), photometric="minisblack", tile=(64, 64), metadata=metadata
    )
    with pytest.raises(SlideError, match=r"dapi, fitc, cy5, not red, green and blue"):
        open_slide(path)


@pytest.mark.parametrize(
    ("pixels", "options", "found"),
    [
        (np.zeros((64, 64), np.uint8), {"photometric": "minisblack"}, "1 channel"),
        (np.zeros((64, 64, 3), np.uint16), {}, "uint16"),
        (np.zeros((64, 64, 3), np.float32), {}, "float32"),
        (np.zeros((64, 64), np.int8), {"photometric": "minisblack"}, "int8"),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "tiff", "openslide", "tiffslide"])
def test_pixels_other_than_8_bit_rgb_are_refused(
    tmp_path: Path, pixels: np.ndarray, options: dict, found: str, reader: str
) -> None:
    path = write_tiff(tmp_path / "slide.tif", [pixels], **options)
    with pytest.raises(SlideError, match=found):
        open_slide(path, mpp=0.25, reader=reader)


def test_a_file_cut_before_its_last_tiles_is_refused_as_truncated(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(256, 256)], compression=None)
    data = path.read_bytes()
    path.write_bytes(data[:-5000])
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)


def test_a_file_in_which_no_tile_can_be_decoded_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(64, 128)])
    for index in (0, 1):
        patch_tile(path, 0, index, bytes(100_000))
    with pytest.raises(SlideError, match="every tile tried failed"):
        open_slide(path)


def test_levels_that_were_rounded_keep_whole_downsamples(tmp_path: Path) -> None:
    pixels = picture(250, 301)
    path = write_tiff(tmp_path / "slide.tif", [pixels, pixels[:248:4, :300:4], pixels[:248:8, :296:8]])
    with open_slide(path) as slide:
        assert slide.info.downsamples == (1.0, 4.0, 8.0)


def test_overlapping_windows_decode_each_tile_once(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(512, 640)])
    with TiledTiff(path) as slide:
        for y in range(0, 480, 48):
            for x in range(0, 600, 48):
                slide.read_level(0, y, x, 64, 64)
        assert slide.decoded_tiles == 8 * 10


def test_many_threads_decode_each_tile_once_and_see_the_same_pixels(tmp_path: Path) -> None:
    pixels = picture(512, 640)
    path = write_tiff(tmp_path / "slide.tif", [pixels], compression="adobe_deflate")
    with TiledTiff(path) as slide:
        start = threading.Barrier(8)

        def read(number: int) -> bool:
            start.wait()
            order = np.random.default_rng(number % 2).permutation(64)
            windows = [(int(i // 8) * 58, int(i % 8) * 77) for i in order]
            return all(
                np.array_equal(slide.read_level(0, y, x, 96, 96), pixels[y : y + 96, x : x + 96]) for y, x in windows
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))
        assert slide.decoded_tiles == 8 * 10


def test_the_cache_stays_within_its_bytes_and_still_gives_right_pixels(tmp_path: Path) -> None:
    pixels = picture(512, 512)
    path = write_tiff(tmp_path / "slide.tif", [pixels])
    budget = 5 * 64 * 64 * 3
    with TiledTiff(path, cache_bytes=budget) as slide:
        for y, x in [(0, 0), (100, 300), (448, 448), (0, 0), (77, 91)]:
            assert np.array_equal(slide.read_level(0, y, x, 64, 64), pixels[y : y + 64, x : x + 64])
            assert slide._cache.nbytes <= budget
        assert np.array_equal(whole(slide), pixels)
        assert slide._cache.nbytes <= budget


def test_memory_is_used_again_without_disturbing_readers(tmp_path: Path) -> None:
    pixels = picture(512, 640)
    path = write_tiff(tmp_path / "slide.tif", [pixels], compression="jpeg")
    with TiledTiff(path) as slide:
        expected = whole(slide)
    with TiledTiff(path, cache_bytes=6 * 64 * 64 * 3) as slide:  # fewer tiles than one window needs

        def read(number: int) -> bool:
            rng = np.random.default_rng(number)
            places = [(int(rng.integers(0, 400)), int(rng.integers(0, 500))) for _ in range(40)]
            return all(
                np.array_equal(slide.read_level(0, y, x, 112, 140), expected[y : y + 112, x : x + 140])
                for y, x in places
            )

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(read, range(6)))
        n_in_use = 6 * 12 + 6  # tiles of six windows, and what is kept
        assert len(slide._cache._free) <= n_in_use + 6
        assert slide._cache.nbytes <= 6 * 64 * 64 * 3


def test_windows_belong_to_the_caller(tmp_path: Path) -> None:
    pixels = picture(64, 64)
    with open_slide(write_tiff(tmp_path / "slide.tif", [pixels])) as slide:
        window = whole(slide)
        window[:] = 0
        assert np.array_equal(whole(slide), pixels)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[TiledTiff, np.ndarray]:
    pixels = picture(300, 410, seed=3)
    return TiledTiff(write_tiff(tmp_path_factory.mktemp("tiff") / "slide.tif", [pixels], tile=(64, 96))), pixels


@settings(deadline=None, max_examples=150)
@given(st.integers(-90, 350), st.integers(-90, 460), st.integers(0, 200), st.integers(0, 200))
def test_any_window_is_the_crop_of_the_white_padded_picture(cut, y: int, x: int, height: int, width: int) -> None:
    slide, pixels = cut
    padded = np.full((800, 900, 3), 255, np.uint8)
    padded[100:400, 100:510] = pixels
    window = slide.read_level(0, y, x, height, width)
    assert np.array_equal(window, padded[100 + y : 100 + y + height, 100 + x : 100 + x + width])


def test_levels_and_sizes_that_do_not_exist_are_wrong_arguments(cut) -> None:
    slide, _ = cut
    for level, height in ((1, 5), (-1, 5), (0, -5)):
        with pytest.raises(ValueError, match="no window"):
            slide.read_level(level, 0, 0, height, 5)


def test_a_failed_decode_does_not_leave_other_threads_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = TiledTiff(write_tiff(tmp_path / "slide.tif", [picture(64, 64)]))
    slide._cache.clear()
    good = slide._decode
    calls = []

    def once_broken(key: tuple[int, int, int], out: np.ndarray | None) -> np.ndarray | None:
        calls.append(key)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return good(key, out)

    monkeypatch.setattr(slide, "_decode", once_broken)
    with pytest.raises(KeyboardInterrupt):
        slide.read_level(0, 0, 0, 64, 64)
    assert slide.read_level(0, 0, 0, 64, 64).shape == (64, 64, 3)
    slide.close()
