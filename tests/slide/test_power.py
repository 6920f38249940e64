"""The objective's magnification is told as stated, and by nothing but a plain statement."""

from contextlib import closing

import pytest

from tests.slide.made import APERIO, picture, write_tiff
from wsistain import open_slide
from wsistain.slide.power import one_power, power_in


@pytest.mark.parametrize(
    ("text", "power"),
    [
        ("Aperio Image Library|AppMag = 20|MPP = 0.4990", 20.0),
        ("Aperio|AppMag = 40,0|", 40.0),
        ('<Objective ID="Objective:0" NominalMagnification="63.0"/>', 63.0),
        ('<Objective NominalMagnification="20"/><Objective NominalMagnification="40"/>', None),
        ("AppMag = twenty", None),
        ("AppMag = 0", None),
        ("AppMag = 99999999", None),
        ("", None),
    ],
)
def test_the_power_of_a_description(text, power):
    assert power_in(text) == power


@pytest.mark.parametrize(("value", "power"), [("20", 20.0), (None, None), ("40x", None), ("nan", None), ("inf", None)])
def test_the_power_of_a_property(value, power):
    assert one_power(value) == power


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_every_reader_tells_it_of_an_aperio_slide(tmp_path, reader):
    path = tmp_path / "a.svs"
    write_tiff(path, [picture(300, 300)], description=APERIO)
    with closing(open_slide(path, reader=reader)) as slide:
        assert slide.info.power == 40
