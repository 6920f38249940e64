"""The entry form: what whoever made the pictures says of them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from wsistain.config import Strict, read_yaml, validate
from wsistain.errors import ConfigError

FORM = "entry.yaml"
"""Beside the pictures."""

BASELINES = ("identity", "mean_colour")
"""Rows that need no pictures; no entry may have their names."""

BUDGETS = {"short": (6_400, 3_600.0), "long": (128_000, 86_400.0)}
"""Crops of 128 px seen, and seconds of one core, choices included, that a budget holds."""

_OVER = 1.05
"""By which a row may pass them: whole steps, and what a run does after its last one."""

Budget = Literal["short", "long", "other", "none"]


class Entry(Strict):
    """One run of one system, or something that needs no training (budget `none`)."""

    system: str = Field(min_length=1, max_length=60, description="rows of one name are runs of one system")
    budget: Budget = Field("other", description="of docs/benchmark.md; none: nothing was trained")
    seed: int | None = Field(None, ge=0, description="of the run; runs of one system differ in it")
    crops: int | None = Field(None, ge=0, description="crops seen in training")
    cpu_seconds: float | None = Field(None, ge=0, description="of training, one core")
    learning_rate: float | None = Field(None, gt=0)
    parameters: int | None = Field(None, ge=0, description="of the generator")
    config: str = Field("", max_length=300, description="where its configuration can be read")
    commit: str = Field("", max_length=80, description="of the code that made it")
    note: str = Field("", max_length=600)


def read_entry(folder: Path, form: Path | None) -> Entry:
    """The form named, else `entry.yaml` in the folder of pictures, else one with the folder's name. Raises ConfigError."""
    path = form or folder / FORM
    if form is None and not path.is_file():
        found = Entry(system=folder.resolve().name[:60] or "pictures")
    else:
        found = validate(Entry, read_yaml(path), str(path))
    if found.budget in ("short", "long") and (found.seed is None or found.crops is None):
        raise ConfigError(
            f"{path}: a row of the {found.budget} budget says its seed and crops; add them, or budget: other"
        )
    _check_budget(found, path)
    if found.system in BASELINES:
        raise ConfigError(f"{path}: system {found.system} is the name of a baseline; give another in the form")
    return found


def _check_budget(entry: Entry, path: Path) -> None:
    """ConfigError for a run that took more than its budget holds."""
    if entry.budget == "none" and entry.crops:
        raise ConfigError(
            f"{path}: budget none is for what was not trained, and {entry.crops:,} crops are given; say budget: other"
        )
    for said, most, unit in zip(
        (entry.crops, entry.cpu_seconds), BUDGETS.get(entry.budget, ()), ("crops", "seconds of one core"), strict=False
    ):
        if said is not None and said > most * _OVER:
            raise ConfigError(
                f"{path}: {said:,.0f} {unit}, and the {entry.budget} budget holds {most:,.0f}; say budget: "
                f"{'long or other' if entry.budget == 'short' else 'other'}"
            )
