"""What the benchmark's data are: editions, their conditions, and where each lies.

An edition fixes every number that decides a pixel. It never changes once its list of pictures is shipped; a phantom that
paints otherwise gets a new one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsistain.config import Pairing, PhantomVersion
from wsistain.errors import ConfigError, shown
from wsistain.markers import MARKERS, Marker

PARTS = ("learn", "test")
"""Folders of a condition: training and validation slides; test slides."""


@dataclass(frozen=True)
class Condition:
    """One task: how the sections lie (`pairing`), how plainly nuclei show it (`contrast`), and the marker."""

    pairing: Pairing
    contrast: int
    marker: str

    @property
    def name(self) -> str:
        """As people type it, such as "mist-c3-ER"."""
        return f"{self.pairing}-c{self.contrast}-{self.marker}"

    @property
    def group(self) -> str:
        """Folder of all markers of this pairing and contrast, such as "mist-c3"."""
        return f"{self.pairing}-c{self.contrast}"

    def folder(self, root: Path, part: str) -> Path:
        """The folder in MIST's layout (`<folder>/<MARKER>/TrainValAB`) of "learn" or "test"."""
        return root / self.group / part

    def known(self) -> Marker:
        """The marker's row as the package has it: cut-offs of a user's file would make other scores."""
        return MARKERS[self.marker]


@dataclass(frozen=True)
class Edition:
    """One frozen version of the data.

    size, mpp       : edge of a patch, px, and um per px.
    train, val, test: patches of a condition, each from a slide of its own, so that no slide is in two of them.
    seeds           : of the learning slides (train and val) and of the test slides.
    visibility      : share of the expression that the H&E shows.
    phantom         : version of the phantom that paints them.
    """

    name: str
    conditions: tuple[Condition, ...]
    size: int
    mpp: float
    train: int
    val: int
    test: int
    seeds: tuple[int, int]
    visibility: float
    phantom: PhantomVersion = "v0"

    def making(self, condition: Condition, part: str) -> dict[str, Any]:
        """Arguments of `phantom.products.make_patches` for one part of a condition."""
        learns = part == "learn"
        train, val = (self.train, self.val) if learns else (0, self.test)
        return {
            "markers": condition.marker,
            "train": train,
            "val": val,
            "slides": train + val if learns else val + 1,  # one slide is counted for training, which has no patch here
            "seed": self.seeds[PARTS.index(part)],
            "size": self.size,
            "mpp": self.mpp,
            "visibility": self.visibility,
            "contrast": float(condition.contrast),
            "pairing": condition.pairing,
            "version": self.phantom,
        }

    def pictures(self) -> int:
        """How many pictures a condition has: H&E and IHC of each patch, and the aligned truth where there is one."""
        return 2 * self.train + 3 * (self.val + self.test)

    def choose(self, only: Sequence[str]) -> list[Condition]:
        """The conditions that `only` names: whole names, or their beginnings up to a dash ("mist", "mist-c3"); all for none.

        Raises ConfigError for what names none.
        """
        if not only:
            return list(self.conditions)
        found: dict[str, Condition] = {}
        for text in only:
            wanted = text.strip().lower()
            fitting = [c for c in self.conditions if f"{c.name}-".lower().startswith(f"{wanted}-")]
            if not fitting:
                raise ConfigError(
                    f"{text!r} is no condition of edition {self.name} of the benchmark; wanted PAIRING, PAIRING-cCONTRAST or PAIRING-cCONTRAST-MARKER, "
                    f"such as {self.conditions[0].name} ({', '.join(dict.fromkeys(c.group for c in self.conditions))})"
                )
            found |= {c.name: c for c in fitting}
        return [c for c in self.conditions if c.name in found]

    def condition(self, name: str) -> Condition:
        """The one condition of that name. Raises ConfigError for several or none."""
        found = self.choose([name])
        if len(found) != 1:
            raise ConfigError(f"{name!r} names {len(found)} conditions; give one, such as {found[0].name}")
        return found[0]


V0 = Edition(
    name="v0",
    # Each has its frozen list; a condition without one is no part of the edition.
    conditions=(
        Condition("mist", 3, "ER"),
        Condition("mist", 3, "PR"),
        Condition("mist", 3, "Ki67"),
        Condition("mist", 3, "HER2"),
        Condition("mist", 1, "ER"),
        Condition("mist", 1, "PR"),
        Condition("mist", 1, "Ki67"),
        Condition("mist", 1, "HER2"),
        Condition("adjacent", 3, "ER"),
        Condition("adjacent", 1, "ER"),
        Condition("far", 3, "ER"),
        Condition("far", 1, "ER"),
    ),
    size=512,
    mpp=1.0,
    train=40,
    val=12,
    test=24,
    seeds=(26, 27),
    visibility=0.85,
)
"""The phantom of wsistain 0.1.0."""

V1 = Edition(
    name="v1",
    conditions=(*(Condition("mist", 3, name) for name in ("ER", "PR", "Ki67")), Condition("mist", 1, "ER")),
    size=512,
    mpp=1.0,
    train=40,
    val=12,
    test=24,
    seeds=(28, 29),  # its slides have names of their own: pictures of another edition are refused by name
    visibility=0.85,
    phantom="v1",
)
"""The phantom nearer to tissue. Conditions are added as their lists are frozen."""

EDITIONS = {edition.name: edition for edition in (V0, V1)}


def find_edition(name: str) -> Edition:
    """The edition of that name. Raises ConfigError for one that this release does not know."""
    found = EDITIONS.get(name.strip().lower())
    if found is None:
        raise ConfigError(
            f"{shown(name)} is no edition of the benchmark that this release knows; give one of {', '.join(EDITIONS)}"
        )
    return found
