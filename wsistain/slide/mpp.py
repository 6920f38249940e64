"""Which um per px a slide has: from its reader, else from its resolution tags, else as given; never a guess."""

from wsistain.errors import SlideError

MIN_MPP, MAX_MPP = 0.05, 20.0
"""Plausible um per px of a slide; 72-dpi tags (353 um) and other defaults of picture software fall outside."""

AGREE = 0.05
"""A given mpp this close to the slide's own is taken as a rounded form of it."""

_SQUARE = 0.02

Found = tuple[float, float]
"""(y, x) um per px as a file states it."""


def choose_mpp(name: str, given: float | None, reader: Found | None, tags: Found | None) -> tuple[float, str]:
    """(um per px at level 0, source), the source being "reader", "tiff tags" or "given".

    name   : how messages name the slide.
    given  : what the user states, or None. It wins when the slide has none or an implausible one, or a plausible one
             that differs by more than 5 %; within 5 % the slide's own number, with its more digits, is kept.
    reader : what the format's own metadata state; tags: what the resolution tags state, used when `reader` is None.

    SlideError when there is none, when it lies outside 0.05..20 um, or when pixels are not square.
    """
    if given is not None and not MIN_MPP <= given <= MAX_MPP:
        raise SlideError(
            f"--mpp {given:g} is outside {MIN_MPP:g} to {MAX_MPP:g} um per px; look on the scan report, "
            "0.25 is usual for 40x and 0.5 for 20x"
        )
    found, source = (reader, "reader") if reader is not None else (tags, "tiff tags")
    problem = _problem(found, source)
    if problem is None and found is not None:
        own = (found[0] + found[1]) / 2
        if given is None or abs(given - own) <= AGREE * own:
            return own, source
    if given is not None:
        return given, "given"
    raise SlideError(f"{name} {problem}; look on the scan report and pass --mpp, for example --mpp 0.25")


def _problem(found: Found | None, source: str) -> str | None:
    if found is None:
        return "has no mpp (um per px)"
    where = "its metadata" if source == "reader" else "its TIFF resolution tags"
    if not all(MIN_MPP <= v <= MAX_MPP for v in found):
        return f"has an mpp of {found[1]:g} um per px in {where}, outside {MIN_MPP:g} to {MAX_MPP:g}"
    if abs(found[0] - found[1]) > _SQUARE * max(found):
        return f"has pixels that are not square in {where} ({found[1]:g} x {found[0]:g} um)"
    return None
