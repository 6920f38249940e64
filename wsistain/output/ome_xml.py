"""The OME-XML of a stain: what Bio-Formats, and with it QuPath, reads of scale, place, magnification and provenance.

One picture, written as interleaved RGB (a TIFF) or as three channels of one sample (beside a Zarr). The place of its first
pixel on the H&E stands twice: as the plane's position in um, and in px of the H&E's level 0 among the annotations, for
scripts that shift objects from one to the other.

Source: OME data model 2016-06 (Image, Pixels, Plane, Objective, MapAnnotation).
"""

import json
import uuid
from typing import Any
from xml.etree import ElementTree

from wsistain import __version__
from wsistain.errors import shown
from wsistain.output.reading import StoredStain

_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_CHANNELS = (("Red", "-16776961"), ("Green", "16711935"), ("Blue", "65535"))
"""Name and colour (signed RGBA) of the channels that QuPath takes for the colours of a brightfield picture."""

STATEMENT = "Virtual stain, computed from an H&E slide by wsistain. For research, not for diagnosis."


def ome_xml(stain: StoredStain, *, interleaved: bool) -> str:
    """The OME-XML of a stain, ASCII.

    interleaved : one channel of three samples, in the first directory of a TIFF; else three channels named as colours,
                  whose pixels lie elsewhere.
    """
    facts = _facts(stain)
    unique = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([stain.name, facts], sort_keys=True))
    root = ElementTree.Element("OME", xmlns=_SCHEMA, UUID=f"urn:uuid:{unique}", Creator=f"wsistain {__version__}")
    power = _power(stain)
    if power is not None:
        instrument = ElementTree.SubElement(root, "Instrument", ID="Instrument:0")
        ElementTree.SubElement(instrument, "Objective", ID="Objective:0", NominalMagnification=_number(power))

    image = ElementTree.SubElement(root, "Image", ID="Image:0", Name=shown(stain.name))
    ElementTree.SubElement(image, "Description").text = STATEMENT
    if power is not None:
        ElementTree.SubElement(image, "InstrumentRef", ID="Instrument:0")
        ElementTree.SubElement(image, "ObjectiveSettings", ID="Objective:0")
    _pixels(image, stain, interleaved)
    ElementTree.SubElement(image, "AnnotationRef", ID="Annotation:0")

    notes = ElementTree.SubElement(root, "StructuredAnnotations")
    held = ElementTree.SubElement(notes, "MapAnnotation", ID="Annotation:0", Namespace="wsistain")
    value = ElementTree.SubElement(held, "Value")
    for name, fact in facts.items():
        ElementTree.SubElement(value, "M", K=name).text = fact
    body = ElementTree.tostring(root, encoding="unicode").encode("ascii", "xmlcharrefreplace").decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>{body}'


def _pixels(image: ElementTree.Element, stain: StoredStain, interleaved: bool) -> None:
    height, width = stain.levels[0]
    pixels = ElementTree.SubElement(
        image,
        "Pixels",
        ID="Pixels:0",
        DimensionOrder="XYCZT",
        Type="uint8",
        Interleaved="true" if interleaved else "false",
        SizeX=str(width),
        SizeY=str(height),
        SizeC="3",
        SizeZ="1",
        SizeT="1",
        PhysicalSizeX=_number(stain.mpp),
        PhysicalSizeXUnit="µm",
        PhysicalSizeY=_number(stain.mpp),
        PhysicalSizeYUnit="µm",
    )
    if interleaved:
        ElementTree.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="3")
        ElementTree.SubElement(pixels, "TiffData", IFD="0", PlaneCount="1")
    else:
        for number, (name, colour) in enumerate(_CHANNELS):
            ElementTree.SubElement(
                pixels, "Channel", ID=f"Channel:0:{number}", Name=name, Color=colour, SamplesPerPixel="1"
            )
        ElementTree.SubElement(pixels, "MetadataOnly")
    y, x = stain.origin_um
    for number in range(1 if interleaved else 3):
        ElementTree.SubElement(
            pixels,
            "Plane",
            TheC=str(number),
            TheZ="0",
            TheT="0",
            PositionX=_number(x),
            PositionXUnit="µm",
            PositionY=_number(y),
            PositionYUnit="µm",
        )


def _facts(stain: StoredStain) -> dict[str, str]:
    """Provenance as names and texts; the place in px of the H&E's level 0, where its scale is known."""
    facts = {"virtual": "true", **{k: _text(v) for k, v in stain.provenance.items() if k != "virtual"}}
    mpp = _of_slide(stain, "mpp")
    if mpp:
        y, x = (um / mpp for um in stain.origin_um)
        facts |= {
            "source_x_px": _number(round(x, 6)),
            "source_y_px": _number(round(y, 6)),
            "source_px_per_px": _number(stain.mpp / mpp),
        }
    return facts


def _power(stain: StoredStain) -> float | None:
    """The magnification at which one would see pixels of this size: the H&E's, times its mpp over the stain's."""
    power, mpp = _of_slide(stain, "objective_power"), _of_slide(stain, "mpp")
    return round(power * mpp / stain.mpp, 4) if power and mpp else None


def _of_slide(stain: StoredStain, name: str) -> float | None:
    """A positive number that the provenance states of the H&E; None where it does not."""
    slide = stain.provenance.get("slide")
    value = slide.get(name) if isinstance(slide, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6 else None


def _text(value: Any) -> str:
    return shown(value) if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _number(value: float) -> str:
    """Shortest decimal that reads back to the same float, without a trailing ".0"."""
    return repr(float(value)).removesuffix(".0")
