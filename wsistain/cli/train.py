"""`wsistain train`: train one system from a configuration file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from wsistain.runtime.say import say


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
        bool, typer.Option("--resume", help="Go on exactly where the last checkpoint was written.")
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

    Several processes: torchrun --nproc-per-node 4 -m wsistain train cut --output runs/cut_er
    """
    from wsistain.errors import ConfigError
    from wsistain.packaged import table_grid, training_config

    # One configuration or one grid, and the folder of its run.
    if (config is None) == (grid is None):
        raise ConfigError("give a configuration, as in 'wsistain train cut', or --grid, and not both")
    if rows and grid is None:
        raise ConfigError("--row belongs to --grid")
    chosen = training_config(config) if config is not None else table_grid(Path(str(grid)))
    folder = output if output is not None else Path("runs") / chosen.stem

    # Packages that only training needs, asked for by name before anything is read.
    try:
        import accelerate  # noqa: F401
        import tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'wsistain[train]'") from None
    is_first = os.environ.get("RANK", "0") == "0"  # one line, not one a process

    # A grid: its rows one after another.
    if grid is not None:
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
    from wsistain.config import TrainConfig, load_config
    from wsistain.training.loop import train as run_training

    weights = run_training(
        load_config(TrainConfig, chosen, overrides or ()), folder, tiny=tiny, resume=resume, overwrite=overwrite
    )
    if is_first:
        say(f"weights: {weights}")


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command()(train)
