"""Reading feature networks in the form in which their authors published them.

The nets here keep the published key names, so a file fits when every tensor has its place and shape. Files are
given by path; nothing is downloaded.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsistain.errors import WeightsError

_WRAPPERS = ("state_dict", "params_ema", "model")
_PREFIXES = ("module.",)
_DAMAGE = (
    SafetensorError,
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    pickle.UnpicklingError,
)
_COUNTERS = ".num_batches_tracked"


def read_published(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a published checkpoint by name, on the CPU, without its wrappers and `module.` prefixes.

    path : a .safetensors file, or a torch file that holds tensors only (read with `weights_only=True`).

    Raises WeightsError when the file is missing, damaged, runs code, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file of weights at {path}")
    values: object
    try:
        if path.suffix == ".safetensors":
            values = load_file(str(path))
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        first = (str(error).splitlines() or ["it is cut off"])[0]
        raise WeightsError(f"{path} cannot be read as weights ({first})") from None
    for key in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise WeightsError(f"{path} holds no named tensors; wanted a state dict")
    tensors = dict(values)
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: t for name, t in tensors.items()}
    return tensors


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], where: str, *, ignore: Sequence[str] = ()) -> None:
    """Copy `tensors` into `network`, every one matched by name and shape.

    ignore : prefixes of published tensors that the network has no use for (classifiers, auxiliary heads).

    Batch counters of normalisation layers may be absent, as in older files. Raises WeightsError naming `where` and
    the first tensors that are missing, surplus or of another shape; the network is then left as it was.
    """
    given = {n: t for n, t in tensors.items() if not n.startswith(tuple(ignore))} if ignore else dict(tensors)
    wanted = network.state_dict()
    missing = sorted(n for n in wanted if n not in given and not n.endswith(_COUNTERS))
    surplus = sorted(n for n in given if n not in wanted)
    shapes = [
        f"{n} is {tuple(given[n].shape)}, wanted {tuple(wanted[n].shape)}"
        for n in sorted(wanted.keys() & given.keys())
        if given[n].shape != wanted[n].shape
    ]
    faults = []
    if missing:
        faults.append(f"missing {_first(missing)}")
    if surplus:
        faults.append(f"surplus {_first(surplus)}")
    if shapes:
        faults.append(f"shapes differ: {_first(shapes)}")
    if faults:
        raise WeightsError(f"{where} does not fit the network: {'; '.join(faults)}")
    network.load_state_dict({**wanted, **given})
