"""Pictures that another program made, as a row of the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.data.pictures import SUFFIXES, read_picture, resize
from wsistain.errors import DataError
from wsistain.evaluation.orientation import misplaced

RGB = NDArray[np.uint8]


LOOKED_AT = 24
"""Patches, evenly spaced, whose given pictures are held against the data set's own."""


class GivenPictures:
    """A folder with one picture a patch, of the patch's name (any suffix) and size.

    Raises DataError where patches have no picture, or two.
    """

    def __init__(self, name: str, folder: Path, refs: Sequence[PatchRef]) -> None:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder} of pictures")
        self.name, self._folder = name, folder
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
        lost = [ref.name for ref in refs if ref.name not in found]
        if lost:
            raise DataError(
                f"{folder} lacks the pictures of {len(lost)} of {len(refs)} patches ({', '.join(lost[:3])}); name each as its "
                "H&E patch"
            )
        twice = [ref.name for ref in refs if len(found[ref.name]) > 1]
        if twice:
            raise DataError(f"{folder} holds {len(found[twice[0]])} pictures of {twice[0]}; keep one of each")
        self._files = {ref.name: found[ref.name][0] for ref in refs}
        self._unused = sum(map(len, found.values())) - len(self._files)

    def facts(self) -> dict[str, Any]:
        """What the results say of it."""
        unused = f"; {self._unused} pictures of other names are not used" if self._unused else ""
        return {"kind": "pictures", "note": f"pictures that another program made{unused}", "folder": str(self._folder)}

    def picture(self, ref: PatchRef, height: int, width: int, size: int | None) -> RGB:
        """The picture of a patch of (height, width) px, uint8, resized to `size` x `size` where that is measured.

        Raises DataError for one of another size than its patch.
        """
        pixels = read_picture(self._files[ref.name])
        if pixels.shape[:2] not in ((height, width), (size, size)):
            h, w = pixels.shape[:2]
            raise DataError(f"{self._files[ref.name]} is {h} x {w} px, its patch {height} x {width}; give it that size")
        return pixels if size is None else resize(pixels, size, size)

    def doubts(self, refs: Sequence[PatchRef]) -> list[str]:
        """Sentences for what makes the row say something else than it seems to: copies of the data, pictures out of place.

        `LOOKED_AT` of the patches are looked at; those that cannot be read are told by the pass over all of them.
        """
        kinds, n, whole = dict.fromkeys(("H&E", "real IHC", "aligned truth"), 0), 0, []
        made: dict[str, RGB] = {}
        for ref in (refs[i] for i in np.unique(np.linspace(0, len(refs) - 1, min(LOOKED_AT, len(refs))).astype(int))):
            try:
                picture, (he, ihc) = read_picture(self._files[ref.name]), read_pair(ref)
                truth = None if ref.truth is None else read_picture(ref.truth)
            except DataError:
                continue
            n += 1
            for kind, own in zip(kinds, (he, ihc, truth), strict=True):
                kinds[kind] += own is not None and np.array_equal(picture, own)
            if he is not None and he.shape == picture.shape:
                whole.append(ref)
                made[ref.name] = picture
        told = [f"{same} of {n} pictures of {self.name} are the {kind} itself" for kind, same in kinds.items() if same]
        turned = misplaced(whole, lambda ref: made[ref.name])
        if turned:
            told.append(
                f"{len(turned)} of {len(whole)} pictures of {self.name} lie otherwise than their H&E: {turned[0]}"
            )
        return told

    def stain(self, he: RGB, size: int | None = None) -> RGB:
        """Not known from the H&E alone: a picture belongs to a patch by name."""
        raise TypeError("given pictures are asked for by name; call picture()")
