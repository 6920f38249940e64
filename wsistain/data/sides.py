"""Whether the pictures called H&E are, and are not the IHC: folders and halves of pictures are easily taken the wrong way round."""

from collections.abc import Sequence

import numpy as np

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.errors import DataError
from wsistain.markers import DAB, Marker
from wsistain.optics.pinkness import SWAPPED, pinkness_of

_PICTURES = 8
_GLASS = np.full(3, 243, np.float32)


def check_sides(refs: Sequence[PatchRef], marker: Marker) -> None:
    """DataError where it is the IHC of `refs` that is pink with eosin, not their H&E, by some pictures of each.

    Nothing is said of dyes other than DAB, nor where the pictures are too pale to tell.
    """
    if marker.chromogen != DAB:
        return
    pinkness = []
    for side in range(2):
        own = [ref for ref in refs if (ref.he, ref.ihc)[side] is not None]
        picked = np.unique(np.linspace(0, len(own) - 1, min(len(own), _PICTURES)).round().astype(int))
        pictures = [read_pair(own[k])[side] for k in picked]
        pixels = [p.reshape(-1, 3)[:: max(1, p.size // 300_000)] for p in pictures if p is not None]
        pinkness.append(pinkness_of(np.concatenate(pixels), _GLASS) if pixels else None)
    he, ihc = pinkness
    if he is not None and ihc is not None and ihc - he > SWAPPED:
        a, b = (next(at for ref in refs if (at := (ref.he, ref.ihc)[side]) is not None).parent for side in range(2))
        where = f"{a} (left) and (right)" if a == b else f"{a} and {b}"
        raise DataError(
            f"{where} are taken for H&E and IHC, but it is the second that is pink with eosin ({ihc:.2f} against {he:.2f}): "
            "they are the wrong way round; exchange them"
        )
