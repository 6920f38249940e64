"""Where a run that is not resumed takes its first numbers from: weights of another run, all its networks, its optimisers."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsistain.config import TrainConfig
from wsistain.errors import ConfigError, OutputError
from wsistain.markers import Marker
from wsistain.networks.facts import AroundBase
from wsistain.networks.layers import unfolded_state
from wsistain.published.tensors import check_finite, check_fit, load_into
from wsistain.systems.base import System
from wsistain.training.checkpoint import find_checkpoints, read_state, restore_optimizers
from wsistain.weights.file import load_tensors, read_header
from wsistain.weights.find import find_weights


def begin_from(cfg: TrainConfig, system: System, marker: Marker) -> str:
    """Put what `cfg.start_from` names into a system that was just built; returns what it was, in words ("" for nothing).

    With `start_with` "weights" that is the network that stains alone, of any weights file that fits; with "networks"
    every trained tensor of the last checkpoint of a run's folder; with "all" its optimisers too.

    Raises WeightsError, OutputError or ConfigError where it does not fit, or is not there.
    """
    if cfg.start_from is None:
        return ""
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
    return f"weights of {header.system} for {'/'.join(header.markers)} at step {header.step}"


def _from_checkpoint(place: Path, system: Any, *, with_optimizers: bool) -> str:
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
    return f"{kept} of a run of {state['run'].get('system')} at step {state['step']}"
