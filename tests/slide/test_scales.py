"""Every place where a TIFF can state its um per px."""

from pathlib import Path
from typing import Any

import pytest
import tifffile

from tests.slide.made import picture, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError

VIPS = """<?xml version="1.0"?>
<image xmlns="http://www.vips.ecs.soton.ac.uk//dzsave" version="8.15">
  <properties>
    <property><name>width</name><value type="gint">80</value></property>
    <property><name>xres</name><value type="gdouble">2000</value></property>
    <property><name>yres</name><value type="gdouble">2000</value></property>
  </properties>
</image>"""
SCN = """<?xml version="1.0"?><scn xmlns="http://x"><collection><image><pixels sizeX="80" sizeY="64"/>
<view sizeX="40000" sizeY="32000" offsetX="0" offsetY="0"/></image></collection></scn>"""
PHILIPS = '<DataObject ObjectType="DPUfsImport"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028">"0.0005" "0.0005"</Attribute></DataObject>'

STATED = {
    "Aperio": "Aperio Image Library v12\r\n80x64|AppMag = 20|MPP = 0.5000|Left = 3",
    "Aperio with an exponent": "Aperio Image Library v12\r\n80x64|AppMag = 20|MPP = 5.0e-1",
    "Aperio with a comma and no blanks": "Aperio Image Library v12\r\n80x64|MPP=0,5|AppMag = 20",
    "libvips": VIPS,
    "Leica": SCN,
    "Philips": PHILIPS,
    "Ventana": '<EncodeInfo><SlideInfo><iScan ScanRes="0.5" Mode="x"/></SlideInfo></EncodeInfo>',
    "QPTIFF": "<PerkinElmer-QPI-ImageDescription><PixelSizeMicrons>0.5</PixelSizeMicrons></PerkinElmer-QPI-ImageDescription>",
}


def write(path: Path, description: str, tags: list[tuple[int, int, int, Any, bool]] | None = None) -> Path:
    """One tiled page with a description and no resolution beside what `tags` say."""
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
    tifffile.imwrite(path, picture(64, 80), description=description, extratags=tags or [], **options)
    return path


@pytest.mark.parametrize("who", sorted(STATED))
def test_the_scale_in_a_description_is_read(tmp_path: Path, who: str) -> None:
    with open_slide(write(tmp_path / "s.tif", STATED[who]), reader="tiff") as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (pytest.approx(0.5), "reader")


@pytest.mark.parametrize("unit", ["micron", "um", "µm", "\\u00B5m", "microns"])
@pytest.mark.parametrize("factor", [1.0])
def test_imagej_counts_px_per_its_own_unit(tmp_path: Path, unit: str, factor: float) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, picture(64, 80), tile=(64, 64), photometric="rgb", metadata=None, resolution=(2.0, 2.0),
        description=f"ImageJ=1.53t\nunit={unit}\n".encode(),
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("unit", "per_unit"), [("INCH", 50800.0), ("CENTIMETER", 2e4), ("MILLIMETER", 2e3), ("MICROMETER", 2.0)]
)
def test_resolution_tags_are_read_in_their_unit(tmp_path: Path, unit: str, per_unit: float) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, picture(64, 80), tile=(64, 64), photometric="rgb", metadata=None, resolution=(per_unit, per_unit),
        resolutionunit=unit,
    )  # fmt: skip
    with open_slide(path) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (pytest.approx(0.5), "tiff tags")


@pytest.mark.parametrize(
    ("unit", "size", "um"),
    [
        ("µm", 0.5, 0.5), ("nm", 500, 0.5), ("mm", 0.0005, 0.5), ("cm", 0.00005, 0.5), ("m", 5e-7, 0.5), ("in", 1e-5, 0.254),
        ("thou", 0.01, 0.254), ("Å", 5000, 0.5), ("pixel", 0.5, None), ("reference frame", 0.5, None),
    ],
)  # fmt: skip
def test_ome_sizes_are_read_in_their_unit(tmp_path: Path, unit: str, size: float, um: float | None) -> None:
    path = tmp_path / "s.ome.tif"
    metadata = {
        "axes": "YXS",
        **{f"PhysicalSize{a}": size for a in "XY"},
        **{f"PhysicalSize{a}Unit": unit for a in "XY"},
    }
    tifffile.imwrite(path, picture(64, 80), ome=True, tile=(64, 64), photometric="rgb", metadata=metadata)
    if um is None:
        with pytest.raises(SlideError, match="no mpp"):
            open_slide(path)
    else:
        with open_slide(path) as slide:
            assert slide.info.mpp == pytest.approx(um)


def test_sources_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "s.svs", [picture(64, 80)], um=0.25, compression="jpeg", description=STATED["Aperio"])
    for reader in ("tiff", "tiffslide"):
        with open_slide(path, reader=reader) as slide:
            assert slide.info.mpp == 0.5
            assert "0.5 um per px but its TIFF resolution tags 0.25" in slide.info.notes[0]
    with open_slide(path, mpp=0.25) as slide:
        assert "--mpp 0.25 is used" in slide.info.notes[0]


@pytest.mark.parametrize("unit", ["NONE", "CENTIMETER"])
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_pixels_that_are_not_square_are_refused_also_with_a_given_mpp(
    tmp_path: Path, unit: str, tile: tuple[int, int] | None
) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, picture(64, 80), tile=tile, photometric="rgb", metadata=None, resolution=(4e4, 2e4), resolutionunit=unit
    )
    for mpp in (None, 0.5):
        with pytest.raises(SlideError, match="not square"):
            open_slide(path, mpp=mpp)
