"""What `entries.py` can train: a system, or a row of a paper's table (`configs/tables`) over the system's small preset.

    usigan                      the system
    usigan-table-4/no-uot-ctm   USIGAN's Table IV, "w/o UOT-CTM": the same small preset with what that row changes

So every ablation of the papers is an entry by its name, at the size and length of all others.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wsistain.packaged import packaged_folder
from wsistain.training.grid import GridConfig, GridRow

ABLATIONS = (
    "usigan-table-4", "usigan-table-5", "usigan-table-6", "usigan-table-8", "asp_dgrank-table-5", "ot_stainnet-table-2",
    "atst_net-table-2", "atst_net-table-3", "miu_diff-table-1",
)  # fmt: skip
"""Tables whose rows change one system; the others compare systems. Not here: USIGAN's Table VII (batch size), which sees
other crops a step, and MIU-Diff's Table 2 (numbers of steps of its sampler, which the small preset shortens)."""

OF_LENGTH = {"solver", "n_steps", "start"}
"""Sampling options that a paper's row sets for its full length; the small preset's own stay. ILVR has no other solver than its own."""


@dataclass(frozen=True)
class Arm:
    """One thing to train.

    name   : as it is asked for, and the row's system. system: whose small preset it stands on.
    changes: options over the preset's. label: what the paper calls the row.
    of     : an arm whose weights it stains with under its own options, instead of training.
    """

    name: str
    system: str
    changes: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    of: str | None = None

    @property
    def key(self) -> str:
        """Of its files."""
        return self.name.replace("/", "-")


def over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, nested keys by nested keys; a dotted key is a nested one."""
    found = copy.deepcopy(dict(base))
    for key, value in changes.items():
        first, dot, rest = key.partition(".")
        change = {rest: value} if dot else value
        held = found.get(first)
        found[first] = (
            over(held if isinstance(held, Mapping) else {}, change) if isinstance(change, Mapping) else change
        )
    return found


def small_preset(system: str) -> Path:
    """The small preset's file of a system. SystemExit where there is none."""
    path = packaged_folder("configs") / "train" / f"{system}_small.yaml"
    if not path.is_file():
        raise SystemExit(
            f"{system} has no small preset ({path.name}); the benchmark's networks are those of small presets"
        )
    return path


def find_arm(name: str) -> Arm:
    """A system, or TABLE/ROW. SystemExit for what is neither, or changes nothing."""
    table, slash, wanted = name.partition("/")
    if not slash:
        small_preset(name)
        return Arm(name, name)
    path = packaged_folder("configs") / "tables" / f"{table}.yaml"
    if table not in ABLATIONS or not path.is_file():
        raise SystemExit(f"{table} is no table of ablations; give one of {', '.join(ABLATIONS)}")
    grid = GridConfig.model_validate(yaml.safe_load(path.read_text()))
    row = next((r for r in grid.rows if r.name == wanted), None)
    if row is None:
        raise SystemExit(f"{table} has no row {wanted}; its rows: {', '.join(r.name for r in grid.rows)}")
    system = row.base or grid.base or ""
    small_preset(system)
    changes = over(over({}, grid.set), row.set).get("options", {})
    if "sampling" in changes and isinstance(changes["sampling"], dict):
        kept = {"solver"} if changes["sampling"].get("guidance") == "ilvr" else set()
        changes["sampling"] = {k: v for k, v in changes["sampling"].items() if k not in OF_LENGTH - kept}
    return Arm(name, system, changes, row.label or row.name, f"{table}/{row.of}" if row.of else None)


def rows_of(table: str) -> list[GridRow]:
    """The rows of a table."""
    path = packaged_folder("configs") / "tables" / f"{table}.yaml"
    return GridConfig.model_validate(yaml.safe_load(path.read_text())).rows


def all_ablations() -> list[Arm]:
    """Every row of every table of ablations that is not just its system, and not an earlier row under another name."""
    found: list[Arm] = []
    for table in ABLATIONS:
        for row in rows_of(table):
            arm = find_arm(f"{table}/{row.name}")
            if arm.changes and not any((a.system, a.changes, a.of) == (arm.system, arm.changes, arm.of) for a in found):
                found.append(arm)
    return found
