"""Options of trained weights that say how they stain, changed in a copy of the file: nothing is trained again."""

from collections.abc import Sequence
from pathlib import Path

from wsistain.config import apply_overrides
from wsistain.errors import ConfigError, WeightsError
from wsistain.networks.facts import facts_of
from wsistain.systems import find_stainer
from wsistain.systems.base import Adjustable
from wsistain.weights.file import described_network, load_tensors, read_header, save_weights, stated_halo


def set_options(weights: Path, changes: Sequence[str], output: Path) -> None:
    """Write weights once more with other options; tensors stay as they are.

    changes : "KEY=VALUE" of options that the system allows to be changed after training (`systems.base.Adjustable`).
    output  : another file.

    Raises ConfigError and WeightsError; nothing is written then.
    """
    header = read_header(weights)
    if output.exists():
        raise WeightsError(f"{output} exists; name another file")
    module = find_stainer(header.system)
    if not isinstance(module, Adjustable):
        raise ConfigError(f"{weights} ({header.system}) has no options that can be changed after training")
    options = module.adjusted(header.options, apply_overrides({}, changes))

    # How far the network looks may have changed with them.
    tensors = load_tensors(weights)
    network = described_network(lambda: module.generator_network(options), tensors, str(weights))
    update = {"options": options, "halo_px": stated_halo(facts_of(network).halo_px)}
    save_weights(output, header.model_copy(update=update), tensors)
