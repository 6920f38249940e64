import io
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.slide.made import patch_tile, picture, whole, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError
from wsistain.slide import tiffslide_reader


@pytest.fixture
def remote(tmp_path: Path):
    """A function that puts a file behind a memory:// URL."""
    filesystem = fsspec.filesystem("memory")

    def put(path: Path) -> str:
        filesystem.pipe_file(f"/{path.name}", path.read_bytes())
        return f"memory://{path.name}"

    yield put
    filesystem.store.clear()


def test_a_url_is_read_by_tiffslide_with_the_pixels_of_the_file(tmp_path: Path, remote) -> None:
    pixels = picture(300, 270)
    path = write_tiff(tmp_path / "slide.tif", [pixels, pixels[::2, ::2]], compression="jpeg")
    with open_slide(remote(path)) as slide, open_slide(path) as local:
        assert (slide.info.reader, slide.info.mpp_source) == ("tiffslide", "tiff tags")
        assert slide.info.mpp == pytest.approx(0.25)
        assert slide.info.level_sizes == local.info.level_sizes
        for level in (0, 1):
            assert np.array_equal(whole(slide, level), whole(local, level))
        assert np.array_equal(slide.read_level(0, -5, 250, 60, 60), local.read_level(0, -5, 250, 60, 60))


def test_the_fingerprint_of_a_url_follows_its_bytes(tmp_path: Path, remote) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(64, 64)])
    with open_slide(remote(path)) as slide:
        first = slide.info.fingerprint
    with open_slide(remote(path)) as slide:
        assert slide.info.fingerprint == first
    with open_slide(remote(write_tiff(path, [picture(64, 64, seed=1)]))) as slide:
        assert slide.info.fingerprint != first


def test_file_urls_have_the_fingerprint_of_the_file(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", [picture(64, 64)])
    with open_slide(f"file://{path}") as slide, open_slide(path) as local:
        assert slide.info.fingerprint == local.info.fingerprint


def test_tiles_that_were_never_written_are_white_not_black(tmp_path: Path) -> None:
    pixels = picture(128, 192)
    path = write_tiff(tmp_path / "slide.tif", [pixels])
    patch_tile(path, 0, 4, None)
    pixels[64:, 64:128] = 255
    with open_slide(path, reader="tiffslide") as slide:
        assert np.array_equal(whole(slide), pixels)


def test_damaged_native_tiles_are_white_and_counted(tmp_path: Path) -> None:
    pixels = picture(128, 192)
    path = write_tiff(tmp_path / "slide.tif", [pixels])
    patch_tile(path, 0, 0, bytes(100_000))
    pixels[:64, :64] = 255
    with open_slide(path, reader="tiffslide") as slide:
        assert np.array_equal(whole(slide), pixels)
        assert slide.unreadable_tiles == 1


@pytest.mark.parametrize("url", ["memory://nothing.svs", "nosuchprotocol://x/slide.svs", "file:///nothing/slide.svs"])
def test_urls_that_lead_nowhere_are_refused(url: str) -> None:
    with pytest.raises(SlideError, match=r"nothing|nosuchprotocol"):
        open_slide(url)


def test_what_a_stores_library_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        """Of no family that Python knows, as botocore's."""

    def refuse(*_: object, **__: object) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(tiffslide_reader.tiffslide, "TiffSlide", refuse)
    with pytest.raises(SlideError, match=r"s3://b/x\.svs cannot be opened .*Unable to locate credentials"):
        open_slide("s3://b/x.svs")


def test_a_url_of_text_is_refused(remote, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_text("no slide")
    with pytest.raises(SlideError, match="TiffSlide"):
        open_slide(remote(path))


def test_other_readers_refuse_urls(remote, tmp_path: Path) -> None:
    url = remote(write_tiff(tmp_path / "slide.tif", [picture(64, 64)]))
    for reader in ("tiff", "openslide", "zarr", "picture"):
        with pytest.raises(SlideError, match="URL"):
            open_slide(url, reader=reader)


def test_the_remote_file_object_is_what_fsspec_gives(remote, tmp_path: Path) -> None:
    url = remote(write_tiff(tmp_path / "slide.tif", [picture(64, 64)]))
    with fsspec.open(url) as file:
        assert isinstance(file, io.BytesIO)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(tiffslide_reader, "_SECONDS", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,  # takes the connection and says nothing
        pytest.raises(SlideError, match="does not answer"),
    ):
        open_slide(f"http://127.0.0.1:{server.getsockname()[1]}/slide.tif")


def test_google_storage_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    gcsfs = pytest.importorskip("gcsfs")
    options = tiffslide_reader.storage_options("gs://bucket/slide.tif")
    filesystem = gcsfs.GCSFileSystem(token="anon", skip_instance_cache=True, **options)
    assert filesystem.requests_timeout.sock_read == filesystem.requests_timeout.sock_connect == 30


def test_a_protocol_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(tiffslide_reader.tiffslide, "TiffSlide", missing)
    with pytest.raises(SlideError, match=r"wsistain\[remote\]"):
        open_slide("gs://bucket/slide.tif")


def test_a_slide_that_tiffslide_would_not_see_is_refused(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        for pixels, kind in ((picture(64, 80), 1), (picture(128, 160), 0)):
            writer.write(
                pixels, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=kind, resolution=(2e4, 2e4),
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    with pytest.raises(SlideError, match="does not see"):
        open_slide(path, reader="tiffslide")
