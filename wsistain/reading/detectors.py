"""Detectors of nuclei from other packages, each called as its authors call it on a picture of about half a mm.

A detector is named on the command line as `stardist`, `cellpose` or `instanseg`, or with a model: `stardist:MODEL`, where
MODEL is a name that the package knows, or a file or folder. The packages are extras; what they know by name they fetch
themselves, and what they cannot load is one sentence.

Sources: Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018 (StarDist); Pachitariu et al., Cellpose-SAM,
bioRxiv 2025 (Cellpose); Goldsborough et al., InstanSeg, arXiv 2408.15954, 2024.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from wsistain.errors import ConfigError
from wsistain.reading.cells import I32
from wsistain.slide.base import RGB
from wsistain.slide.fingerprint import fingerprint

MPP = 0.5
"""um per px at which all three are shown the H&E: StarDist's and InstanSeg's models of H&E were trained at it."""

Labels = Callable[[RGB], Any]


@dataclass(frozen=True)
class Detector:
    """A detector that is ready. told: what it is, in words; key: what its answers depend on; label: RGB (h, w, 3) to labels."""

    told: str
    key: str
    label: Labels

    def __call__(self, rgb: RGB) -> I32:
        """int32 (h, w), a number on each nucleus of an H&E of `MPP` um per px, 0 elsewhere. Raises ConfigError."""
        try:
            labels = np.squeeze(np.asarray(self.label(rgb)))
        except Exception as error:
            raise ConfigError(
                f"{self.told} failed on a picture of {rgb.shape[1]} x {rgb.shape[0]} px: {_short(error)}"
            ) from error
        if labels.shape != rgb.shape[:2]:
            raise ConfigError(
                f"{self.told} answered with an array of shape {labels.shape}; wanted one number a nucleus, {rgb.shape[:2]}"
            )
        return labels.astype(np.int32)


def is_detector(cells: str | os.PathLike[str]) -> bool:
    """Whether what was given for cells names a detector, and not a file."""
    return str(cells).partition(":")[0] in _LOADERS and not Path(cells).exists()


def load_detector(cells: str) -> Detector:
    """The detector named `stardist`, `cellpose` or `instanseg`, with `:MODEL` after it for another model than its usual one.

    Raises ConfigError where the package or the model is not there.
    """
    name, _, model = cells.partition(":")
    package, module, usual, load = _LOADERS[name]
    model = model or usual
    missing = f"--cells {name} needs the package {{}}; pip install 'wsistain[{name}]'"
    try:
        import_module(module)
    except ImportError as error:
        raise ConfigError(missing.format(error.name or package)) from None
    except Exception as error:  # as torchvision's, beside another build of torch than its own
        raise ConfigError(
            f"{name} is installed and does not start: {_short(error)}; give it an environment in which `import {module}` works, "
            "as one whose torchvision is of the same build as its torch"
        ) from error
    try:
        label = load(model)
    except ImportError as error:
        raise ConfigError(missing.format(error.name or package)) from None
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{name} could not load the model {model!r}: {_short(error)}; name one that it knows, or a file: "
            f"--cells {name}:PATH"
        ) from error
    try:
        told = f"{name} {version(package)}"
    except PackageNotFoundError:
        told = name
    content = fingerprint(Path(model)) if Path(model).exists() else ""
    return Detector(f"{told}, model {model}", f"{told} {model} {content}", label)


def _stardist(model: str) -> Labels:
    """StarDist: a name such as 2D_versatile_he, or the folder of a model."""
    found = import_module("stardist.models").StarDist2D
    folder = Path(model)
    if folder.exists():
        network = found(None, name=folder.name, basedir=str(folder.absolute().parent))
    else:
        network = found.from_pretrained(model)  # tells of a name that it does not know on the screen alone
        if network is None:
            raise ConfigError(f"stardist knows no model {model!r}; name one that it knows, or a folder")

    def label(rgb: RGB) -> Any:
        # By the range of uint8 and not by each picture's own, as StarDist's example of a whole slide does: a picture of
        # glass is not stretched to look like tissue.
        labels, _ = network.predict_instances(rgb.astype(np.float32) / 255, axes="YXC", show_tile_progress=False)
        return labels

    return label


def _cellpose(model: str) -> Labels:
    """Cellpose 4: a name such as cpsam, or the file of a model."""
    import torch

    models = import_module("cellpose.models")
    known = [*models.MODEL_NAMES, *models.get_user_models()]
    if not Path(model).exists() and model not in known:  # it would take its own default and say so in its log alone
        raise ConfigError(
            f"cellpose knows no model {model!r} (it knows {', '.join(known)}); name one of them, or a file"
        )
    network = models.CellposeModel(gpu=torch.cuda.is_available(), pretrained_model=model)
    return lambda rgb: network.eval(rgb, channel_axis=-1)[0]


def _instanseg(model: str) -> Labels:
    """InstanSeg: a name such as brightfield_nuclei, or a TorchScript file."""
    import torch

    found = import_module("instanseg").InstanSeg
    path = Path(model)
    held = torch.jit.load(str(path), map_location="cpu") if path.is_file() else model  # type: ignore[no-untyped-call]
    network = found(held, verbosity=0)

    def label(rgb: RGB) -> Any:
        answer = network.eval_small_image(rgb, pixel_size=MPP, return_image_tensor=False, target="nuclei")
        return answer.detach().cpu().numpy()

    return label


_LOADERS: dict[str, tuple[str, str, str, Callable[[str], Labels]]] = {
    "stardist": ("stardist", "stardist.models", "2D_versatile_he", _stardist),
    "cellpose": ("cellpose", "cellpose.models", "cpsam", _cellpose),
    "instanseg": ("instanseg-torch", "instanseg", "brightfield_nuclei", _instanseg),
}
"""Name to package, its module, usual model, and what loads it."""


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
