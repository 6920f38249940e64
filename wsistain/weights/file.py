"""Weights on disk: safetensors with a header that says everything `run` needs.

One file a generator. The header key `wsistain` holds a JSON `Header`; the tensors are the staining network's own
state dict. Nothing is ever unpickled.
"""

import hashlib
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from wsistain import __version__
from wsistain.config import Strict, validate
from wsistain.errors import ConfigError, WeightsError
from wsistain.optics.familiar import Familiar
from wsistain.optics.feature_bank import FeatureBank
from wsistain.runtime.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".safetensors"
MOST_HEADER = 1 << 20
MOST_HALO = 1024
MOST_BUFFERS = 1 << 26
"""Most numbers that a network may hold beside its trained tensors."""


AROUND_BASES = ("cyclegan_turbo", "pix2pix_turbo", "ot_stainnet", "unistainnet", "histdist")
"""Systems whose files hold what was trained around a base model that lies elsewhere: their size is the base's."""


class TrainedOn(Strict):
    """The patches that a network learned from, as far as `evaluate` must know them to measure it on the same data set.

    mpp        : um per px of the patches as stored.
    val_share  : share of the patients that was held out, and `split_seed` which; None where the data set has a split.
    """

    layout: str = Field(max_length=100)
    mpp: float = Field(ge=0.05, le=20)
    val_share: float | None = Field(None, gt=0, lt=1)
    split_seed: int | None = Field(None, ge=0)


class Header(Strict):
    """What a weights file says of itself (design: one file, nothing else needed).

    options       : fields of the system's network, enough for its `generator_network(options)` to rebuild it.
    tile_px       : edge of the tile the network was trained for, px at `mpp`.
    size_multiple : tile edges must be multiples of this.
    halo_px       : receptive-field radius where it is finite and known, else None.
    norm          : as in `networks.facts.NetworkFacts`, which also says `size_multiple` and `halo_px`.
    direction     : "he-to-ihc" or its reverse.
    familiar      : what the training pictures look like; None where it was not kept.
    features      : what the network itself sees in them; None where it was not kept.
    slides        : of each slide that was trained on a hash of its name (`data.splits.slide_hash`); none: not known.
    """

    format: Literal[1] = 1
    system: str = Field(max_length=100)
    options: dict[str, Any] = Field(default_factory=dict)
    markers: list[Annotated[str, Field(max_length=100)]] = Field(min_length=1, max_length=100)
    mpp: float = Field(ge=0.05, le=20)
    tile_px: int = Field(ge=8, le=16384)
    size_multiple: int = Field(1, ge=1, le=1024)
    halo_px: int | None = Field(None, ge=0, le=MOST_HALO)
    norm: Literal["instance", "tile", "frozen"] = "instance"
    direction: Literal["he-to-ihc", "ihc-to-he"] = "he-to-ihc"
    training_data: str = Field("unstated", max_length=4000)
    trained_on: TrainedOn | None = None
    slides: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=20_000)
    step: int = Field(0, ge=0, le=10**12)
    wsistain_version: str = Field(__version__, max_length=100)
    licence: str = Field("unstated", max_length=4000)
    note: str = Field("", max_length=4000)
    familiar: Familiar | None = None
    features: FeatureBank | None = None

    @field_validator("options")
    @classmethod
    def _options_are_small(cls, options: dict[str, Any]) -> dict[str, Any]:
        check_options(options)
        return options


def make_header(**values: Any) -> Header:
    """A header of `values`; ConfigError naming the first that cannot be, as an mpp of 1000."""
    return validate(Header, values, "header of the weights")


def stated_halo(radius: int | None) -> int | None:
    """The radius of a receptive field as a header states it: None past what any run would throw away on each side."""
    return None if radius is None or radius > MOST_HALO else radius


def check_options(options: Any, depth: int = 0) -> None:
    """ValueError where the options of a network are no plain values, or larger than those of any network can be.

    What they build is checked against the tensors later; this keeps a number from being a loop or an allocation first.
    """
    if depth > 6:
        raise ValueError("options are nested too deep")
    if isinstance(options, dict | list | tuple):
        if len(options) > 200:
            raise ValueError(f"{len(options)} options at one place; wanted 200 at most")
        items = options.items() if isinstance(options, dict) else enumerate(options)
        for name, value in items:
            if name != "seed" or not isinstance(value, int):
                check_options(value, depth + 1)
    elif isinstance(options, str):
        if len(options) > 4000:
            raise ValueError(f"an option of {len(options)} letters; wanted 4000 at most")
    elif isinstance(options, float) and not math.isfinite(options):
        raise ValueError(f"an option is {options}")
    elif isinstance(options, int | float) and abs(options) > 65536 and not isinstance(options, bool):
        raise ValueError(f"an option is {reprlib.repr(options)}; wanted 65536 at most")
    elif options is not None and not isinstance(options, int | float):
        raise ValueError(f"an option is a {type(options).__name__}")


def save_weights(path: Path, header: Header, tensors: "Mapping[str, Tensor]") -> None:
    """Write a weights file in one move: `tensors` (name to tensor, saved contiguous on the CPU) under `header`."""
    from safetensors.torch import save_file

    from wsistain.published.tensors import check_finite

    check_finite(tensors, str(path))
    # Cloned, since safetensors refuses tensors that share memory.
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
    # What it holds comes from anywhere: its length first, then JSON, then each value.
    if "wsistain" not in metadata:
        raise WeightsError(
            f"{path} has no wsistain header; convert published checkpoints with 'wsistain weights import'"
        )
    if len(metadata["wsistain"]) > MOST_HEADER:
        raise WeightsError(f"the header of {path} is damaged: {len(metadata['wsistain'])} letters")
    try:
        values = json.loads(metadata["wsistain"])
    except (ValueError, RecursionError):
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


def read_outlines(path: Path) -> "dict[str, Tensor]":
    """The tensors of a weights file by name without their numbers (on torch's meta device). Raises WeightsError."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error})") from None
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def load_network(path: Path, sampling: Mapping[str, Any] | None = None) -> "tuple[nn.Module, Header]":
    """The staining network of a weights file (eval mode, CPU, float32) and its header.

    sampling : options of a diffusion model's staining in place of those of the same name in the header.

    The network maps float (b, 3, h, w) in [-1, 1] to the same shape and range. Raises WeightsError.
    """
    from wsistain.networks.facts import AroundBase
    from wsistain.published.tensors import load_into
    from wsistain.systems import find_stainer

    header = read_header(path)
    outlines = read_outlines(path)
    try:
        build, options = find_stainer(header.system).generator_network, header.options
        if sampling:
            options = {**options, "sampling": {**options.get("sampling", {}), **sampling}}
        # Built without memory first: only a network of the file's own size is made in earnest.
        if header.system not in AROUND_BASES:
            _check_described(lambda: build(options), header, outlines, str(path))
        network = build(options)
    except (ConfigError, TypeError, ValueError, KeyError, LookupError, RuntimeError, ArithmeticError) as error:
        raise WeightsError(f"the header of {path} describes no network that can be built: {error}") from None
    if isinstance(network, AroundBase):
        network.load_trained(load_tensors(path), str(path))
    else:
        load_into(network, load_tensors(path), str(path), may_lack=())
    return network.eval(), header


def _check_described(
    build: "Callable[[], nn.Module]", header: Header, outlines: "Mapping[str, Tensor]", where: str
) -> None:
    """WeightsError unless the network of a header holds just the tensors of its file; costs no memory of their size."""
    from wsistain.networks.facts import facts_of
    from wsistain.published.tensors import check_fit

    network = described_network(build, outlines, where)
    check_fit(network.state_dict(), outlines, where)
    if sum(buffer.numel() for buffer in network.buffers()) > MOST_BUFFERS:
        raise WeightsError(f"the header of {where} describes a network larger than its file")
    radius = facts_of(network).halo_px
    if radius is not None and header.halo_px is not None and radius > header.halo_px:
        raise WeightsError(
            f"the header of {where} is damaged: it says a receptive field of {header.halo_px} px, its network has {radius}"
        )


def described_network(build: "Callable[[], nn.Module]", tensors: "Mapping[str, Tensor]", where: str) -> "nn.Module":
    """The network that `build` makes, on torch's meta device; WeightsError once it is larger than a file of `tensors`.

    Numbers in a file say how wide and deep a network is, and a hundred bytes can ask for all memory, or for a loop
    without end. So every parameter is counted as it is made, and making ends when there are more than in the file.
    """
    import threading

    import torch

    left = [2 * len(tensors) + 64, 2 * sum(tensor.numel() for tensor in tensors.values()) + 4096]
    thread = threading.get_ident()

    def count(module: Any, name: str, parameter: Any) -> None:
        if parameter is not None and threading.get_ident() == thread:
            left[0] -= 1
            left[1] -= parameter.numel()
            if min(left) < 0:
                raise WeightsError(f"the header of {where} describes a network larger than its file")

    handle = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return build()
    finally:
        handle.remove()
