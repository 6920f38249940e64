"""What a phantom slide is made from: one frozen configuration; the same one always gives the same pixels."""

from typing import Any

from pydantic import Field, field_validator

from wsistain.config import Pairing, PhantomVersion, Strict
from wsistain.markers import MARKERS, find_marker


class SectionPairing(Strict):
    """How section B lies to section A.

    Lengths in um. `deform_um` is the root mean square of the smooth displacement, `shift_um` and
    `rotation_deg` the largest rigid misfit; which way they go is drawn from the seed.
    """

    distance_um: float = Field(12.0, ge=0, le=200, description="depth of B below A, centre to centre")
    shift_um: float = Field(0.0, ge=0, le=2000)
    rotation_deg: float = Field(0.0, ge=0, le=20)
    deform_um: float = Field(0.0, ge=0, le=60)
    tears: float = Field(0.0, ge=0, le=4, description="expected number of tears on 10 mm2")
    folds: float = Field(0.0, ge=0, le=4, description="expected number of folds on 10 mm2")


PAIRINGS: dict[str, SectionPairing] = {
    "aligned": SectionPairing(distance_um=0.0),
    "adjacent": SectionPairing(distance_um=4.0, deform_um=2.0, tears=0.1, folds=0.1),
    "mist": SectionPairing(distance_um=12.0, shift_um=46.0, rotation_deg=0.1, deform_um=20.0, tears=0.3, folds=0.3),
    "far": SectionPairing(distance_um=60.0, shift_um=60.0, rotation_deg=2.0, deform_um=25.0, tears=0.6, folds=0.6),
}


class PhantomConfig(Strict):
    """One phantom slide: three pictures of one piece of tissue."""

    height: int = Field(4096, ge=64, le=400_000, description="level-0 px")
    width: int = Field(4096, ge=64, le=400_000, description="level-0 px")
    mpp: float = Field(0.5, ge=0.2, le=4.0, description="um per px")
    marker: str = "ER"
    seed: int = Field(0, ge=0, lt=2**63)
    visibility: float = Field(0.85, ge=0, le=1, description="share of the expression that morphology shows")
    contrast: float = Field(
        1.0, ge=1, le=4, description="how plainly nuclei show their differentiation; more than 1 is a caricature"
    )
    pairing: Pairing = "mist"
    sections: SectionPairing | None = Field(None, description="replaces the preset named by `pairing`")
    thickness_um: float = Field(4.0, ge=1, le=10, description="of both sections")
    her2_score: int | None = Field(None, ge=0, le=3, description="slide score; None: drawn from the seed")
    whole: bool = Field(False, description="tissue fills the slide: no glass round it")
    quality: int = Field(88, ge=30, le=100, description="JPEG quality")
    version: PhantomVersion = Field("v0", description="of the phantom; other cells and pixels for the same seed")

    @field_validator("marker")
    @classmethod
    def _known(cls, value: str) -> str:
        return find_marker(value).name

    @property
    def pair(self) -> SectionPairing:
        """The pairing in force."""
        return self.sections or PAIRINGS[self.pairing]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0, px."""
        return self.height, self.width

    def facts(self) -> dict[str, Any]:
        """Every parameter that decides the pixels, as JSON values; of a user's marker its row as well."""
        facts = {**self.model_dump(mode="json"), "sections": self.pair.model_dump(mode="json")}
        return facts | definition(self.marker)


def definition(marker: str) -> dict[str, Any]:
    """What the phantom reads of a marker that is not built in, as JSON values; {} for one that is."""
    if marker in MARKERS:
        return {}
    row = find_marker(marker).model_dump(mode="json", include={"compartment", "chromogen", "expression"})
    return {"marker_definition": row}
