"""Every place in a TIFF where its um per px can stand: resolution tags, OME-XML and the descriptions of scanners."""

import math
import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import tifffile

from wsistain.slide.mpp import Found, stated
from wsistain.slide.tiff_codes import NO_UNIT, UM_PER_RESOLUTION_UNIT
from wsistain.slide.units import um_per

_NUMBER = r"((?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][-+]?[0-9]+)?)"
_MPP = re.compile(rf"(?:^|[|;])\s*MPP\s*=\s*{_NUMBER}\s*(?:[uµμ]m)?\s*(?:[|;]|$)", re.MULTILINE)
_IMAGEJ_UNIT = re.compile(r"^unit=(.+?)\s*$", re.MULTILINE)
_PHILIPS_SPACING = re.compile(
    rf'DICOM_PIXEL_SPACING"[^>]*>\s*(?:&quot;|")?{_NUMBER}(?:&quot;|")?\s+(?:&quot;|")?{_NUMBER}'
)
_VENTANA_RES = re.compile(rf'<iScan\b[^>]*\bScanRes\s*=\s*"{_NUMBER}"')
_QPTIFF_UM = re.compile(rf"<PixelSizeMicrons>\s*{_NUMBER}\s*<")


def resolution_tags(page: tifffile.TiffPage) -> Found | None:
    """(y, x) um per px from XResolution, YResolution and ResolutionUnit; None where not stated.

    Without a unit only the shape of a pixel is stated: where it is no square, numbers of that shape come back that are
    no um of any slide.
    """
    try:
        x, y = (_ratio(page.tags[name].value) for name in ("XResolution", "YResolution"))
        unit = int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 2
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    if x <= 0 or y <= 0:
        return None
    um = UM_PER_RESOLUTION_UNIT.get(unit)
    if um is not None:
        return stated(um / y, um / x)
    return stated(1e6 * x / y, 1e6) if unit == NO_UNIT and not math.isclose(x, y, rel_tol=0.02) else None


def _ratio(value: tuple[int, int]) -> float:
    return value[0] / value[1] if value[1] else 0.0


def described_mpp(page: tifffile.TiffPage) -> list[tuple[str, Found]]:
    """(where, (y, x) um per px) of every statement in the description of a page, best first."""
    text = str(page.description)
    found = []
    for where, read in _DESCRIPTIONS:
        value = read(text, page)
        if value is not None:
            found.append((where, value))
    return found


def _same(um: float) -> Found | None:
    return stated(um, um)


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _aperio(text: str, page: tifffile.TiffPage) -> Found | None:
    match = _MPP.search(text)
    return _same(_number(match.group(1))) if match else None


def _philips(text: str, page: tifffile.TiffPage) -> Found | None:
    """The first pixel spacing (mm, row then column) of the XML of Philips scanners."""
    match = _PHILIPS_SPACING.search(text)
    return stated(_number(match.group(1)) * 1e3, _number(match.group(2)) * 1e3) if match else None


def _ventana(text: str, page: tifffile.TiffPage) -> Found | None:
    match = _VENTANA_RES.search(text)
    return _same(_number(match.group(1))) if match else None


def _qptiff(text: str, page: tifffile.TiffPage) -> Found | None:
    match = _QPTIFF_UM.search(text) if "PerkinElmer-QPI" in text else None
    return _same(_number(match.group(1))) if match else None


def _imagej(text: str, page: tifffile.TiffPage) -> Found | None:
    """ImageJ counts px per its own unit in the resolution tags."""
    match = _IMAGEJ_UNIT.search(text) if text.startswith("ImageJ=") else None
    um = um_per(match.group(1)) if match else None
    try:
        x, y = (_ratio(page.tags[name].value) for name in ("XResolution", "YResolution"))
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return None if um is None or min(x, y) <= 0 else stated(um / y, um / x)


def _xml(text: str, root: str) -> ElementTree.Element | None:
    """The root of an XML description with that name, or None."""
    start = text.find("<")
    if start < 0 or f"<{root}" not in text:
        return None
    try:
        element = ElementTree.fromstring(text[start:].strip().strip("\0"))
    except (ElementTree.ParseError, ValueError):
        return None
    return element if element.tag.rpartition("}")[2] == root else None


def _local(element: ElementTree.Element | None, name: str) -> Iterator[ElementTree.Element]:
    return iter(()) if element is None else (e for e in element.iter() if e.tag.rpartition("}")[2] == name)


def _vips_properties(text: str) -> dict[str, str]:
    """Names and values of the properties that libvips writes as XML."""
    properties = {}
    for item in _local(_xml(text, "image"), "property"):
        cells = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in item}
        if "name" in cells and "value" in cells:
            properties[cells["name"]] = cells["value"]
    return properties


def _vips(text: str, page: tifffile.TiffPage) -> Found | None:
    """libvips states px per mm; 1 stands for "unknown"."""
    properties = _vips_properties(text)
    try:
        x, y = float(properties["xres"]), float(properties["yres"])
    except (KeyError, ValueError):
        return None
    return None if min(x, y) <= 0 or (x, y) == (1.0, 1.0) else stated(1e3 / y, 1e3 / x)


def _vips_openslide(text: str, page: tifffile.TiffPage) -> Found | None:
    """What OpenSlide said of the slide that libvips has converted; a picture of another size has another scale."""
    properties = _vips_properties(text)
    try:
        y, x = float(properties["openslide.mpp-y"]), float(properties["openslide.mpp-x"])
        height, width = (int(properties[f"openslide.level[0].{side}"]) for side in ("height", "width"))
    except (KeyError, ValueError):
        return None
    return stated(y, x) if (height, width) == (page.imagelength, page.imagewidth) else None


def _leica(text: str, page: tifffile.TiffPage) -> Found | None:
    """Leica states the size of each picture in nm, and its px."""
    for image in _local(_xml(text, "scn"), "image"):
        for pixels in _local(image, "pixels"):
            view = next(_local(image, "view"), None)
            try:
                width, height = int(pixels.attrib["sizeX"]), int(pixels.attrib["sizeY"])
                if view is not None and (height, width) == (page.imagelength, page.imagewidth):
                    return stated(float(view.attrib["sizeY"]) / height / 1e3, float(view.attrib["sizeX"]) / width / 1e3)
            except (KeyError, ValueError, ZeroDivisionError):
                continue
    return None


_DESCRIPTIONS: tuple[tuple[str, Callable[[str, tifffile.TiffPage], Found | None]], ...] = (
    ("its Aperio description", _aperio),
    ("its ImageJ description", _imagej),
    ("its Philips description", _philips),
    ("its Ventana description", _ventana),
    ("its Leica description", _leica),
    ("its QPTIFF description", _qptiff),
    ("the XML of libvips", _vips),
    ("the XML of libvips (of OpenSlide)", _vips_openslide),
)


def ome_mpp(image: ElementTree.Element | None) -> Found | None:
    """(y, x) um per px of an Image of OME-XML; None where it states none, or in a unit that is no length."""
    for pixels in _local(image, "Pixels"):
        try:
            x, y = float(pixels.attrib["PhysicalSizeX"]), float(pixels.attrib["PhysicalSizeY"])
        except (KeyError, ValueError):
            return None
        um_x, um_y = (um_per(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY")
        return None if um_x is None or um_y is None else stated(y * um_y, x * um_x)
    return None
