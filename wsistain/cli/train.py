"""`wsistain train`: train one system from a configuration file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from wsistain.runtime.say import say


def train(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="The name of a shipped configuration (cut, usigan, ...), or a file."),
    ],
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
) -> None:
    """Train one system; write weights that `wsistain run` loads.

    Example: wsistain train cut --output runs/cut_er --set data.root=MIST --set marker=ER

    Several processes: torchrun --nproc-per-node 4 -m wsistain train cut --output runs/cut_er
    """
    from wsistain.config import TrainConfig, load_config
    from wsistain.errors import ConfigError
    from wsistain.packaged import training_config

    cfg = load_config(TrainConfig, training_config(config), overrides or ())
    folder = output if output is not None else Path("runs") / config.stem
    try:
        import accelerate  # noqa: F401
        import tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"training needs {error.name}: pip install 'wsistain[train]'") from None
    from wsistain.training.loop import train as run_training

    weights = run_training(cfg, folder, tiny=tiny, resume=resume, overwrite=overwrite)
    if os.environ.get("RANK", "0") == "0":  # one line, not one a process
        say(f"weights: {weights}")


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command()(train)
