"""Micrometres in the units of length in which files state their scale, however they spell them."""

import re

_UM = {
    1e-6: ("pm", "picometer"),
    1e-4: ("å", "angstrom", "ångström"),
    1e-3: ("nm", "nanometer"),
    1.0: ("um", "micrometer", "micron"),
    1e3: ("mm", "millimeter"),
    1e4: ("cm", "centimeter"),
    1e5: ("dm", "decimeter"),
    1e6: ("m", "meter"),
    25.4: ("thou", "mil"),
    25400.0: ("in", "inch", "inche", '"'),
}
_UM_BY_NAME = {name: um for um, names in _UM.items() for name in names}


def um_per(unit: str) -> float | None:
    """Micrometres in one `unit` of length, as "µm", "um", "micrometre", "\\\\u00B5m" or "inches"; None where unknown.

    Symbols and names of OME, NGFF, ImageJ and TIFF; capitals, plurals, British spelling and both letters mu count alike.
    """
    text = re.sub(r"\\+u00b5|[µμ]", "u", unit.strip().lower())
    text = text.replace("metre", "meter")
    found = _UM_BY_NAME.get(text)
    return found if found is not None else _UM_BY_NAME.get(text.removesuffix("s"))
