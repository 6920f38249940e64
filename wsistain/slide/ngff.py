"""The attributes of OME-Zarr pictures (0.1 to 0.5), checked before anything of them is used."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wsistain.errors import SlideError
from wsistain.slide.mpp import Found
from wsistain.slide.units import um_per

_MOST = 256  # pictures, levels or channels that a file may list
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Read(BaseModel):
    """Base of what is read: unknown keys are passed over, a known one must be of its type, and null is no value."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Axis(_Read):
    """One axis; `unit` as the file spells it."""

    name: str = Field(min_length=1, max_length=64)
    unit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value  # version 0.3


class Transform(_Read):
    """One step from px to units; only scales and translations are used."""

    type: str
    scale: list[Positive] = []
    translation: list[Finite] = []

    @model_validator(mode="after")
    def _is_whole(self) -> "Transform":
        if self.type == "scale" and not self.scale:
            raise ValueError("a scale without numbers")
        return self


class Dataset(_Read):
    """One level: where its array is, and its own steps."""

    path: str = Field(min_length=1, max_length=1024)
    coordinateTransformations: list[Transform] = Field([], max_length=_MOST)  # noqa: N815 - the key of the standard

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        parts = re.split(r"[/\\]", value)
        if value.startswith(("/", "\\")) or ".." in parts or "\0" in value or ":" in parts[0]:
            raise ValueError("the path leads out of the folder")
        return value


class Multiscale(_Read):
    """One picture as a pyramid; its steps come after those of its levels."""

    axes: list[Axis] = Field([], max_length=8)
    datasets: list[Dataset] = Field(min_length=1, max_length=_MOST)
    coordinateTransformations: list[Transform] = Field([], max_length=_MOST)  # noqa: N815 - the key of the standard
    name: str | None = None

    def axis_names(self, n_axes: int) -> list[str]:
        """Lower-case names of the axes of its arrays; versions before 0.3 have t, c, z, y, x. ValueError when they
        are not as many."""
        names = [axis.name.lower() for axis in self.axes] or list("tczyx")[-n_axes:]
        if len(names) != n_axes or len(set(names)) != n_axes or not {"x", "y"} <= set(names):
            raise ValueError(f"the axes are {', '.join(names)}, but its arrays have {n_axes}")
        return names

    def scale(self, level: int, n_axes: int) -> list[float] | None:
        """Units per px of a level along each axis, with the scale of the whole picture; None where none is stated.

        ValueError for a scale of another length.
        """
        product, is_stated = [1.0] * n_axes, False
        for step in (*self.datasets[level].coordinateTransformations, *self.coordinateTransformations):
            if step.type != "scale":
                continue
            if len(step.scale) != n_axes:
                raise ValueError(f"a scale of {len(step.scale)} numbers, but its arrays have {n_axes} axes")
            product, is_stated = [a * b for a, b in zip(product, step.scale, strict=True)], True
        return product if is_stated else None

    def translation(self, level: int, n_axes: int) -> list[float] | None:
        """Where the first px of a level lies along each axis; None where it is not stated."""
        for step in self.datasets[level].coordinateTransformations:
            if step.type == "translation" and len(step.translation) == n_axes:
                return list(step.translation)
        return None

    def mpp(self, y: int, x: int, n_axes: int) -> Found | None:
        """(y, x) um per px of level 0; None without a scale or without units of length."""
        scale = self.scale(0, n_axes)
        if scale is None or not self.axes:
            return None
        um_y, um_x = (um_per(self.axes[i].unit or "") for i in (y, x))
        return None if um_y is None or um_x is None else (scale[y] * um_y, scale[x] * um_x)


class Channel(_Read):
    """How a channel is shown."""

    color: str = ""
    label: Any = None


class Omero(_Read):
    """How a picture is shown."""

    channels: list[Channel] = Field([], max_length=_MOST)


class Picture(_Read):
    """The attributes of a group that is a picture."""

    multiscales: list[Multiscale] = Field(min_length=1, max_length=_MOST)
    omero: Omero = Omero()


def read_attributes(attributes: Any, name: str) -> Picture:
    """The picture that attributes describe, under "ome" (0.5) or at the top. SlideError that names what is wrong."""
    if "multiscales" not in ome_of(attributes):
        raise SlideError(f"{name} is no OME-Zarr picture: its attributes have no multiscales")
    try:
        return Picture.model_validate(ome_of(attributes))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "ome"
        said = first["msg"].removeprefix("Value error, ")
        shown = f" (found {first['input']!r:.60})" if not isinstance(first["input"], dict | list) else ""
        raise SlideError(
            f"{name} has OME-Zarr attributes that make no sense: {where}: {said}{shown}; export it again"
        ) from None


def ome_of(attributes: Any) -> dict[str, Any]:
    """The attributes of OME-Zarr among those of a group; empty where there are none."""
    if not isinstance(attributes, dict):
        return {}
    inner = attributes.get("ome", attributes)
    return inner if isinstance(inner, dict) else {}


_FLUORESCENT = re.compile(
    r"dapi|hoechst|fitc|tritc|rhodamine|texas|cy\s*[2357]|alexa|\baf\s*\d|gfp|rfp|yfp|mcherry|opal|sytox|draq|\bcd\d|"
    r"\bpan.?ck|autofluor",
    re.IGNORECASE,
)


def refuse_other_colours(omero: Omero, name: str) -> None:
    """SlideError where channels are shown or named as something else than red, green and blue.

    Three channels of uint8 without colours are RGB, as OME-Zarr viewers have it, unless their labels are dyes.
    """
    colours = [channel.color.strip().lstrip("#").lower() for channel in omero.channels]
    if any(colours) and colours != ["ff0000", "00ff00", "0000ff"]:
        shown = ", ".join(colour[:20] or "(none)" for colour in colours[:6])
        raise SlideError(
            f"{name} shows its channels as {shown}, not red, green and blue; wsistain stains brightfield RGB slides"
        )
    labels = [str(channel.label)[:40] for channel in omero.channels]
    if not any(colours) and any(_FLUORESCENT.search(label) for label in labels):
        raise SlideError(
            f"{name} calls its channels {', '.join(labels[:6])}, not red, green and blue; "
            "wsistain stains brightfield RGB slides"
        )
