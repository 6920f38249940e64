"""The same places of the test in every row: small pictures that go with a row, so that a page shows all systems side by side."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.pictures import read_picture
from wsistain.evaluation.truth import PhantomTruth
from wsistain.runtime.jpeg import ON_PAGES, encode_jpeg

RGB = NDArray[np.uint8]

EDGE_PX = 160
STEP_PX = 32
PLACES = 2
KINDS = {"he": "H&E", "truth": "Aligned truth", "other": "Other section", "stain": "Stain"}
"""What a row keeps of a place; all but the stain only the row of the baseline "identity", as it is the same for all."""

_MOST = 60_000
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Place:
    """A square of `EDGE_PX` of a test patch, px."""

    name: str
    y: int
    x: int


def places_of(truth: PhantomTruth, refs: Sequence[PatchRef]) -> list[Place]:
    """The places that tell most, of `PLACES` patches: where positive and negative tumour cells lie side by side, as many as can be.

    They follow from the cell tables alone, so that all rows of a condition have the same.
    """
    best = []
    for ref in refs:
        at, tumour, yes = truth.places[ref.name], truth.tumour[ref.name], truth.positive[ref.name]
        top = max(int(np.max(at.y, initial=0)), int(np.max(at.x, initial=0)), EDGE_PX) // STEP_PX + 1
        near = EDGE_PX // STEP_PX
        counts = []
        for chosen in (tumour & yes, tumour & ~yes):
            grid = np.histogram2d(at.y[chosen], at.x[chosen], bins=top, range=[[0, top * STEP_PX]] * 2)[0]
            windows = np.lib.stride_tricks.sliding_window_view(grid, (min(near, top),) * 2)
            counts.append(windows.sum(axis=(2, 3)))
        least = np.minimum(*counts)
        row, col = np.unravel_index(int(least.argmax()), least.shape)
        best.append((-float(least.max()), ref.name, int(row) * STEP_PX, int(col) * STEP_PX))
    return [Place(name, y, x) for _, name, y, x in sorted(best)[:PLACES]]


def sights(
    places: Sequence[Place], refs: Sequence[PatchRef], stained: Callable[[PatchRef], RGB], *, whole: bool
) -> list[dict[str, Any]]:
    """A row's `sights`: of each place its patch, corner and JPEGs as base64.

    stained : patch to what the entry made of it, uint8 (h, w, 3). whole: H&E, truth and the other section too.
    """
    by_name = {ref.name: ref for ref in refs}
    found = []
    for place in places:
        ref = by_name[place.name]
        made = {"stain": _cut(stained(ref), place)}
        if whole:
            for kind, path in (("he", ref.he), ("truth", ref.truth), ("other", ref.ihc)):
                if path is not None:
                    made[kind] = _cut(read_picture(path), place)
        found.append({"name": place.name, "y": place.y, "x": place.x, **made})
    return found


def _cut(picture: RGB, place: Place) -> str:
    part = np.ascontiguousarray(picture[place.y : place.y + EDGE_PX, place.x : place.x + EDGE_PX])
    return base64.b64encode(encode_jpeg(part, ON_PAGES, small=True)).decode("ascii")


def check_sights(value: Any) -> None:
    """ValueError where a row's `sights` are not what `sights` makes: somebody else wrote the file."""
    if not isinstance(value, list) or len(value) > 2 * PLACES:
        raise ValueError("sights is no short list")
    for one in value:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not {"y", "x", "stain"} <= one.keys():
            raise ValueError("a sight has no name, place or stain")
        for kind in KINDS.keys() & one.keys():
            text = one[kind]
            if not isinstance(text, str) or len(text) > _MOST:
                raise ValueError(f"{kind} of a sight is no small picture")
            try:
                is_jpeg = base64.b64decode(text, validate=True).startswith(_JPEG)
            except binascii.Error as error:
                raise ValueError(f"{kind} of a sight: {error}") from None
            if not is_jpeg:
                raise ValueError(f"{kind} of a sight is no JPEG")


def shown_places(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Of each place in any row the pictures to show, H&E, truth and other section first: [{name, figures: [(caption, data)]}].

    rows : (caption, row) of each system, in the order of the page.
    """
    found: dict[tuple[str, int, int], dict[str, list[tuple[str, str]]]] = {}
    for caption, row in rows:
        for one in row.get("sights", ()):
            place = found.setdefault((one["name"], one["y"], one["x"]), {"shared": [], "made": []})
            for kind in ("he", "truth", "other"):
                if kind in one and KINDS[kind] not in dict(place["shared"]):
                    place["shared"].append((KINDS[kind], _data(one[kind])))
            place["made"].append((caption, _data(one["stain"])))
    return [
        {"name": f"{name}, {EDGE_PX} px at {x}, {y}", "figures": [*place["shared"], *place["made"]]}
        for (name, y, x), place in sorted(found.items())
    ]


def _data(text: str) -> str:
    return f"data:image/jpeg;base64,{text}"
