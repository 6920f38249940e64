"""The markers that wsistain knows, in one registry: the rows below, and those of a user's file.

A row says where in the cell the stain lies, which dye shows it, from which density it counts, how it is named
elsewhere and how the phantom's cells express it. Everything else asks here, so a marker is a row.

The user's file is the one that `WSISTAIN_MARKERS` names (empty: none at all), else `wsistain/markers.yaml` in the
user's configuration folder. The working folder is not looked at: what a name means must not depend on where a
command was started. One file is read, never two.
"""

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from wsistain.config import Strict, read_yaml, validate
from wsistain.errors import ConfigError

Compartment = Literal["nuclear", "membranous", "cytoplasmic"]
Vector = tuple[float, float, float]

ENVIRONMENT = "WSISTAIN_MARKERS"
"""Environment variable with the path of the user's file; processes that wsistain starts inherit it."""

OUR_CUTOFFS = (0.15, 0.35, 0.60)
OUR_SOURCE = "wsistain's own, for its DAB optical density; not validated on patients' slides"

_HER2_SOURCE = (
    f"pixels: {OUR_SOURCE}; cells: phantom slides 100 to 111 of scores 0 to 3, ring scores 0.7, 1.5 and 2.4 told apart with "
    "a balanced accuracy of 0.68, 0.92 and 0.88 on slides 200 to 211"
)

_CELLS_OF_THE_PHANTOM = (
    f"pixels: {OUR_SOURCE}; cells: set where as many cells of the phantom's aligned truth are called as reach the level, slides "
    "8000 to 8007; not validated on patients' slides"
)
_NUCLEAR_CELLS = (0.11, 0.27, 0.40)
"""Of nuclear markers, as QuPath's usual 0.2, 0.4 and 0.6 of DAB lie at 0.13, 0.23 and 0.33 of `stain_od`."""

HAEMATOXYLIN, EOSIN, _DAB_OD = HED = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
"""Optical densities of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001, table 1), as
scikit-image has them: not of unit length. The one place where they stand."""

_LEAST_ANGLE_DEG = 10.0  # dyes that lie closer cannot be told apart in 8 bits
_MOST_BYTES = 1 << 20
_FOLLOWS: dict[str, Literal["differentiation", "cycle", "apocrine"]] = {"membranous": "apocrine"}
_OF_A_FILE = ("follows", "against", "shift", "benign", "elsewhere")  # keys of `expression` that a file may set


class Chromogen(Strict):
    """The dye that shows the antigen.

    name : for people.
    od   : its optical density in red, green and blue, brought to unit length (DAB: as Ruifrok and Johnston give it).
    """

    name: str = Field(min_length=1, max_length=40)
    od: Vector

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.upper() == "DAB":
            return {"name": "DAB", "od": _DAB_OD}
        raise ValueError(f"the colour of {value[:40]!r} is not known; give its name and od (red, green, blue)")

    @field_validator("od")
    @classmethod
    def _unit(cls, od: Vector) -> Vector:
        if od == _DAB_OD:
            return od
        length = math.hypot(*od)
        if min(od) < 0 or not 1e-3 < length < 1e3:
            raise ValueError("wanted three optical densities of red, green and blue, none below 0 and not all 0")
        unit = (od[0] / length, od[1] / length, od[2] / length)
        for name, other in (("haematoxylin", HAEMATOXYLIN), ("eosin", EOSIN)):
            cosine = sum(a * b for a, b in zip(unit, other, strict=True)) / math.hypot(*other)
            angle = math.degrees(math.acos(min(cosine, 1.0)))
            if angle < _LEAST_ANGLE_DEG:
                raise ValueError(f"it lies {angle:.0f} degrees from {name} and cannot be told from it (wanted 10)")
        return unit


DAB = Chromogen(name="DAB", od=_DAB_OD)


class Expression(Strict):
    """How the phantom's tumour and luminal cells express a marker (`wsistain.phantom.biology`).

    follows   : the visible property of tumour cells that goes with it.
    against   : it is high where that property is low.
    shift     : added to the latent; 0: about half of the tumour cells are positive, 1: most, -1: few.
    benign    : share of benign luminal cells that have it.
    elsewhere : share of lymphocytes and fibroblasts that have it.

    The rest is not for users' files:

    shares     : another marker with whose hidden part it goes, and how closely, 0..1.
    slide_score: the slide has a score 0..3 that lifts all its cells and that the H&E shows; one marker at most.
    panel      : cell tables of every phantom tell of it, not only those of its own.
    salt, draw : names of the random numbers of its hidden part, where its name does not decide them ("" and 0).
    """

    follows: Literal["differentiation", "cycle", "apocrine"]
    against: bool = False
    shift: float = Field(0.0, ge=-5, le=5)
    benign: float = Field(0.0, ge=0, le=1)
    elsewhere: float = Field(0.0, ge=0, le=1)
    shares: tuple[str, float] | None = None
    slide_score: bool = False
    panel: bool = False
    salt: str = ""
    draw: int = 0


class Marker(Strict):
    """One antigen.

    name           : our name, as in `--marker`; becomes part of file names.
    compartment    : where in the cell the chromogen lies.
    chromogen      : the dye.
    cutoffs        : densities of the chromogen (`wsistain.optics.scoring.stain_od`, 0..3) of a pixel at which 1+, 2+
                     and 3+ begin.
    cell_cutoffs   : the same for a cell (`wsistain.evaluation.pathology.cell_od`); None: `cutoffs`.
    cell_positive  : the grade from which a cell counts as positive.
    cutoffs_source : where those come from.
    prompt         : text that conditions the latent-diffusion systems.
    aliases        : spellings found in data sets and file names, lower case.
    expression     : how the phantom's cells express it; by default as its compartment suggests.
    origin         : "built in", or the name of the user's file that defines or changes it.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    compartment: Compartment
    chromogen: Chromogen = DAB
    cutoffs: tuple[float, float, float] = OUR_CUTOFFS
    cell_cutoffs: tuple[float, float, float] | None = None
    cell_positive: Literal[1, 2, 3] = 1
    cutoffs_source: str = Field(OUR_SOURCE, min_length=1)
    prompt: str = ""
    aliases: tuple[str, ...] = ()
    expression: Expression
    origin: str = "built in"

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """What follows from the rest where a row does not say it: prompt and expression."""
        if not isinstance(values, dict):
            return values
        given = values.get("expression")
        if given is None or isinstance(given, dict):
            follows = _FOLLOWS.get(str(values.get("compartment")), "differentiation")
            values = {**values, "expression": {"follows": follows, **(given or {})}}
        return {**values, "prompt": values.get("prompt") or f"immunohistochemistry {values.get('name')} stain"}

    @field_validator("cutoffs", "cell_cutoffs")
    @classmethod
    def _rising(cls, cutoffs: Vector | None) -> Vector | None:
        if cutoffs is not None and not 0 < cutoffs[0] < cutoffs[1] < cutoffs[2] < 3:
            raise ValueError("wanted three densities that rise, between 0 and 3")
        return cutoffs

    @field_validator("aliases")
    @classmethod
    def _lower(cls, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(alias.strip().lower() for alias in aliases)

    @property
    def positive_od(self) -> float:
        """Density from which a pixel counts as positive: the 1+ cut-off."""
        return self.cutoffs[0]

    @property
    def at_cells(self) -> Vector:
        """The cut-offs of cells."""
        return self.cell_cutoffs or self.cutoffs

    @property
    def positive_cell_od(self) -> float:
        """Density from which a cell counts as positive."""
        return self.at_cells[self.cell_positive - 1]

    @property
    def spellings(self) -> frozenset[str]:
        """Every name that it goes by, lower case."""
        return frozenset((self.name.lower(), *self.aliases))

    def facts(self) -> dict[str, Any]:
        """The row as JSON values, for the provenance; without `expression`, which only the phantom reads."""
        return self.model_dump(mode="json", exclude={"expression"})


MARKERS: dict[str, Marker] = {
    m.name: m
    for m in (
        Marker(
            name="ER", compartment="nuclear", aliases=("er", "esr1", "estrogen receptor"),
            cell_cutoffs=_NUCLEAR_CELLS, cutoffs_source=_CELLS_OF_THE_PHANTOM,
            expression=Expression(follows="differentiation", shift=0.25, benign=0.45, panel=True, draw=1),
        ),
        Marker(
            name="PR", compartment="nuclear", aliases=("pr", "pgr", "progesterone receptor"),
            cell_cutoffs=_NUCLEAR_CELLS, cutoffs_source=_CELLS_OF_THE_PHANTOM,
            expression=Expression(
                follows="differentiation", shift=-0.05, benign=0.40, shares=("ER", 0.8), panel=True, draw=2
            ),
        ),
        Marker(
            name="Ki67", compartment="nuclear", aliases=("ki67", "ki-67", "mki67"),
            cell_cutoffs=_NUCLEAR_CELLS, cutoffs_source=_CELLS_OF_THE_PHANTOM,
            expression=Expression(follows="cycle", benign=0.03, elsewhere=0.02, panel=True, salt="g", draw=3),
        ),
        Marker(
            name="HER2", compartment="membranous", aliases=("her2", "her-2", "erbb2"),
            cell_cutoffs=(0.025, 0.045, 0.075), cell_positive=2, cutoffs_source=_HER2_SOURCE,
            expression=Expression(follows="apocrine", slide_score=True, panel=True, salt="q", draw=4),
        ),
    )
}  # fmt: skip
"""The rows of the package. To add a marker, add a row; `docs/markers.md` says what a row may hold."""


class _File(Strict):
    markers: list[dict[str, Any]] = Field(default_factory=list)


def user_file() -> Path | None:
    """The user's file of markers, None where there is none; ConfigError where `WSISTAIN_MARKERS` names no file."""
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        if not named.strip():
            return None
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"{ENVIRONMENT} names {path}, which is no file; correct it or unset it")
        return path
    home = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(home) if home else Path.home() / ".config") / "wsistain" / "markers.yaml"
    return path if path.is_file() else None


def known_markers() -> dict[str, Marker]:
    """Every marker by its name: those of the package, then those of the user's file. ConfigError on a wrong file."""
    path = user_file()
    if path is None:
        return dict(MARKERS)
    try:
        state = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if state.st_size > _MOST_BYTES:
        raise ConfigError(f"{path} has {state.st_size} bytes; wanted a file of markers, at most 1 MiB")
    return dict(_read(str(path), state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=8)
def _read(file: str, changed: int, size: int) -> dict[str, Marker]:
    """The registry with the rows of `file`; `changed` and `size` make a changed file another key."""
    path, found = Path(file), dict(MARKERS)
    for k, row in enumerate(validate(_File, read_yaml(path), str(path)).markers):
        where = f"{path}, marker {k + 1}"
        marker = _row(row, path.name, where)
        if marker.name in found and found[marker.name].origin != "built in":
            raise ConfigError(f"{where}: {marker.name} is there twice")
        for other in found.values():
            shared = sorted(marker.spellings & other.spellings) if other.name != marker.name else []
            if shared:
                raise ConfigError(f"{where}: {shared[0]!r} means {other.name} already; choose another name or alias")
        found[marker.name] = marker
    return found


def _row(row: dict[str, Any], file: str, where: str) -> Marker:
    """One row of a user's file. Of a built-in marker it may change the cut-offs and nothing else."""
    if "origin" in row:
        raise ConfigError(f"{where}: origin is not a known key; it is filled in")
    built_in = MARKERS.get(str(row.get("name")))
    if built_in is not None:
        surplus = sorted(set(row) - {"name", "cutoffs", "cell_cutoffs", "cutoffs_source"})
        if surplus or "cutoffs_source" not in row:
            raise ConfigError(
                f"{where}: {built_in.name} is built in; a file may give it other cutoffs and their cutoffs_source, "
                f"nothing else (found {', '.join(surplus or sorted(row))})"
            )
        row = {**_fields(built_in), **row}
    elif not {"cutoffs", "cell_cutoffs"}.isdisjoint(row) and "cutoffs_source" not in row:
        raise ConfigError(f"{where}: cutoffs are given without their cutoffs_source; say where they come from")
    expression = row.get("expression")
    if isinstance(expression, dict) and (strange := sorted(set(map(str, expression)) - set(_OF_A_FILE))):
        raise ConfigError(f"{where}: expression.{strange[0]} is not a known key; known keys: {', '.join(_OF_A_FILE)}")
    return validate(Marker, {**row, "origin": file}, where)


def _fields(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def panel() -> tuple[Marker, ...]:
    """The markers that every phantom's cell tables tell of."""
    return tuple(m for m in MARKERS.values() if m.expression.panel)


def find_marker(name: str) -> Marker:
    """The marker called `name`, in any spelling of its aliases; ConfigError with the known names otherwise."""
    wanted, known = name.strip().lower(), known_markers()
    for marker in known.values():
        if wanted in marker.spellings:
            return marker
    raise ConfigError(
        f"marker {name!r} is not known; wanted one of {', '.join(known)}, or one of your own (docs/markers.md)"
    )


def require_dab(marker: Marker | None, what: str) -> None:
    """ConfigError where `marker` is shown by another dye than the brown that `what` measures."""
    if marker is not None and marker.chromogen != DAB:
        raise ConfigError(
            f"{what} measures DAB, and {marker.name} is shown by {marker.chromogen.name}; choose another system"
        )


def parse_markers(text: str) -> tuple[Marker, ...]:
    """The markers of a comma-separated list such as "ER,PR", in that order, each once."""
    found: dict[str, Marker] = {}
    for part in text.split(","):
        marker = find_marker(part)
        found[marker.name] = marker
    return tuple(found.values())
