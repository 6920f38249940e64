"""Whether pictures lie as their H&E does: one that is mirrored, turned, or named as another patch would be scored as a bad stain."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.errors import DataError
from wsistain.evaluation.fidelity import gray601

Values = NDArray[np.float64]

SQUARE_PX = 4
PLAIN, MORE = 0.4, 0.25
"""Correlation from which a picture fits a wrong place, and by how much it must fit better there than at its own.

On mist-c3-ER the stains of trained systems, good and bad, and the other section correlate with wrong places by 0.28 at most, the
aligned truth with its own by 0.39 or more, 0.70 in the median.
"""

TURNS = (
    "as it is", "mirrored along its diagonal", "turned by 90 degrees", "mirrored left to right", "turned by 180 degrees",
    "mirrored along its other diagonal", "turned by 270 degrees", "mirrored top to bottom",
)  # fmt: skip


def turns(values: Values) -> list[Values]:
    """The eight ways in which a square can lie, in the order of `TURNS`."""
    return [way for k in range(4) for way in (np.rot90(values, k), np.rot90(values, k).T)]


def squares(picture: NDArray[np.uint8]) -> Values:
    """Mean gray of squares of `SQUARE_PX`, float (h // 4, w // 4); a rest at the edges is left out."""
    gray = gray601(picture).astype(np.float64)
    h, w = (n // SQUARE_PX for n in gray.shape)
    parts = gray[: h * SQUARE_PX, : w * SQUARE_PX].reshape(h, SQUARE_PX, w, SQUARE_PX)
    return np.asarray(parts.mean(axis=(1, 3)))


def _unit(values: Values) -> Values:
    """Flat, of mean 0 and length 1; of one tone throughout: zeros, which correlate with nothing."""
    flat = (values - values.mean()).ravel()
    length = float(np.linalg.norm(flat))
    return flat / length if length > 1e-9 else np.zeros_like(flat)


def check_places(refs: Sequence[PatchRef], stained: Callable[[PatchRef], NDArray[np.uint8]]) -> None:
    """DataError where a picture plainly fits another H&E than its own, or its own turned or mirrored; as `misplaced`."""
    faults = misplaced(refs, stained)
    if faults:
        raise DataError(
            f"{len(faults)} of {len(refs)} pictures do not lie as their H&E does: {'; '.join(faults[:2])}; give each picture "
            "the name of its H&E and leave it neither turned nor mirrored"
        )


def misplaced(refs: Sequence[PatchRef], stained: Callable[[PatchRef], NDArray[np.uint8]]) -> list[str]:
    """A few words for each picture that plainly fits another H&E of `refs` than its own, or its own turned or mirrored.

    stained : patch to its picture, uint8 (h, w, 3), of the size of its H&E. Pictures that fit nothing pass: stains may be bad.
    """
    known = [(ref, he) for ref in refs if (he := read_pair(ref)[0]) is not None]
    ways = [
        (ref, way, _unit(turned)) for ref, he in known for way, turned in zip(TURNS, turns(squares(he)), strict=True)
    ]
    faults = []
    for ref, _ in known:
        made = squares(stained(ref))
        fitting = [(other, way, v) for other, way, v in ways if len(v) == made.size]
        fits = np.array([v for _, _, v in fitting]) @ _unit(made)
        own = next(k for k, (other, way, _) in enumerate(fitting) if other is ref and way == TURNS[0])
        best = int(fits.argmax())
        if best != own and fits[best] >= max(PLAIN, fits[own] + MORE):
            other, way, _ = fitting[best]
            where = "its H&E" if other is ref else f"the H&E of {other.name}"
            faults.append(f"{ref.name} fits {where} {way} ({fits[best]:.2f}, and its own as it is {fits[own]:.2f})")
    return faults
