"""What results are called: stems with dots, long names, and no URL taken for a folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsistain.errors import OutputError
from wsistain.output.names import output_name, slide_stem
from wsistain.runtime.files import local_path


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/scan.01.ome.zarr", "scan.01"),
        ("scan.02.ome.zarr/", "scan.02"),
        ("case.ER.ome.zarr", "case.ER"),
        ("slide.svs", "slide"),
        ("slide.v2.SVS", "slide.v2"),
        ("1.2.840.113.1", "1.2.840.113.1"),
        ("1.2.840.113.1.dcm", "1.2.840.113.1"),
        ("IM000001", "IM000001"),
        ("x.ome.tif", "x.ome"),
        (".svs", ".svs"),
        ("https://host/a/b.tiff", "b"),
        ("case.17", "case.17"),
    ],
)
def test_only_an_ending_is_taken_off(name, stem):
    assert slide_stem(name) == stem and output_name(name, "ER") == f"{stem}.ER"


@given(st.text(alphabet=st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=150, max_size=255))
def test_names_of_any_length_leave_room_for_the_results(name):
    stem = slide_stem(f"{name}.svs")
    assert len(f"{stem}.Ki67.ome.zarr".encode()) < 230
    assert stem == slide_stem(f"{name}.svs") != slide_stem(f"{name}x.svs")


@pytest.mark.parametrize(
    "url", ["s3://b/x", "s3:/b/x", "gs://b", "https://h/x", "file:///x", "simplecache::s3://b", "memory://x"]
)
def test_a_url_is_no_place_to_write(url):
    with pytest.raises(OutputError, match=r"is a URL.*local folders only"):
        local_path(url)


@pytest.mark.parametrize("path", ["out", "a:b/c", "./s3:/x", "/x/y", "C:/x", "out/2026-01-01T10:00/x"])
def test_a_folder_is_one(path):
    assert str(local_path(path)) == path.removeprefix("./")
