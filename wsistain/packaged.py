"""Files that travel with the package: beside it in a checkout, inside it in a wheel."""

from pathlib import Path

from wsistain.errors import ConfigError


def packaged_folder(name: str) -> Path:
    """The folder `name` (`workflows`, `configs`) of this installation; ConfigError where it is missing."""
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{name} is not part of this installation; install wsistain from its wheel or a checkout")


def training_config(name: Path) -> Path:
    """A training configuration: the file, or with a bare name such as `cut` the one that ships with wsistain.

    Raises ConfigError for a bare name that is neither.
    """
    return _shipped(name, "train", "training configuration")


def table_grid(name: Path) -> Path:
    """A grid of training runs: the file, or with a bare name such as `usigan-table-4` the one that ships with wsistain.

    Raises ConfigError for a bare name that is neither.
    """
    return _shipped(name, "tables", "grid")


def _shipped(name: Path, folder: str, what: str) -> Path:
    if name.is_file() or name.suffix or name.parent != Path():
        return name  # a wrong path gets its message where it is read
    shipped = {path.stem: path for path in sorted((packaged_folder("configs") / folder).glob("*.yaml"))}
    if name.name in shipped:
        return shipped[name.name]
    raise ConfigError(f"no file {name}, and no {what} of that name; there are {', '.join(shipped)}")
