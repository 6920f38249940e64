import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsistain
from tests.slide.made import APERIO, picture, set_tag, whole, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError, WsistainError

OPENS = {"zeroed_tile_data.svs"}

SAYS = {
    "broken.svs": "not a slide",
    "ct_not_a_slide.dcm": "DICOM, but no whole-slide volume image",
    "empty.svs": "empty",
    "fluorescence_int8.ome.tif": "int8",
    "label_only.dcm": "DICOM",
    "png_named.svs": "PNG picture",
    "segmentation.dcm": "DICOM, but no whole-slide volume image",
    "text_named.tif": "text",
    "truncated_100kB.svs": "truncated",
    "truncated_tile.jpg": "truncated",
    "truncated_tile.png": "truncated",
    "unknown_compression.tiff": "52479",
    "unreadable_tile.svs": "every tile tried failed",
}


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_every_bad_file_is_refused_in_one_sentence_that_names_it(real_data: Path, mpp: float | None) -> None:
    found = {path.name for path in (real_data / "bad").iterdir()}
    assert found == OPENS | set(SAYS)
    for name, words in SAYS.items():
        with pytest.raises(SlideError) as error:
            open_slide(real_data / "bad" / name, mpp=mpp)
        message = str(error.value)
        assert name in message and words in message and "\n" not in message, message
        assert len(message) < 400 and "Traceback" not in message and "object at" not in message


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide", "zarr", "picture"])
def test_every_reader_refuses_the_bad_files_with_its_own_sentence(real_data: Path, reader: str) -> None:
    for name in SAYS:
        if reader == "picture" and name == "png_named.svs":
            continue  # a sound PNG, asked for by name
        with pytest.raises(SlideError) as error:
            open_slide(real_data / "bad" / name, mpp=0.5, reader=reader)
        assert "\n" not in str(error.value)


def test_a_slide_with_some_damage_opens_and_counts(real_data: Path) -> None:
    with open_slide(real_data / "bad" / "zeroed_tile_data.svs") as slide:
        assert slide.unreadable_tiles == 0
        assert (whole(slide) == 255).all(axis=2).mean() > 0.06  # 8 of 130 tiles
        assert slide.unreadable_tiles == 8


REAL = {
    "CMU-1-Small-Region.svs": ("tiff", "aperio", (2967, 2220)),
    "bone_jpeg.dcm": ("openslide", "dicom", (715, 957)),
    "camelyon_lymph_node.dcm": ("openslide", "dicom", (700, 1152)),
    "dicom_50px.dcm": ("openslide", "dicom", (50, 50)),
    "tma_core_HE.tif": ("tiff", "ome-tiff", (1484, 1380)),
    "tiny_16px.svs": ("tiff", "aperio", (16, 16)),
    "boxes_pyramid.tiff": ("tiff", "generic-tiff", (250, 300)),
    "wide_10000x5000_zstd.tiff": ("tiff", "generic-tiff", (5000, 10000)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides_go_to_the_reader_that_the_rule_says(real_data: Path, name: str) -> None:
    with open_slide(real_data / "slides" / name, mpp=0.5) as slide:
        assert (slide.info.reader, slide.info.vendor, slide.info.size_l0) == REAL[name]
        assert slide.info.path == str(real_data / "slides" / name)


@pytest.mark.parametrize("name", ["orientation_3.tif", "orientation_6.tif"])
@pytest.mark.parametrize("reader", ["auto", "tiff", "openslide", "tiffslide"])
def test_one_channel_slides_are_refused_as_not_rgb(real_data: Path, name: str, reader: str) -> None:
    with pytest.raises(SlideError, match="1 channel"):
        open_slide(real_data / "slides" / name, mpp=0.5, reader=reader)


def test_a_dicom_slide_coarser_than_20_um_names_mpp(real_data: Path) -> None:
    with pytest.raises(SlideError, match=r"28\.96\d um per px in its metadata.*--mpp"):
        open_slide(real_data / "slides" / "camelyon_lymph_node.dcm")


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide", "picture"])
def test_an_explicit_reader_is_used_and_recorded_and_all_agree(tmp_path: Path, reader: str) -> None:
    pixels = picture(100, 130)
    path = write_tiff(tmp_path / "slide.tif", [pixels])
    with open_slide(path, reader=reader) as slide:
        assert slide.info.reader == reader
        assert np.array_equal(whole(slide), pixels)


def test_readers_that_do_not_fit_are_refused_and_not_exchanged(tmp_path: Path, real_data: Path) -> None:
    tiff = write_tiff(tmp_path / "slide.tif", [picture(64, 64)])
    png = tmp_path / "tile.png"
    Image.fromarray(picture(64, 64)).save(png)
    dicom = real_data / "slides" / "bone_jpeg.dcm"
    for path, reader in [
        (tiff, "zarr"), (png, "tiff"), (png, "openslide"), (png, "tiffslide"), (png, "zarr"),
        (dicom, "tiff"), (dicom, "tiffslide"), (dicom, "picture"), (tmp_path, "tiff"), (tmp_path, "openslide"),
    ]:  # fmt: skip
        with pytest.raises(SlideError):
            open_slide(path, mpp=0.5, reader=reader)
    with pytest.raises(SlideError, match="no reader 'vips'; wanted one of auto, tiff"):
        open_slide(tiff, reader="vips")


def test_paths_that_are_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="does not exist"):
        open_slide(tmp_path / "nothing.svs")
    with pytest.raises(SlideError, match="no OME-Zarr"):
        open_slide(tmp_path)


def test_a_tiff_in_strips_is_read_as_a_picture(tmp_path: Path) -> None:
    pixels = picture(90, 70)
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=16, compression="lzw")
    with pytest.raises(SlideError, match="--mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.info.reader, slide.info.mpp_source) == ("picture", "given")
        assert np.array_equal(whole(slide), pixels)
    with pytest.raises(SlideError, match="strips"):
        open_slide(path, mpp=0.5, reader="tiff")


def test_rgba_tiles_are_laid_on_white(tmp_path: Path) -> None:
    pixels = np.dstack([picture(64, 64), np.full((64, 64), 255, np.uint8)])
    pixels[:20, :, 3] = 0
    path = write_tiff(tmp_path / "slide.tif", [pixels], extrasamples=["unassalpha"])
    with open_slide(path) as slide:
        assert slide.info.reader != "tiff"
        assert (slide.read_level(0, 0, 0, 20, 64) == 255).all()
        assert np.array_equal(slide.read_level(0, 20, 0, 44, 64), pixels[20:, :, :3])


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(64, 64)])

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("wsistain.slide.reader.is_tiff", denied)
    with pytest.raises(SlideError, match="may not be read"):
        open_slide(path)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_ends_in_a_sentence_or_an_open_slide(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = write_tiff(
        tmp_path / "slide.svs",
        [picture(128, 128)],
        compression=["jpeg", "lzw", None, "zstd"][seed % 4],
        description=APERIO,
    )
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        tags = [tag.offset for tag in tif.pages.first.tags]
    for _ in range(3):  # in the page directory, where it hurts most
        at = int(rng.choice(tags)) + int(rng.integers(0, 12))
        data[at] = int(rng.integers(0, 256))
    path.write_bytes(data)
    try:
        with open_slide(path, mpp=0.25) as slide:
            height, width = (min(n, 300) for n in slide.info.size_l0)
            assert slide.read_level(0, 0, 0, height, width).shape == (height, width, 3)
    except WsistainError as error:
        assert "\n" not in str(error)


def test_the_public_name_is_this_function() -> None:
    assert wsistain.open_slide is open_slide


def test_other_dicom_files_in_the_folder_do_not_matter(real_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    shutil.copyfile(real_data / "slides" / "bone_jpeg.dcm", path)
    with open_slide(path) as slide:
        assert whole(slide).shape == (715, 957, 3)


def test_unknown_codecs_are_named(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(64, 64)])
    set_tag(path, 0, "Compression", 52479)
    with pytest.raises(SlideError, match="52479"):
        open_slide(path)
