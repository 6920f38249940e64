"""Where a run that is not resumed takes its first numbers from: weights of another run, all its networks, its optimisers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsistain.config import TrainConfig
from wsistain.errors import ConfigError, OutputError, WeightsError
from wsistain.markers import Marker
from wsistain.networks.facts import AroundBase
from wsistain.networks.layers import unfolded_state
from wsistain.published.tensors import check_finite, check_fit, load_into
from wsistain.systems.base import System
from wsistain.training.checkpoint import find_checkpoints, read_state, restore_optimizers
from wsistain.weights.file import Header, load_tensors, read_header
from wsistain.weights.find import find_weights


@dataclass(frozen=True)
class Origin:
    """What a run began from, in words ("" for nothing), and hashes of the slides which that was trained on.

    The run's own weights have seen them too, so that `evaluate` must know of them.
    """

    words: str = ""
    slides: tuple[str, ...] = ()


def begin_from(cfg: TrainConfig, system: System, marker: Marker) -> Origin:
    """Put what `cfg.start_from` names into a system that was just built; returns what it was.

    With `start_with` "weights" that is the network that stains alone, of any weights file that fits; with "networks"
    every trained tensor of the last checkpoint of a run's folder; with "all" its optimisers too.

    A system that has read weights of its own accord (`options.start_from`) is only told of.

    Raises WeightsError, OutputError or ConfigError where it does not fit, or is not there.
    """
    if cfg.start_from is None:
        own = cfg.options.get("start_from")
        return Origin() if own is None else _told_by(Path(own), f"weights in {Path(own).name}")
    place = Path(cfg.start_from).expanduser()
    if cfg.start_with != "weights":
        return _from_checkpoint(place, system, with_optimizers=cfg.start_with == "all")
    inside = place / "weights.safetensors"
    path = inside if inside.is_file() else find_weights(str(place), marker.name)
    header, tensors = read_header(path), load_tensors(path)
    generator = system.generator()
    if isinstance(generator, AroundBase):
        generator.load_trained(tensors, str(path))
    else:
        load_into(generator, unfolded_state(generator, tensors), str(path))
    return _origin(header)


def _origin(header: Header) -> Origin:
    licence = "" if header.licence == "unstated" else f" (licence {header.licence})"
    words = f"weights of {header.system} for {'/'.join(header.markers)} at step {header.step}{licence}"
    return Origin(words, tuple(header.slides))


def _told_by(path: Path, otherwise: str) -> Origin:
    """What the header of a weights file says; other words where it is none of ours."""
    try:
        return _origin(read_header(path))
    except WeightsError:
        return Origin(otherwise)


def _from_checkpoint(place: Path, system: Any, *, with_optimizers: bool) -> Origin:
    """Every trained tensor, and the optimisers' states on request, of the last checkpoint in a run's folder."""
    found = [place] if (place / "state.json").is_file() else find_checkpoints(place / "checkpoint")
    if not found:
        raise ConfigError(
            f"start_from: {place} holds no checkpoint; name the folder of a run, or use start_with: weights with a file"
        )
    checkpoint = found[-1]
    state = read_state(checkpoint)
    try:
        stored = load_file(str(checkpoint / "parameters.safetensors"))
        own = load_file(str(checkpoint / "process_0.safetensors"))
        moments = load_file(str(checkpoint / "optimizers.safetensors")) if with_optimizers else {}
    except (SafetensorError, OSError) as error:
        raise OutputError(f"{checkpoint} cannot be read ({error}); name another") from None
    tensors: dict[str, Tensor] = {n.removeprefix("parameter/"): t for n, t in stored.items() if n.startswith("param")}
    trained = {n: p for n, p in system.named_parameters() if p.requires_grad}
    check_fit(trained, tensors, str(checkpoint))
    check_finite(tensors, str(checkpoint))
    fitting = {n: t for n, t in own.items() if n in dict(system.named_buffers())}  # statistics, and no replay pools
    try:
        system.load_state_dict({**tensors, **fitting}, strict=False)
        if with_optimizers:
            restore_optimizers(system.optimizers, moments, state["optimizers"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise OutputError(f"{checkpoint} does not fit the system: {str(error).splitlines()[0]}") from None
    kept = "networks and optimisers" if with_optimizers else "networks"
    home = checkpoint.parent.parent
    words = f"{kept} of a run of {state['run'].get('system')} at step {state['step']}"
    return Origin(words, _told_by(home / "weights.safetensors", "").slides)
