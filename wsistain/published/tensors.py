"""Tensors in the form in which others published them: the one reader of foreign files, and the one that matches names.

Files are given by path; nothing is downloaded and no code in them is run. The networks here keep the published names,
so a file fits when every tensor has its place and shape.
"""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsistain.errors import WeightsError

_WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "model", "netG", "net_G", "G", "generator")
_PREFIXES = ("module.", "netG.", "net_G.", "_orig_mod.")
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
    AssertionError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""What torch's and safetensors' readers raise on bytes that are no file of theirs."""

_SLACK = 1 << 20
_DEPTH = 8
_COUNTERS = (".num_batches_tracked",)


def read_published(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a published file by name, on the CPU, floating ones as float32, wrappers and `module.` taken off.

    path : a safetensors file or a torch file (.pth, .pt, .bin, .ckpt); the content decides, not the name.

    Raises WeightsError when the file is missing, damaged, something else (a web page, an archive), would have to run
    code, holds more than named tensors, or a number that is not finite.
    """
    path = Path(path)
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in _unwrapped(read_content(path), path)}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    check_finite(tensors, str(path))
    return tensors


def read_content(path: Path) -> Any:
    """What a torch or safetensors file holds, as it is nested there, on the CPU; WeightsError as in `read_published`."""
    kind = _kind_of(path)
    try:
        if kind == "safetensors":
            return load_file(str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old pickle protocols, which it reads all the same
            with torch.serialization.safe_globals(_plain_beside()):
                content = torch.load(str(path), map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        # Torch's own advice is to read the file again and run what is in it: only what it found is passed on.
        code = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
        if code:
            raise WeightsError(
                f"{path} cannot be read as weights without running code: it holds {code.group(1)}; wanted tensors alone"
            ) from None
        found = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path} cannot be read as weights: damaged, cut off or of another program ({found[0][:200]}); fetch it again"
        ) from None

    _check_plain(content, path)
    return content


@lru_cache(maxsize=1)
def _plain_beside() -> list[Any]:
    """What checkpoints hold beside their tensors and what no code can hide in: arguments of a run, numbers of numpy.

    PathoDuet's, for one, come with a Namespace and a best accuracy. They are made, never called, and left aside.
    """
    import _codecs
    import argparse

    from numpy._core.multiarray import _reconstruct, scalar

    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdUS"]
    older = [(scalar, "numpy.core.multiarray.scalar"), (_reconstruct, "numpy.core.multiarray._reconstruct")]
    return [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        scalar,
        _reconstruct,
        _codecs.encode,
        *dict.fromkeys(kinds),
        *older,
    ]


def _check_plain(content: Any, path: Path) -> None:
    """WeightsError for tensors that no network here holds, or that ask for far more memory than their file holds.

    Few bytes can stand for gigabytes: a tensor may repeat one number, and a sparse one names only what is not zero.
    """
    # Strides of 0 repeat a number without a byte of it in the file.
    left = 4 * path.stat().st_size + _SLACK
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            kinds = {
                "sparse": value.layout != torch.strided,
                "nested": value.is_nested,
                "quantised": value.is_quantized,
                "complex": value.is_complex(),
                "empty (on the meta device)": value.is_meta,
            }
            if any(kinds.values()):
                kind = next(kind for kind, is_so in kinds.items() if is_so)
                raise WeightsError(
                    f"{path} holds more than tensors of plain numbers: {name[:100]} is {kind}; wanted a state dict alone"
                )
            left -= value.numel() * value.element_size()
            if left < 0:
                raise WeightsError(
                    f"{path} asks for far more memory than it holds; save its tensors again with contiguous()"
                )
        elif isinstance(value, Mapping) and depth < _DEPTH:
            waiting += [(str(key), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple) and depth < _DEPTH:
            waiting += [(name, item, depth + 1) for item in value]


def _kind_of(path: Path) -> str:
    """ "safetensors" or "torch", from the first bytes; WeightsError for what is plainly neither."""
    if not path.is_file():
        raise WeightsError(f"there is no file of weights at {path}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read as weights ({error.strerror or error})") from None
    # What a browser or a plain clone saves in place of a large file.
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise WeightsError(f"{path} cannot be read as weights: it is empty; fetch it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise WeightsError(
            f"{path} cannot be read as weights: it is a web page, most often one that asks for a click before the "
            "download; open its address in a browser and save the file itself"
        )
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} cannot be read as weights: it is a pointer of Git LFS; fetch the file itself (git lfs pull)"
        )
    # A safetensors file begins with the length of its JSON header, then the header.
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    if is_safetensors or path.suffix == ".safetensors":
        return "safetensors"
    _check_archive(path)
    return "torch"


def _names_inside(path: Path) -> list[str] | None:
    """Names of the files in a zip archive; None for a file that is none, or whose directory is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _DAMAGE:
        return None


def _check_archive(path: Path) -> None:
    """WeightsError for a zip archive that is not what `torch.save` writes."""
    names = _names_inside(path)
    if names is None:
        return  # torch says what is wrong with it
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > 2 * path.stat().st_size + _SLACK:
            raise WeightsError(f"{path} is packed tighter than torch packs; save it again with torch.save")
    if is_torchscript(path):
        raise WeightsError(f"{path} cannot be read as weights: it is a TorchScript program; wanted a state dict")
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(
            f"{path} cannot be read as weights: it is an archive of other files ({_some(names) or 'none'}); unpack it "
            "and name the one inside"
        )


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive that `torch.jit.save` wrote."""
    return any(name.endswith("constants.pkl") for name in _names_inside(path) or ())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by name, on the CPU, floating ones as float32. Raises WeightsError."""
    try:
        with warnings.catch_warnings():  # the archive's format is old; it is the published one
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable TorchScript archive ({str(error).splitlines()[0]})") from None
    state = module.state_dict()
    tensors = {name: t.detach().float() if t.is_floating_point() else t.detach() for name, t in state.items()}
    check_finite(tensors, str(path))
    return tensors


def _unwrapped(content: Any, path: Path) -> Iterable[tuple[str, Tensor]]:
    """The named tensors inside the dicts that training programs put around them; WeightsError where there are none."""
    while isinstance(content, Mapping):
        inside = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inside:
            break
        content = content[inside[0]]
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no named tensors; wanted a state dict")
    odd = [
        str(name) for name, value in content.items() if not isinstance(value, Tensor) or value.layout != torch.strided
    ]
    if odd:
        raise WeightsError(f"{path} holds more than tensors ({_some(odd)}); wanted a state dict alone")
    return ((str(name), value) for name, value in content.items())


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """WeightsError naming the first tensors with a NaN or an infinity: a network of those stains everything alike."""
    broken = [n for n, t in tensors.items() if (t.is_floating_point() or t.is_complex()) and not t.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{where}: {len(broken)} of {len(tensors)} tensors hold numbers that are not finite ({_some(broken)}); "
            "such a network cannot stain, take weights from before training broke"
        )


def check_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str, *, may_lack: Sequence[str] = ()
) -> None:
    """WeightsError naming `where` and the first tensors that are missing, surplus or of another shape.

    may_lack : endings of names that need not be given.
    """
    missing = sorted(n for n in wanted if n not in given and not n.endswith(tuple(may_lack)))
    surplus = sorted(n for n in given if n not in wanted)
    shapes = [
        f"{n} is {tuple(given[n].shape)}, wanted {tuple(wanted[n].shape)}"
        for n in sorted(wanted.keys() & given.keys())
        if given[n].shape != wanted[n].shape
    ]
    kinds = {"missing ": missing, "surplus ": surplus, "shapes differ: ": shapes}
    faults = [f"{words}{_some(names)}" for words, names in kinds.items() if names]
    if faults:
        raise WeightsError(f"{where} does not fit the network: {'; '.join(faults)}")


def load_into(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    ignore: Sequence[str] = (),
    may_lack: Sequence[str] = _COUNTERS,
) -> None:
    """Copy `tensors` into `network`, every one matched by name and shape.

    ignore   : prefixes of published tensors that the network has no use for (classifiers, auxiliary heads).
    may_lack : endings of names that need not be given; the batch counters of normalisation layers, which older files
               have not, unless said otherwise.

    Raises WeightsError as `check_fit`; the network is then left as it was.
    """
    given = {n: t for n, t in tensors.items() if not n.startswith(tuple(ignore))}
    wanted = network.state_dict()
    check_fit(wanted, given, where, may_lack=may_lack)
    network.load_state_dict({**wanted, **given})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
