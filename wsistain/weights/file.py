"""Weights on disk: safetensors with a header that says everything `run` needs.

One file a generator. The header key `wsistain` holds a JSON `Header`; the tensors are the staining network's own
state dict. Nothing is ever unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wsistain import __version__
from wsistain.config import Strict, validate
from wsistain.errors import ConfigError, WeightsError
from wsistain.runtime.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".safetensors"


class Header(Strict):
    """What a weights file says of itself (design: one file, nothing else needed).

    options       : fields of the system's network, enough for its `generator_network(options)` to rebuild it.
    tile_px       : edge of the tile the network was trained for, px at `mpp`.
    size_multiple : tile edges must be multiples of this.
    halo_px       : receptive-field radius where it is finite and known, else None.
    norm          : as in `networks.facts.NetworkFacts`, which also says `size_multiple` and `halo_px`.
    direction     : "he-to-ihc" or its reverse.
    """

    format: Literal[1] = 1
    system: str
    options: dict[str, Any] = Field(default_factory=dict)
    markers: list[str] = Field(min_length=1)
    mpp: float = Field(gt=0)
    tile_px: int = Field(gt=0)
    size_multiple: int = Field(1, gt=0)
    halo_px: int | None = None
    norm: Literal["instance", "tile", "frozen"] = "instance"
    direction: Literal["he-to-ihc", "ihc-to-he"] = "he-to-ihc"
    training_data: str = "unstated"
    step: int = 0
    wsistain_version: str = __version__
    licence: str = "unstated"
    note: str = ""


def save_weights(path: Path, header: Header, tensors: "Mapping[str, Tensor]") -> None:
    """Write a weights file in one move: `tensors` (name to tensor, saved contiguous on the CPU) under `header`."""
    from safetensors.torch import save_file

    from wsistain.published.tensors import check_finite

    check_finite(tensors, str(path))
    clean = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file(clean, str(part), metadata={"wsistain": header.model_dump_json()})
        part.chmod(0o644)  # safetensors makes files that only their owner reads


def read_header(path: Path) -> Header:
    """The header of a weights file; WeightsError when it is missing, damaged, a pickle or of another program."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}; wanted a {SUFFIX} file (see 'wsistain weights list')")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        hint = (
            "; pickled checkpoints are never loaded here: use 'wsistain weights import'"
            if path.suffix in (".pt", ".pth", ".ckpt", ".bin")
            else ""
        )
        raise WeightsError(f"{path} is not a readable safetensors file ({error}){hint}") from None
    if "wsistain" not in metadata:
        raise WeightsError(
            f"{path} has no wsistain header; convert published checkpoints with 'wsistain weights import'"
        )
    try:
        values = json.loads(metadata["wsistain"])
    except (json.JSONDecodeError, RecursionError):
        raise WeightsError(f"the header of {path} is damaged: not JSON") from None
    try:
        return validate(Header, values, f"header of {path}")
    except ConfigError as error:
        raise WeightsError(str(error)) from None


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Every tensor of a weights file, on the CPU; WeightsError where it is damaged or holds what is not finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from wsistain.published.tensors import check_finite

    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error})") from None
    check_finite(tensors, str(path))
    return tensors


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def load_network(path: Path) -> "tuple[nn.Module, Header]":
    """The staining network of a weights file (eval mode, CPU, float32) and its header.

    The network maps float (b, 3, h, w) in [-1, 1] to the same shape and range. Raises WeightsError.
    """
    from wsistain.networks.facts import AroundBase
    from wsistain.published.tensors import load_into
    from wsistain.systems import find_system

    header = read_header(path)
    try:
        network = find_system(header.system).generator_network(header.options)
    except (ConfigError, TypeError, ValueError, KeyError) as error:
        raise WeightsError(f"the header of {path} describes no network that can be built: {error}") from None
    if isinstance(network, AroundBase):
        network.load_trained(load_tensors(path), str(path))
    else:
        load_into(network, load_tensors(path), str(path), may_lack=())
    return network.eval(), header
