"""The entry form: what whoever made the pictures says of them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from wsistain.config import Strict, read_yaml, validate
from wsistain.errors import ConfigError

FORM = "entry.yaml"
"""Beside the pictures."""

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
        return Entry(system=folder.resolve().name[:60] or "pictures")
    found = validate(Entry, read_yaml(path), str(path))
    if found.budget in ("short", "long") and (found.seed is None or found.crops is None):
        raise ConfigError(
            f"{path}: a row of the {found.budget} budget says its seed and crops; add them, or budget: other"
        )
    return found
