from pathlib import Path

import pytest

from tests.slide.made import APERIO, picture, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError
from wsistain.slide.mpp import choose_mpp


@pytest.mark.parametrize(
    ("given", "reader", "tags", "chosen"),
    [
        (None, (0.25, 0.25), (0.5, 0.5), (0.25, "reader")),
        (None, None, (0.5, 0.5), (0.5, "tiff tags")),
        (0.4, None, None, (0.4, "given")),
        (0.4, None, (352.8, 352.8), (0.4, "given")),
        (0.4, (0.25, 0.25), None, (0.4, "given")),
        (0.26, (0.2527, 0.2525), None, (0.2526, "reader")),
    ],
)
def test_the_first_plausible_source_is_taken_and_a_differing_given_one_wins(given, reader, tags, chosen) -> None:
    scale = choose_mpp("s.svs", given, reader, tags)
    assert (pytest.approx(scale.mpp), scale.source) == chosen


@pytest.mark.parametrize(
    ("reader", "tags", "message"),
    [
        (None, None, r"s\.svs has no mpp .*--mpp"),
        (None, (352.8, 352.8), r"352\.8 um per px in its TIFF resolution tags.*--mpp"),
        ((25.0, 25.0), (0.5, 0.5), r"25 um per px in its metadata.*--mpp"),
        ((0.01, 0.01), None, r"0\.01 um per px.*--mpp"),
        ((0.5, 0.25), None, r"not square.*--mpp"),
    ],
)
def test_nothing_is_guessed(reader, tags, message) -> None:
    with pytest.raises(SlideError, match=message):
        choose_mpp("s.svs", None, reader, tags)


@pytest.mark.parametrize("given", [0.049, 20.1, 0.0, -0.5, float("nan"), float("inf")])
def test_an_implausible_given_mpp_is_refused_even_where_the_slide_has_one(given: float) -> None:
    with pytest.raises(SlideError, match="--mpp"):
        choose_mpp("s.svs", given, (0.25, 0.25), None)


def test_false_mpp_of_72_dpi_tags_is_refused_by_both_readers(real_data: Path) -> None:
    for name in ("boxes_pyramid.tiff", "wide_10000x5000_zstd.tiff"):
        for reader in ("auto", "tiff", "openslide", "tiffslide"):
            with pytest.raises(SlideError, match=r"352\.8.*--mpp"):
                open_slide(real_data / "slides" / name, reader=reader)


def test_aperio_descriptions_come_before_resolution_tags(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "s.svs", [picture(64, 64)], um=0.7, compression="jpeg", description=APERIO)
    with open_slide(path) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.25, "reader")


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_plain_tiff_tags_are_used(tmp_path: Path, reader: str) -> None:
    path = write_tiff(tmp_path / "s.tif", [picture(64, 64)], um=0.43)
    with open_slide(path, reader=reader) as slide:
        assert slide.info.mpp == pytest.approx(0.43, rel=1e-5)
