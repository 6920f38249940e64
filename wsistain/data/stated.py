"""What stands beside a data set about itself, held against what a command takes for granted: marker and um per px.

A wrong marker in the header of weights, or a scale that is off by two, is found by nobody later on.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsistain.config import MIST_MPP
from wsistain.data.layouts import PatchRef
from wsistain.errors import ConfigError, DataError
from wsistain.markers import Marker, find_marker
from wsistain.slide.inside import phantom_of

BCI_MPP = 0.46
"""um per px of BCI's patches: about that, not stated exactly."""

_MIST_NAME = re.compile(r"\d+[A-Z]+\d+(_\d+){2,4}")
"""What MIST calls its patches: the slide's number (`10M2102916`), then the place."""

_LEVELS_UP = 4
"""How far above a patch its manifest lies at most: `<MARKER>/TrainValAB/trainA/x.jpg` has it three folders up."""

_ALIKE = 0.01
"""Scales that differ by less than this share are the same, written with fewer digits."""


def check_stated(refs: Sequence[PatchRef], root: Path, marker: Marker, mpp: float | None) -> None:
    """Nothing, or a DataError where the patches themselves say that they show another marker or have another scale.

    refs : patches that were found for `marker` below `root`.
    mpp  : um per px that is taken for them; None: nothing is taken for granted.

    Asked are the manifest that the phantom and `pair` write (`parameters.marker`, `parameters.mpp`), and the names of
    the folders from `root` down to the patches: one that is called like another marker, and none like this one.
    """
    place = next((ref.he or ref.ihc for ref in refs if ref.he or ref.ihc), None)
    if place is None:
        return
    manifest, stated = _stated(place)
    said = stated.get("marker")
    if isinstance(said, str) and said != marker.name:
        raise DataError(
            f"{manifest} says that these are patches of {said}, found marker {marker.name}; "
            f"choose marker {said}, or the folder of {marker.name}"
        )
    if said is None:
        _check_folders(place, root, marker)
    scale = stated.get("mpp")
    if mpp is not None and isinstance(scale, int | float) and abs(scale / mpp - 1) > _ALIKE:
        raise DataError(
            f"{manifest} says {scale:g} um per px, found {mpp:g}; set mpp to {scale:g} (data.mpp in training)"
        )


def stated_mpp(refs: Sequence[PatchRef]) -> float | None:
    """um per px that the manifests beside the patches say, None where none does.

    Raises DataError where two of them contradict each other.
    """
    said: dict[float, Path] = {}
    for place in {ref.he.parent: ref.he for ref in refs if ref.he is not None}.values():
        manifest, stated = _stated(place)
        scale = stated.get("mpp")
        if isinstance(scale, int | float) and scale > 0:
            said.setdefault(float(scale), manifest)
    if len(said) > 1:
        (a, first), (b, second) = list(said.items())[:2]
        raise DataError(f"{first} says {a:g} um per px and {second} {b:g}; train on patches of one scale")
    return next(iter(said), None)


def agreed_mpp(refs: Sequence[PatchRef], given: float | None) -> float | None:
    """um per px as given, or as the manifests beside the patches say; None where neither does.

    Raises DataError where the two contradict each other, or two manifests do.
    """
    stated = stated_mpp(refs)
    if given is not None and stated is not None and abs(stated / given - 1) > _ALIKE:
        where = next((ref.he for ref in refs if ref.he is not None), Path())
        raise DataError(
            f"{_stated(where)[0]} says {stated:g} um per px, found --mpp {given:g}; leave --mpp out, or correct the manifest"
        )
    return given if given is not None else stated


def stated_version(refs: Sequence[PatchRef]) -> str | None:
    """Version of the phantom ("v0", "v1") that painted the patches, None where they are no phantom's.

    Raises DataError where they are of two versions, or some of them real: what is learnt from such a mixture is neither.
    """
    said: dict[str | None, Path] = {}
    for place in {ref.he.parent: ref.he for ref in refs if ref.he is not None}.values():
        manifest, stated = _stated(place)
        inside = phantom_of(place)  # goes along where patches are copied without their manifest
        if inside is not None:
            manifest, stated = place, {**inside, "kind": "patches"}
        phantom = stated.get("kind") == "patches" and "visibility" in stated
        said.setdefault(str(stated.get("version", "v0")) if phantom else None, manifest)
    if len(said) > 1:
        (a, first), (b, second) = list(said.items())[:2]
        raise DataError(
            f"{first} is of {_made_by(a)} and {second} of {_made_by(b)}; train on patches of one kind, made with one --version"
        )
    return next(iter(said), None)


def _made_by(version: str | None) -> str:
    return "no phantom" if version is None else f"phantom {version}"


def published_mpp(refs: Sequence[PatchRef], layout: str) -> float | None:
    """um per px that MIST and BCI publish, None for patches of another data set (IHC4BC publishes none)."""
    if layout in ("bci", "bci_ab"):
        return BCI_MPP
    return MIST_MPP if layout == "mist" and all(_MIST_NAME.fullmatch(ref.name) for ref in refs) else None


def mpp_of(refs: Sequence[PatchRef], layout: str) -> float:
    """um per px of patches of which nobody said it: what their manifest says, or MIST and BCI publish of theirs.

    Raises DataError, asking for it, where neither does, or where two manifests contradict each other.
    """
    found = stated_mpp(refs) or published_mpp(refs, layout)
    if found is not None:
        return found
    where = next((ref.he.parent for ref in refs if ref.he is not None), Path())
    raise DataError(
        f"the um per px of the patches in {where} is stated nowhere (no manifest.json above them); set data.mpp, for "
        f"example --set data.mpp=0.5 (MIST's own patches have {MIST_MPP})"
    )


def _stated(place: Path) -> tuple[Path, dict[str, Any]]:
    """The nearest manifest above a patch and its parameters; no parameters where there is none, or none of ours."""
    for folder in place.absolute().parents[:_LEVELS_UP]:
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            continue
        try:
            parameters = json.loads(manifest.read_text(encoding="utf-8"))["parameters"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # another program's
        if isinstance(parameters, dict):
            return manifest, parameters
    return place, {}


def _check_folders(place: Path, root: Path, marker: Marker) -> None:
    """DataError where a folder from `root` down is called like another marker and none like this one."""
    top = root.absolute()
    folders = (
        [top.name, *place.absolute().parent.relative_to(top).parts] if place.absolute().is_relative_to(top) else []
    )
    called = {}
    for name in folders:
        try:
            called[find_marker(name).name] = name
        except ConfigError:
            continue
    if called and marker.name not in called:
        other, name = next(iter(called.items()))
        raise DataError(
            f"{root} holds a folder called {name} above these patches, found marker {marker.name}; "
            f"choose marker {other}, or the folder of {marker.name}"
        )
