"""`wsistain train`: train one system from a configuration file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from wsistain.config import TrainConfig


def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="The name of a shipped configuration (cut, usigan, ...), or a file."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run.  [default: runs/<name of CONFIG>]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the file; repeatable.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A smoke run in seconds: smallest networks, small crops, a few steps.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on exactly where the last checkpoint was written, with the run's own settings (CONFIG not needed).",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in the folder first.")] = False,
    grid: Annotated[
        Path | None,
        typer.Option("--grid", help="Train a table instead: a grid that ships (usigan-table-4, ...), or a file."),
    ] = None,
    markers: Annotated[
        str | None,
        typer.Option(
            "--markers", metavar="ER,PR,...", help="One network for each, one after another, in OUTPUT/<marker>."
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List what can be trained: paper, memory, time, needs; then stop.")
    ] = False,
    help_options: Annotated[
        str | None,
        typer.Option("--help-options", metavar="SYSTEM", help="Print every key with default and meaning; then stop."),
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="With --grid: only this row or marker; repeatable.")
    ] = None,
) -> None:
    """Train one system, or the rows of a table; write weights that `wsistain run` loads.

    Example: wsistain train cut --output runs/cut_er --set data.root=MIST --set marker=ER

    A table: wsistain train --grid usigan-table-4 --output runs/table-4 --set data.root=MIST (again to go on)

    Going on: wsistain train --resume --output runs/cut_er --set steps=40000

    All markers: wsistain train cut --markers ER,PR,Ki67,HER2 --output runs/cut --set data.root=MIST

    Several processes: torchrun --nproc-per-node 4 -m wsistain train cut --output runs/cut_er
    """
    from wsistain.errors import ConfigError
    from wsistain.packaged import table_grid, training_config

    if listed or help_options is not None:
        _print_choices(help_options)
        return
    # One configuration or one grid, or a run to go on with, and the folder of its run.
    if config is None and grid is None and not resume:
        raise ConfigError("give a configuration, as in 'wsistain train cut', or --grid")
    if config is not None and grid is not None:
        raise ConfigError("give a configuration, as in 'wsistain train cut', or --grid, and not both")
    if config is None and grid is None and output is None:
        raise ConfigError("--resume without a configuration needs --output, the folder of the run to go on with")
    if rows and grid is None:
        raise ConfigError("--row belongs to --grid")
    chosen = table_grid(grid) if grid is not None else None if config is None else training_config(config)
    folder = output if output is not None else Path("runs") / str(chosen and chosen.stem)

    # Packages that only training needs, asked for by name before anything is read.
    try:
        import accelerate  # noqa: F401
        import tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'wsistain[train]'") from None

    if grid is not None and chosen is not None:
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other")
        _train_grid(chosen, folder, overrides or [], rows or [], tiny=tiny, overwrite=overwrite)
        return
    _train_runs(config, chosen, folder, markers, overrides or [], tiny=tiny, resume=resume, overwrite=overwrite)


def _is_first() -> bool:
    """Whether this process speaks for all of a run: one line, not one a process."""
    return os.environ.get("RANK", "0") == "0"


def _train_grid(
    grid: Path, folder: Path, overrides: list[str], rows: list[str], *, tiny: bool, overwrite: bool
) -> None:
    """The rows of a grid, one after another."""
    from wsistain.training.grid import train_grid

    tell = note if _is_first() else (lambda text: None)
    trained = train_grid(grid, folder, overrides=overrides, only=rows, tiny=tiny, overwrite=overwrite, tell=tell)
    if _is_first():
        say(f"{len(trained)} rows in {folder}; put them into a table: wsistain evaluate --grid {folder} --data DATA")


def _train_runs(
    config: Path | None,
    chosen: Path | None,
    folder: Path,
    markers: str | None,
    overrides: list[str],
    *,
    tiny: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """A single run, or one for each marker; TrainingError at the end where some markers failed."""
    from wsistain.config import keys_of
    from wsistain.errors import TrainingError
    from wsistain.training.loop import train as run_training

    failed = []
    for place, extra in _runs(folder, markers, overrides):
        cfg, changes, is_own = _settings(config, chosen, place, extra, resume=resume, tiny=tiny)
        is_tiny = tiny and not is_own  # the run's own settings are those of a smoke run already, if it is one
        try:
            weights = run_training(cfg, place, tiny=is_tiny, resume=resume, overwrite=overwrite, kept=keys_of(changes))
        except TrainingError as error:
            if markers is None:
                raise
            failed.append(f"{place} ({error})")
            continue
        if _is_first():
            say(f"weights: {weights}")
    if failed:
        raise TrainingError(f"{len(failed)} markers failed: {'; '.join(failed)}")


def _runs(folder: Path, markers: str | None, overrides: list[str]) -> list[tuple[Path, list[str]]]:
    """Folder and changes of every run: one, or one a marker."""
    if markers is None:
        return [(folder, overrides)]
    from wsistain.config import keys_of
    from wsistain.errors import ConfigError
    from wsistain.markers import parse_markers

    if "marker" in keys_of(overrides):
        raise ConfigError("give --markers, or --set marker, and not both")
    return [(folder / m.name, [*overrides, f"marker={m.name}"]) for m in parse_markers(markers)]


def _print_choices(system: str | None) -> None:
    """What can be trained, or every key of one system."""
    from wsistain.training.listing import options_of, shipped_configs, table_of

    for line in options_of(system) if system is not None else table_of(shipped_configs()):
        say(line)


def _settings(
    named: Path | None, chosen: Path | None, folder: Path, overrides: list[str], *, resume: bool, tiny: bool
) -> "tuple[TrainConfig, list[str], bool]":
    """The configuration to train, the changes to it, keys written out, and whether it is the run's own, which goes on.

    named : what was typed. chosen : the file it stands for; a file of the user's own is taken as it is.
    """
    from wsistain.config import TrainConfig, load_config, read_yaml
    from wsistain.errors import ConfigError

    def loaded(path: Path) -> "tuple[TrainConfig, list[str]]":
        changes = overrides
        if any(
            "." not in o.partition("=")[0] and o.partition("=")[0].strip() not in TrainConfig.model_fields
            for o in changes
        ):
            from wsistain.training.listing import whole_keys

            given = [o.partition("=")[2].strip() for o in changes if o.partition("=")[0].strip() == "system"]
            changes = whole_keys(changes, given[-1] if given else str(read_yaml(path).get("system")))
        return load_config(TrainConfig, path, changes), changes

    own = folder / "config.yaml"
    is_shipped = named is not None and chosen != named
    if not resume or not own.is_file() or (chosen is not None and not is_shipped):
        if chosen is None:
            raise ConfigError(
                f"{folder} holds no run to go on with (no config.yaml); name a configuration to start one"
            )
        return *loaded(chosen), False
    cfg, changes = loaded(own)
    if chosen is not None:
        system = read_yaml(chosen).get("system")
        if system != cfg.system:
            raise ConfigError(
                f"{folder} holds a run of {cfg.system}, and {named} trains {system}; leave the configuration away to go on "
                "with the run, or choose another --output"
            )
    if os.environ.get("RANK", "0") == "0":
        told = [str(own), *changes, *(["without --tiny, since it has its lengths and sizes already"] if tiny else [])]
        note(f"settings: {', '.join(told)}")
    return cfg, changes, True


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command()(train)
