"""Which um per px a slide has: from its reader, else from its resolution tags, else as given; never a guess."""

import math
from dataclasses import dataclass

from wsistain.errors import SlideError

MIN_MPP, MAX_MPP = 0.05, 20.0
"""Plausible um per px of a slide; 72-dpi tags (353 um) and other defaults of picture software fall outside."""

AGREE = 0.05
"""A given mpp this close to the slide's own is taken as a rounded form of it; so are two statements of one file."""

_SQUARE = 0.02

Found = tuple[float, float]
"""(y, x) um per px as a file states it."""


class MppError(SlideError):
    """A slide that can be read but whose um per px is missing, implausible or not the same in both directions."""


@dataclass(frozen=True)
class Scale:
    """The um per px of level 0.

    mpp     : NaN where none is known and none was needed; `problem` then says why.
    source  : "reader", "tiff tags", "given" or "none".
    notes   : contradictions between what the file and the user state, and what was chosen.
    """

    mpp: float
    source: str
    notes: tuple[str, ...] = ()
    problem: str = ""


def choose_mpp(
    name: str,
    given: float | None,
    reader: Found | None,
    tags: Found | None,
    *,
    others: tuple[tuple[str, Found], ...] = (),
    needed: bool = True,
) -> Scale:
    """The um per px at level 0 and its source.

    name   : how messages name the slide.
    given  : what the user states, or None. It wins when the slide has none or an implausible one, or a plausible one
             that differs by more than 5 % (which is noted); within 5 % the slide's own number, with its more digits,
             is kept.
    reader : what the format's own metadata state; tags: what the resolution tags state, used when `reader` is None.
    others : further statements, (where, (y, x)); those that contradict the chosen one are noted.
    needed : raise where there is none; else the result is NaN.

    MppError when there is none, when it lies outside 0.05..20 um, or when pixels are not square, which a given number
    cannot mend: the picture has to be resampled.
    """
    if given is not None and not MIN_MPP <= given <= MAX_MPP:
        raise MppError(
            f"--mpp {given:g} is outside {MIN_MPP:g} to {MAX_MPP:g} um per px; look on the scan report, "
            "0.25 is usual for 40x and 0.5 for 20x"
        )
    try:
        return _choose(name, given, reader, tags, others)
    except MppError as error:
        if needed:
            raise
        return Scale(math.nan, "none", (), str(error))


def stated(y: float, x: float) -> Found | None:
    """(y, x) um per px from two numbers of a file; None where they are no lengths (zero, negative, not finite)."""
    return (y, x) if all(math.isfinite(v) and v > 0 for v in (y, x)) else None


def _choose(
    name: str, given: float | None, reader: Found | None, tags: Found | None, others: tuple[tuple[str, Found], ...]
) -> Scale:
    # What the file states, the most trusted first.
    statements = [
        *([("reader", "its metadata", reader)] if reader is not None else []),
        *([("tiff tags", "its TIFF resolution tags", tags)] if tags is not None else []),
        *(("reader", where, found) for where, found in others),
    ]
    for rank, (source, where, found) in enumerate(statements):
        if not _is_square(found) and (rank == 0 or (source == "tiff tags" and _is_plausible(found))):
            sizes = f"{found[1]:g} x {found[0]:g} um" if _is_plausible(found) else f"{found[1] / found[0]:.3g} : 1"
            raise MppError(
                f"{name} has pixels that are not square in {where} ({sizes}); --mpp cannot mend that, "
                "resample it to square pixels first, for example with: vips resize IN OUT.tif SCALE --vscale SCALE"
            )
    # The most trusted statement, where it can be true, is compared with what the user gave.
    if statements and _is_plausible(statements[0][2]):
        return _agreed(given, statements)
    if given is not None:
        return Scale(given, "given")
    problem = "has no mpp (um per px)"
    if statements:
        _, where, found = statements[0]
        problem = f"has an mpp of {found[1]:g} um per px in {where}, outside {MIN_MPP:g} to {MAX_MPP:g}"
    raise MppError(f"{name} {problem}; look on the scan report and pass --mpp, for example --mpp 0.25")


def _agreed(given: float | None, statements: list[tuple[str, str, Found]]) -> Scale:
    """The first statement, or the user's where it differs, with a note on every one that says otherwise."""
    source, where, found = statements[0]
    own = (found[0] + found[1]) / 2
    if given is not None and not _is_near(given, own):
        return Scale(given, "given", (f"--mpp {given:g} is used, though {where} say {own:.4g} um per px",))
    notes = tuple(
        f"{where} say {own:.4g} um per px but {elsewhere} {sum(other) / 2:.4g}; the former are believed, "
        "pass --mpp if they are wrong"
        for _, elsewhere, other in statements[1:]
        if given is None and _is_plausible(other) and not _is_near(sum(other) / 2, own)
    )
    return Scale(own, source, notes)


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= AGREE * b


def _is_plausible(found: Found) -> bool:
    return all(MIN_MPP <= v <= MAX_MPP for v in found)


def _is_square(found: Found) -> bool:
    return abs(found[0] - found[1]) <= _SQUARE * max(found)
