"""Grids: the rows of a paper's table as training runs, one folder a row and marker.

A grid file names a base configuration and, row by row, what differs from it; docs/tables.md describes it. Every row is
resolved and checked before the first one starts. Finished rows are left alone, so the same command goes on after an
interruption; a row whose folder holds another run is refused.
"""

import copy
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from wsistain.config import Strict, TrainConfig, apply_overrides, keys_of, read_yaml, validate
from wsistain.errors import ConfigError, OutputError, TrainingError
from wsistain.evaluation.metrics import METRICS
from wsistain.markers import find_marker
from wsistain.packaged import training_config
from wsistain.runtime.files import reporting, write_json
from wsistain.systems import find_system, system_class
from wsistain.training import setup
from wsistain.training.folder import lasting_values
from wsistain.training.loop import train
from wsistain.weights.file import load_network, load_tensors, read_header, save_weights

GRID_FILE = "grid.json"
ROW_FILE = "row.json"
_TAKEN = ("identity", "mean_colour", "demo")  # rows that `evaluate` adds, and a built-in name


class GridRow(Strict):
    """One row of a table."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", description="of its folder")
    label: str | None = Field(None, description="how the table calls it; None: the name")
    base: str | None = Field(None, description="training configuration; None: the grid's")
    set: dict[str, Any] = Field(default_factory=dict, description="keys of the configuration, nested or dotted")
    of: str | None = Field(None, description="not trained: the weights of that row under this row's options")
    published: dict[str, list[float | None]] = Field(
        default_factory=dict, description="what the paper prints, marker to one number a metric"
    )

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in _TAKEN:
            raise ValueError(f"{name} is a row of every evaluation; choose another name")
        return name


class GridConfig(Strict):
    """A grid file."""

    title: str
    base: str | None = Field(None, description="training configuration: shipped name, or a file beside the grid's")
    set: dict[str, Any] = Field(default_factory=dict, description="keys that all rows share")
    markers: list[str] = Field(default_factory=list, description="each row is trained for each; none: the base's own")
    metrics: list[str] = Field(min_length=1, description="columns of the table, as `evaluate` calls them")
    plus_minus: bool = Field(False, description="print the standard deviation over pictures, as some papers do")
    rows: list[GridRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> "GridConfig":
        names: dict[str, str] = {}
        for row in self.rows:
            if row.name.casefold() in names:
                raise ValueError(f"rows {names[row.name.casefold()]} and {row.name} would share a folder")
            if row.of is not None and row.of not in names.values():
                raise ValueError(f"row {row.name} is of {row.of!r}, which is no earlier row")
            if row.base is None and self.base is None:
                raise ValueError(f"row {row.name} has no base, and the grid has none")
            wrong = [m for m, values in row.published.items() if len(values) != len(self.metrics)]
            if wrong:
                raise ValueError(
                    f"row {row.name}: published.{wrong[0]} needs {len(self.metrics)} numbers, one a metric"
                )
            names[row.name.casefold()] = row.name
        return self


@dataclass(frozen=True)
class RowPlan:
    """A row for one marker, resolved; `folder` below the grid's is `<marker>/<row>`."""

    row: GridRow
    marker: str
    config: TrainConfig

    @property
    def folder(self) -> str:
        return f"{self.marker}/{self.row.name}"


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, key by nested key; a dotted key is a nested one."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        first, dot, rest = str(key).partition(".")
        change = {rest: value} if dot else value
        held = result.get(first)
        nested = isinstance(change, Mapping) and (dot or isinstance(held, Mapping))
        result[first] = _over(held if isinstance(held, Mapping) else {}, change) if nested else copy.deepcopy(change)
    return result


def read_grid(
    path: Path, overrides: Sequence[str] = (), *, tiny: bool = False, only: Sequence[str] = ()
) -> tuple[GridConfig, list[RowPlan]]:
    """The grid in `path` and its rows, each resolved and checked as `train` would.

    overrides : "key=value" of `--set`, over all rows.
    only      : names of rows, markers, or `<marker>/<row>`; none: all.

    Raises ConfigError naming the row whose configuration, options, marker or batch do not fit.
    """
    # The file itself, and what may not be set from outside.
    grid = validate(GridConfig, read_yaml(path), str(path))
    unmeasured = [m for m in grid.metrics if m not in METRICS]
    if unmeasured:
        near = difflib.get_close_matches(unmeasured[0], METRICS, n=1, cutoff=0.4)
        raise ConfigError(
            f"{path}: metrics: {unmeasured[0]!r} is not known" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if grid.markers and any(o.partition("=")[0].strip() == "marker" for o in overrides):
        raise ConfigError(f"{path} names its markers, so --set marker does nothing; choose among them with --row")

    # Rows: their base, under the grid's keys, under their own, under those of `--set`.
    known = {row.name for row in grid.rows}
    plans = []
    # Each row is checked as `train` would, so that the last one does not fail after days.
    for row in grid.rows:
        base = row.base or grid.base or ""
        beside = path.parent / base
        values = read_yaml(beside if beside.is_file() else training_config(Path(base)))
        values = apply_overrides(_over(_over(values, grid.set), row.set), overrides)
        for marker in grid.markers or [str(values.get("marker", TrainConfig.model_fields["marker"].default))]:
            name = find_marker(marker).name
            where = f"{path}: row {row.name}, {name}"
            config = validate(TrainConfig, {**values, "marker": name}, where)
            try:
                config = (
                    setup.tiny_config(config, find_system(config.system).Config, keys_of(overrides)) if tiny else config
                )
                setup.system_options(config, tiny=tiny)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            plans.append(RowPlan(row, name, config))
    for row in grid.rows:
        strange = set(row.published) - {p.marker for p in plans if p.row.name == row.name}
        if strange:
            raise ConfigError(f"{path}: row {row.name}: published.{sorted(strange)[0]} is none of the row's markers")
    wanted = set(only)
    unknown = wanted - known - {p.marker for p in plans} - {p.folder for p in plans}
    if unknown:
        raise ConfigError(f"{path} has no row {sorted(unknown)[0]!r}; its rows: {', '.join(r.name for r in grid.rows)}")
    return grid, [p for p in plans if not wanted or wanted & {p.row.name, p.marker, p.folder}]


def _identity(plan: RowPlan, *, tiny: bool) -> dict[str, Any]:
    """What must be the same for a row's folder to be this row's."""
    values = lasting_values(plan.config)
    return {"config": values, "tiny": tiny, "of": plan.row.of}


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{path}.{k}".lstrip("."))]
    return [] if a == b else [path]


def state_of(folder: Path, identity: dict[str, Any]) -> str:
    """ "finished", "begun" or "new"; OutputError where the folder holds another run than `identity`."""
    weights, record = folder / "weights.safetensors", folder / ROW_FILE
    if not record.is_file():
        if weights.exists() or (folder / "checkpoint").exists():
            raise OutputError(f"{folder} holds a run that is not of this grid; choose another --output")
        return "new"
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{record} cannot be read ({error}); delete {folder} and run again") from None
    differing = _differences(known, json.loads(json.dumps(identity)))
    if differing:
        raise OutputError(
            f"{folder} was trained with other settings ({', '.join(differing[:4])}); pass --overwrite to replace it, or "
            "choose another --output"
        )
    return "finished" if weights.is_file() and not read_header(weights).note else "begun"


def train_grid(
    path: Path,
    output: Path,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    tiny: bool = False,
    overwrite: bool = False,
    tell: Any = print,
) -> list[Path]:
    """The weights of every row of the grid in `path`, trained one after another into `output`/<marker>/<row>.

    Rows that are finished are left alone, one that was interrupted goes on. A row whose training fails (a loss that is
    not finite, no memory) does not stop the others: TrainingError names them at the end. `grid.json` in `output` tells
    `evaluate --grid` how the table reads. Raises ConfigError before anything is written, OutputError where a folder
    holds another run.
    """
    # Every row is resolved, and every folder looked at, before the first one is trained.
    grid, plans = read_grid(path, overrides, tiny=tiny, only=only)
    states = {}
    for plan in plans:
        states[plan.folder] = "new" if overwrite else state_of(output / plan.folder, _identity(plan, tiny=tiny))

    # What `evaluate --grid` reads. It names all rows of the grid, also where only some are trained now.
    is_main = os.environ.get("RANK", "0") == "0"
    if is_main:
        with reporting(output, retry="run the same command again"):
            output.mkdir(parents=True, exist_ok=True)
            everything = plans if not only else read_grid(path, overrides, tiny=tiny)[1]
            write_json(output / GRID_FILE, table_facts(grid, everything), indent=1)

    # Row after row; the record in a row's folder says whose it is before training begins.
    weights, failed = [], []
    for number, plan in enumerate(plans, 1):
        folder = output / plan.folder
        place = f"row {number} of {len(plans)}, {plan.folder}"
        if states[plan.folder] == "finished":
            tell(f"{place}: finished already")
        else:
            tell(f"{place}: {'goes on' if states[plan.folder] == 'begun' else 'begins'}")
            if is_main:
                with reporting(folder, retry="run the same command again"):
                    folder.mkdir(parents=True, exist_ok=True)
                    write_json(folder / ROW_FILE, _identity(plan, tiny=tiny), indent=1)
            try:
                if plan.row.of is None:
                    train(
                        plan.config,
                        folder,
                        tiny=tiny,
                        resume=not overwrite,
                        overwrite=overwrite,
                        kept=keys_of(overrides),
                    )
                elif is_main:
                    borrow_weights(plan, output / plan.marker / plan.row.of, folder, tiny=tiny)
            except TrainingError as error:
                failed.append(f"{plan.folder} ({error})")
                tell(f"{place}: failed: {error}")
                continue
        weights.append(folder / "weights.safetensors")
    if failed:
        raise TrainingError(f"{len(failed)} of {len(plans)} rows failed: {'; '.join(failed)}")
    return weights


def borrow_weights(plan: RowPlan, source: Path, folder: Path, *, tiny: bool) -> None:
    """The weights of the row in `source` under the options of `plan`: what differs only when it stains.

    Raises TrainingError where those are not finished or do not fit.
    """
    path = source / "weights.safetensors"
    if not path.is_file() or read_header(path).note:
        raise TrainingError(f"the weights of {source.name} are not finished")
    markers = tuple(find_marker(m) for m in read_header(path).markers)
    system = system_class(plan.config.system)(setup.system_options(plan.config, tiny=tiny), markers[0])
    header = read_header(path).model_copy(update={"options": system.header_options()})
    target = folder / "weights.safetensors"
    save_weights(target, header, load_tensors(path))
    load_network(target)


def table_facts(grid: GridConfig, plans: Sequence[RowPlan]) -> dict[str, Any]:
    """What the table needs to be written: title, columns, rows in order with their folders and published numbers."""
    rows = [
        {
            "name": row.name,
            "label": row.label or row.name,
            "folders": {p.marker: p.folder for p in plans if p.row.name == row.name},
            "published": row.published,
        }
        for row in grid.rows
    ]
    return {"title": grid.title, "metrics": grid.metrics, "plus_minus": grid.plus_minus, "rows": rows}
