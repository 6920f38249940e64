"""The file beside an output that keeps the norm statistics of its slide."""

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from wsistain.networks.slide_norm import NormField
from wsistain.runtime.files import replacing


def save_norm(path: Path, field: NormField) -> None:
    """Write a field in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = {k: np.ascontiguousarray(v) for k, v in field.nodes.items()}
    with replacing(path) as part:
        save_file(nodes, str(part), {"spacing": repr(field.spacing)})


def load_norm(path: Path) -> NormField:
    """The field in a file that `save_norm` wrote."""
    with safe_open(str(path), framework="numpy") as file:
        spacing = float(file.metadata()["spacing"])
    return NormField(load_file(str(path)), spacing)
