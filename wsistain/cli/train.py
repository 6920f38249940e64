"""`wsistain train`: train one system from a configuration file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsistain.runtime.say import say

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
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="With --grid: only this row or marker; repeatable.")
    ] = None,
) -> None:
    """Train one system, or the rows of a table; write weights that `wsistain run` loads.

    Example: wsistain train cut --output runs/cut_er --set data.root=MIST --set marker=ER

    A table: wsistain train --grid usigan-table-4 --output runs/table-4 --set data.root=MIST (again to go on)

    Going on: wsistain train --resume --output runs/cut_er --set steps=40000

    Several processes: torchrun --nproc-per-node 4 -m wsistain train cut --output runs/cut_er
    """
    from wsistain.errors import ConfigError
    from wsistain.packaged import table_grid, training_config

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
    is_first = os.environ.get("RANK", "0") == "0"  # one line, not one a process

    # A grid: its rows one after another.
    if grid is not None and chosen is not None:
        from wsistain.training.grid import train_grid

        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other")
        tell = say if is_first else (lambda text: None)
        changes = overrides or ()
        trained = train_grid(
            chosen, folder, overrides=changes, only=rows or (), tiny=tiny, overwrite=overwrite, tell=tell
        )
        tell(f"{len(trained)} rows in {folder}; put them into a table: wsistain evaluate --grid {folder} --data DATA")
        return

    # A single run.
    from wsistain.config import keys_of
    from wsistain.training.loop import train as run_training

    changes = overrides or []
    cfg = _settings(config, chosen, folder, changes, resume=resume)
    weights = run_training(cfg, folder, tiny=tiny, resume=resume, overwrite=overwrite, kept=keys_of(changes))
    if is_first:
        say(f"weights: {weights}")


def _settings(
    named: Path | None, chosen: Path | None, folder: Path, overrides: list[str], *, resume: bool
) -> "TrainConfig":
    """The configuration to train; one that goes on is the run's own, unless a file of the user's is named.

    named : what was typed. chosen : the file it stands for.
    """
    from wsistain.config import TrainConfig, load_config
    from wsistain.errors import ConfigError

    own = folder / "config.yaml"
    is_shipped = named is not None and chosen != named
    if not resume or not own.is_file() or (chosen is not None and not is_shipped):
        if chosen is None:
            raise ConfigError(
                f"{folder} holds no run to go on with (no config.yaml); name a configuration to start one"
            )
        return load_config(TrainConfig, chosen, overrides)
    cfg = load_config(TrainConfig, own, overrides)
    if chosen is not None:
        from wsistain.config import read_yaml

        system = read_yaml(chosen).get("system")
        if system != cfg.system:
            raise ConfigError(
                f"{folder} holds a run of {cfg.system}, and {named} trains {system}; leave the configuration away to go on "
                "with the run, or choose another --output"
            )
    if os.environ.get("RANK", "0") == "0":
        say(f"settings: {own}" + (f", {', '.join(overrides)}" if overrides else ""))
    return cfg


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command()(train)
