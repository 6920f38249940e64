"""Making the data of the benchmark from seeds, and holding every picture against the frozen list."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsistain.benchmark.edition import PARTS, V0, Condition, Edition, find_edition
from wsistain.benchmark.listed import Listed, check, machine, shipped
from wsistain.errors import DataError, OutputError, shown
from wsistain.phantom.processes import quiet
from wsistain.phantom.products import make_patches
from wsistain.runtime.files import local_path, reporting, write_json
from wsistain.runtime.progress import OnProgress

CARD = "benchmark.json"
"""Beside the data: which conditions are there, checked, and how they compare with the frozen list."""


def make(
    root: str | Path,
    only: Sequence[str] = (),
    *,
    edition: Edition = V0,
    workers: int = 1,
    progress: OnProgress = quiet,
    frozen: Any = shipped,
) -> dict[str, Any]:
    """What the card says of the conditions that were asked for, all of them made and checked.

    Writes `<root>/<pairing>-c<contrast>/{learn,test}/<MARKER>/...` in MIST's layout, and the card when a condition is whole.
    A picture that lies there finished is kept; the check is of all of them. frozen: (edition, condition) to its `Listed`.
    Raises DataError for pictures that are not those of the edition, ConfigError, OutputError.
    """
    root = local_path(root)
    conditions = edition.choose(only)
    wanted = {c.name: frozen(edition.name, c.name) for c in conditions}  # a list that is missing shows before the work
    _begin(root, edition)
    for condition in conditions:
        make_unchecked(root, condition, edition, workers=workers, progress=progress)
        differing = check(edition, root, condition, wanted[condition.name])
        _note(root, edition, condition, wanted[condition.name], differing)
    told = read_card(root, edition)["conditions"]
    return {c.name: told[c.name] for c in conditions}


def make_unchecked(
    root: Path, condition: Condition, edition: Edition, *, workers: int = 1, progress: OnProgress = quiet
) -> None:
    """Make the patches of a condition, or what is missing of them."""
    for part in PARTS:

        def show(what: str, done: int, total: int, part: str = part) -> None:
            progress(f"{condition.name} {part}", done, total)

        make_patches(condition.folder(root, part), **edition.making(condition, part), workers=workers, progress=show)


def edition_of(root: Path) -> Edition:
    """The edition whose data a folder holds, by its card. Raises DataError where there is none, ConfigError for an unknown one."""
    return find_edition(str(_card(root)["edition"]))


def read_card(root: Path, edition: Edition) -> dict[str, Any]:
    """The card of a folder of benchmark data. Raises DataError where there is none, or one of another edition."""
    card = _card(root)
    found = card["edition"]
    if found != edition.name:
        raise DataError(
            f"{root} holds edition {shown(found)} of the benchmark, wanted {edition.name}; use another folder, or --edition"
        )
    return card


def _card(root: Path) -> dict[str, Any]:
    path = root / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card["edition"], str) or not isinstance(card["conditions"], dict):
            raise TypeError("edition or conditions")
    except FileNotFoundError:
        raise DataError(
            f"{root} holds no benchmark data ({CARD} is missing); run 'wsistain benchmark make {root}'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no card of benchmark data ({type(error).__name__}); make the data anew") from None
    return {**card}


def made(root: Path, edition: Edition, condition: Condition) -> dict[str, Any]:
    """What the card says of a condition that was made and checked. Raises DataError where it was not."""
    facts = read_card(root, edition)["conditions"].get(condition.name)
    if facts is None:
        raise DataError(
            f"{root} does not hold {condition.name}; run 'wsistain benchmark make {root} --edition {edition.name} "
            f"--only {condition.name}'"
        )
    return {**facts}


def _begin(root: Path, edition: Edition) -> None:
    """A card in the folder from the start, so that nobody's other folder is filled up."""
    if (root / CARD).is_file():
        read_card(root, edition)
        return
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file, wanted a folder for the data; choose a new folder")
    if root.is_dir() and any(root.iterdir()):
        raise OutputError(f"{root} is not empty and holds no benchmark data; choose a new folder")
    with reporting(root, retry="run again"):
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / CARD, {"edition": edition.name, "conditions": {}})


def _note(root: Path, edition: Edition, condition: Condition, wanted: Listed, differing: Sequence[str]) -> None:
    card = read_card(root, edition)
    card["conditions"][condition.name] = {
        "pictures": len(wanted.pixels),
        "sha256": wanted.digest(),
        "differ_by_rounding": len(differing),
        "list_made_with": dict(wanted.seen),
        "made_with": machine(),
    }
    with reporting(root, retry="run again"):
        write_json(root / CARD, card, sort_keys=True)
