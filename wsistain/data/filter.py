"""Patches worth learning from: chosen by what `wsistain pair` measured of each, in the patches.csv beside them."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from wsistain.config import PatchFilter
from wsistain.data.layouts import PatchRef
from wsistain.errors import DataError

LIST = "patches.csv"
_LEVELS_UP = 4
_LIMITS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("max_residual_um", ("residual_um",), False),
    ("min_agreement", ("agreement",), True),
    ("max_stretch", ("stretch",), False),
    ("min_tissue", ("tissue", "tissue_ihc"), True),
    ("max_fold", ("fold", "fold_ihc"), False),
    ("min_focus", ("focus", "focus_ihc"), True),
    ("min_dab", ("dab",), True),
)
"""Key of the configuration, the columns that it limits, and whether it is a least value."""


def filter_patches(refs: Sequence[PatchRef], limits: PatchFilter) -> tuple[list[PatchRef], dict[str, int]]:
    """The patches within the limits, and how many are left out by reason.

    A patch of which a limited value could not be measured is left out. One that fails in several ways counts for the
    first, in the order of the configuration's keys.

    Raises DataError where no patches.csv lies above the patches, where it lacks a patch or a column, and where none is
    left.
    """
    wanted = [(key, columns, least) for key, columns, least in _LIMITS if getattr(limits, key) is not None]
    if not wanted:
        return list(refs), {}
    kept, left_out = [], Counter[str]()
    for ref in refs:
        place = ref.he or ref.ihc
        row = None if place is None else _row(place, ref.name)
        reason = None if row is None else _fault(row, limits, wanted, ref.name)
        if reason is None:
            kept.append(ref)
        else:
            left_out[reason] += 1
    if not kept:
        told = ", ".join(f"{n} {reason}" for reason, n in left_out.most_common())
        raise DataError(f"data.filter leaves none of {len(refs)} patches: {told}; loosen its limits")
    return kept, dict(sorted(left_out.items()))


def _fault(
    row: dict[str, str], limits: PatchFilter, wanted: Sequence[tuple[str, tuple[str, ...], bool]], name: str
) -> str | None:
    """Why a patch is left out, None where it is not."""
    for key, columns, least in wanted:
        limit: float = getattr(limits, key)
        passes: Callable[[float], bool] = limit.__le__ if least else limit.__ge__
        for column in columns:
            text = row.get(column)
            if text is None:
                raise DataError(f"the {LIST} of {name} has no column {column}, which data.filter.{key} limits")
            if text == "":
                return f"{column} unknown"
            try:
                value = float(text)
            except ValueError:
                raise DataError(f"the {LIST} of {name} holds {text[:40]!r} as {column}; wanted a number") from None
            if not passes(value):
                return f"{column} {'below' if least else 'above'} {limit:g}"
    return None


def _row(place: Path, name: str) -> dict[str, str]:
    """What was measured of a patch; DataError where nothing was."""
    for folder in place.absolute().parents[:_LEVELS_UP]:
        if (folder / LIST).is_file():
            rows = _rows(folder / LIST)
            if name not in rows:
                raise DataError(
                    f"{folder / LIST} has no line for {name}; make the pair anew, or set data.filter to null"
                )
            return rows[name]
    raise DataError(
        f"data.filter needs the {LIST} that `wsistain pair` writes, and none lies above {place}; set data.filter to null"
    )


@lru_cache(maxsize=8)
def _rows(path: Path) -> dict[str, dict[str, str]]:
    """Lines of a list by patch. DataError where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["patch"]: row for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(f"{path} cannot be read as the list of `wsistain pair`: {error}") from None
