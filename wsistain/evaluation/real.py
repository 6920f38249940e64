"""Whether pictures that are to be stained are what the weights stain: real, and H&E (or IHC, for the way back)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsistain.data.pictures import read_picture
from wsistain.data.sides import evenly, look_of_pictures
from wsistain.errors import DataError
from wsistain.markers import DAB, Marker
from wsistain.optics.pinkness import Look
from wsistain.output.recognise import virtual_stain

_NAMED = 3


def refuse_virtual(paths: Sequence[Path | None]) -> None:
    """DataError where a picture is a stain of ours."""
    for path in paths:
        what = None if path is None else virtual_stain(path)
        if what is not None:
            raise DataError(
                f"{path} is {what} that wsistain made; name pictures of real sections, or pass --any-stain to take it all the same"
            )


@dataclass(frozen=True)
class Wanted:
    """What pictures have to show: H&E, or for the way back the IHC of `marker`."""

    direction: str
    marker: Marker

    @property
    def name(self) -> str:
        """In words."""
        return "H&E" if self.direction == "he-to-ihc" else "IHC"

    def why_not(self, look: Look | None) -> str | None:
        """Why pictures of this look are plainly something else, in words; None where they may be right."""
        if look is None:
            return None
        if self.direction == "he-to-ihc":
            return look.not_he()
        return look.not_dab() if self.marker.chromogen == DAB else None

    def refuse_other(self, folder: Path, paths: Sequence[Path]) -> str | None:
        """DataError where some of the pictures, evenly spaced, are together plainly something else; what speaks against
        them without proving it, in words, None where nothing does."""
        pictures = []
        for k in evenly(len(paths)):
            with suppress(DataError):  # told when it is stained
                pictures.append(read_picture(paths[k]))
        look = look_of_pictures(pictures)
        why = self.why_not(look)
        if why is not None:
            raise DataError(
                f"the pictures in {folder} are to be stained from {self.name}, but {why}; name the {self.name}, or pass "
                "--any-stain to stain them all the same"
            )
        return look.doubt() if look is not None and self.direction == "he-to-ihc" else None

    def warnings(self, doubt: str | None, unlike: Sequence[str], n: int) -> list[str]:
        """What is said of the pictures: a doubt about all of them, and which are plainly something else than the others."""
        doubts = [] if doubt is None else [doubt]
        if not unlike:
            return doubts
        named = ", ".join(unlike[:_NAMED]) + (" ..." if len(unlike) > _NAMED else "")
        return [
            *doubts,
            f"{len(unlike)} of {n} pictures do not look like {self.name}: {named}; read nothing from their stains",
        ]
