"""Whether the pictures called H&E are, and are not the IHC: folders and halves of pictures are easily taken the wrong way round."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.errors import DataError
from wsistain.markers import DAB, Marker
from wsistain.optics.pinkness import SWAPPED, Look, look_of, pinkness_of
from wsistain.slide.glass import glass_colour

SEEN = 8
"""So many pictures are looked at, evenly spaced."""

_PIXELS = 100_000
_GLASS = np.full(3, 243, np.float32)


def check_sides(refs: Sequence[PatchRef], marker: Marker, *, any_stain: str | None = None) -> str | None:
    """DataError where it is the IHC of `refs` that is pink with eosin, not their H&E, or the H&E is none, by some pictures of each.

    any_stain : how to go on with H&E that is none, as the message says it; None: the user said so already, and nothing
                is said of it.

    Returns what speaks against H&E without proving it, in words; None where nothing does.

    Nothing is said of sides of dyes other than DAB, nor where the pictures are too pale to tell.
    """
    sides = [_some_of([(ref.he, ref.ihc)[side] is not None for ref in refs], refs, side) for side in range(2)]
    if marker.chromogen == DAB:
        he, ihc = (pinkness_of(pixels, _GLASS) if len(pixels) else None for pixels in sides)
        if he is not None and ihc is not None and ihc - he > SWAPPED:
            a, b = (next(at for ref in refs if (at := (ref.he, ref.ihc)[side]) is not None).parent for side in range(2))
            where = f"{a} (left) and (right)" if a == b else f"{a} and {b}"
            raise DataError(
                f"{where} are taken for H&E and IHC, but it is the second that is pink with eosin ({ihc:.2f} against {he:.2f}): "
                "they are the wrong way round; exchange them"
            )
    look = look_of(sides[0], _GLASS) if len(sides[0]) else None
    why = None if look is None or any_stain is None else look.not_he()
    if why is not None:
        folder = next(ref.he for ref in refs if ref.he is not None).parent
        raise DataError(f"the pictures in {folder} are taken for H&E, but {why}; name the H&E, or {any_stain}")
    return None if look is None or any_stain is None else look.doubt()


def _some_of(has: Sequence[bool], refs: Sequence[PatchRef], side: int) -> NDArray[np.uint8]:
    """Pixels (n, 3) of some pictures of one side, on glass of one colour."""
    own = [ref for ref, one in zip(refs, has, strict=True) if one]
    pictures = []
    for k in evenly(len(own)):
        with suppress(DataError):  # told where the pictures are used
            pictures.append(read_pair(own[k])[side])
    return on_one_glass(p for p in pictures if p is not None)


def evenly(n: int) -> list[int]:
    """Evenly spaced indices of a list of `n`, `SEEN` at most."""
    return [int(k) for k in np.unique(np.linspace(0, n - 1, min(n, SEEN)).round())] if n else []


def on_one_glass(pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pixels (n, 3) of pictures uint8 (h, w, 3), some of each, as they were on glass of 243 in every channel."""
    found = [np.zeros((0, 3), np.uint8)]
    for picture in pictures:
        some = picture.reshape(-1, 3)[:: max(1, picture.size // 3 // _PIXELS)]
        found.append(np.clip(np.rint(some * (_GLASS / np.maximum(glass_colour(picture), 1))), 0, 255).astype(np.uint8))
    return np.concatenate(found)


def look_of_pictures(pictures: Iterable[NDArray[np.uint8]]) -> Look | None:
    """What pictures uint8 (h, w, 3) show together; None where they are too pale to tell."""
    return look_of(on_one_glass(pictures), _GLASS)
