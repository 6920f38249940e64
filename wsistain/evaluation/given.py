"""Pictures that another program made, as a row of the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.pictures import SUFFIXES, read_picture, resize
from wsistain.errors import DataError

RGB = NDArray[np.uint8]


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

    def stain(self, he: RGB, size: int | None = None) -> RGB:
        """Not known from the H&E alone: a picture belongs to a patch by name."""
        raise TypeError("given pictures are asked for by name; call picture()")
