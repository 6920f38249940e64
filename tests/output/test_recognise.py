"""Every form of a stain is known again, whatever it is called; everything else is none."""

import json
import shutil
import socket

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.pipeline.slides import small_config, tissue_picture, write_slide
from wsistain.errors import SlideError
from wsistain.output.export import export_ome_tiff
from wsistain.output.recognise import comment_of, virtual_png, virtual_stain
from wsistain.pipeline.run import run
from wsistain.slide import tiffslide_reader


@pytest.fixture(scope="module")
def stains(tmp_path_factory):
    """A slide, and its stain in every form under names that say nothing."""
    folder = tmp_path_factory.mktemp("stains")
    slide = write_slide(folder / "a.tiff", tissue_picture(128, 128))
    run(slide, "ER", folder, config=small_config())
    run(slide, "PR", folder, config=small_config(output={"ngff": "0.4"}))
    for name, options in {"jpeg.tif": {}, "deflate.tiff": {"lossless": True}}.items():
        export_ome_tiff(folder / "a.ER.ome.zarr", folder / name, tile=64, **options)
    (folder / "a.ER.preview.jpg").rename(folder / "photo.jpg")
    with Image.open(folder / "photo.jpg") as picture:
        picture.save(folder / "again.jpg", quality=50, exif=picture.getexif())
    (folder / "a.ER.ome.zarr").rename(folder / "new.zarr")
    (folder / "a.PR.ome.zarr").rename(folder / "old.zarr")
    return folder


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        *(("new.zarr", "ER"), ("old.zarr", "PR"), ("jpeg.tif", "ER"), ("deflate.tiff", "ER")),
        *(("photo.jpg", "ER"), ("again.jpg", "ER"), ("a.PR.preview.jpg", "PR")),
    ],
)
def test_every_form_is_known_again_and_refused_by_run(stains, tmp_path, name, marker):
    assert virtual_stain(stains / name) == f"a virtual {marker} stain"
    with pytest.raises(SlideError, match=f"a virtual {marker} stain.*--direction ihc-to-he"):
        run(stains / name, "ER", tmp_path / "out", config=small_config(mpp=0.5))
    assert not (tmp_path / "out").exists()


def test_maps_of_a_stain_are_no_slides_either(stains, tmp_path):
    from wsistain.output.recognise import png_of

    (tmp_path / "map.png").write_bytes(png_of(tissue_picture(16, 16), "positive map"))
    assert virtual_stain(tmp_path / "map.png") == "a virtual stain"
    shutil.copytree(stains / "new.zarr", tmp_path / "b2r.zarr" / "0")
    (tmp_path / "b2r.zarr" / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    assert virtual_stain(tmp_path / "b2r.zarr") == "a virtual ER stain"


def test_the_way_back_takes_a_stain(stains, tmp_path):
    (report,) = run(stains / "new.zarr", "ER", tmp_path, config=small_config(direction="ihc-to-he"))
    assert report.output.endswith("new.ER.ome.zarr")


def test_what_is_no_stain_is_none(stains, tmp_path):
    assert virtual_stain(stains / "a.tiff") is None
    Image.fromarray(tissue_picture(32, 32)).save(tmp_path / "p.jpg", comment=b"made by wsistain? no")
    Image.fromarray(tissue_picture(32, 32)).save(tmp_path / "p.png")
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((8, 8), np.uint8), description="wsistain <OME")
    (tmp_path / "cut.tif").write_bytes((stains / "jpeg.tif").read_bytes()[:20])
    (tmp_path / "z.zarr").mkdir()
    (tmp_path / "z.zarr" / "zarr.json").write_text("[1]")
    for path in tmp_path.iterdir():
        assert virtual_stain(path) is None, path
    assert virtual_stain(tmp_path / "none") is None


def test_a_stain_behind_a_url_is_known_too(stains, tmp_path):
    filesystem = fsspec.filesystem("memory")
    try:
        for name in ("jpeg.tif", "deflate.tiff", "a.tiff", "photo.jpg"):
            filesystem.pipe_file(f"/{name}", (stains / name).read_bytes())
        for name in ("jpeg.tif", "deflate.tiff"):
            assert virtual_stain(f"memory://{name}") == "a virtual ER stain"
            with pytest.raises(SlideError, match="a virtual ER stain"):
                run(f"memory://{name}", "ER", tmp_path / "out", config=small_config(mpp=0.5))
        for name in ("a.tiff", "photo.jpg", "none.tif"):
            assert virtual_stain(f"memory://{name}") is None
    finally:
        filesystem.store.clear()


def test_a_silent_server_is_given_up_at_once(monkeypatch):
    monkeypatch.setattr(tiffslide_reader, "_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(SlideError, match="does not answer"):
        virtual_stain(f"http://127.0.0.1:{server.getsockname()[1]}/slide.tif")


def test_an_old_preview_is_known_by_its_name_alone(tmp_path):
    Image.fromarray(tissue_picture(32, 32)).save(tmp_path / "case.ER.preview.jpg")
    assert virtual_stain(tmp_path / "case.ER.preview.jpg") == "a virtual stain"
    shutil.copy(tmp_path / "case.ER.preview.jpg", tmp_path / "case.jpg")
    assert virtual_stain(tmp_path / "case.jpg") is None


def test_the_comment_is_small_and_plain():
    facts = json.loads(comment_of({"marker": "ER", "slide": {"name": "Pr\udce4parat\x1b"}, "config": {"big": 1}}))
    assert facts["wsistain"]["virtual"] is True and "config" not in facts["wsistain"]


def test_a_picture_above_pillows_bound_is_looked_at_too(stains, monkeypatch):
    """Ours is higher (`slide.picture`); pictures of 200 MP are slides like others."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert virtual_stain(stains / "photo.jpg") == "a virtual ER stain"


def test_a_stained_patch_is_known_again_and_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (33, 20, 3), dtype=np.uint8)
    path = tmp_path / "patch.png"
    path.write_bytes(virtual_png(pixels, {"marker": "ER", "system": "x"}))
    assert virtual_stain(path) == "a virtual ER stain"
    with Image.open(path) as picture:
        picture.load()
        np.testing.assert_array_equal(np.asarray(picture), pixels)
