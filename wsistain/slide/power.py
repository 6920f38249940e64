"""The objective's magnification as a slide states it. A fact to pass on: nothing here is measured by it."""

import re

_POWER = re.compile(r"\bAppMag\s*=\s*([0-9]+(?:[.,][0-9]+)?)|\bNominalMagnification=[\"']([0-9]+(?:\.[0-9]+)?)[\"']")
_MOST = 200.0


def power_in(text: str) -> float | None:
    """Of an Aperio description ("AppMag = 20") or OME-XML (`NominalMagnification`, all objectives alike); else None."""
    return one_power(*(a or b for a, b in _POWER.findall(text)))


def one_power(*stated: object) -> float | None:
    """The magnification that all of `stated` say; None where they say none, differ, or it is none of an objective."""
    found = set()
    for value in stated:
        try:
            found.add(float(str(value).replace(",", ".")))
        except ValueError:
            return None
    power = found.pop() if len(found) == 1 else 0.0
    return power if 0 < power <= _MOST else None
