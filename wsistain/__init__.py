"""Virtual staining of whole-slide images: H&E in, IHC out.

The public names are loaded on first use, so that `import wsistain` and the command line stay fast
and never import torch for nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` finds, told to type checkers and editors
    from wsistain.errors import WsistainError as WsistainError
    from wsistain.evaluation.report import evaluate as evaluate
    from wsistain.generators.load import load_generator as load_generator
    from wsistain.pipeline.run import run as run
    from wsistain.slide.reader import open_slide as open_slide
    from wsistain.training.loop import train as train
    from wsistain.viewing.notebook import view as view

__version__ = "0.1.0"

_PUBLIC = {
    "open_slide": "wsistain.slide.reader",
    "run": "wsistain.pipeline.run",
    "load_generator": "wsistain.generators.load",
    "train": "wsistain.training.loop",
    "evaluate": "wsistain.evaluation.report",
    "view": "wsistain.viewing.notebook",
    "WsistainError": "wsistain.errors",
}

_EXTRAS = {"train": "train"}
"""What a plain installation does not hold, and the extra that brings it."""

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wsistain' has no attribute {name!r}")
    try:
        return getattr(import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        if name not in _EXTRAS or (error.name or "").startswith("wsistain"):
            raise
        sentence = f"wsistain.{name} needs {error.name}: pip install 'wsistain[{_EXTRAS[name]}]'"
        raise import_module("wsistain.errors").ConfigError(sentence) from None


def __dir__() -> list[str]:
    return sorted(__all__)
