"""Where published models lie on this machine. Nothing is downloaded: what is missing is named, with the command
that fetches it.

Looked at in this order: the path itself, the folder named by the environment variable WSISTAIN_MODELS, our own folder
(`nets` in $WSISTAIN_HOME or in the user's cache), and the caches of the hub, of torch.hub and of the package lpips.
"""

import os
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wsistain.errors import ConfigError, WeightsError

MODELS_VARIABLE = "WSISTAIN_MODELS"
_OLD_VARIABLE = "WSISTAIN_NETS"


@dataclass(frozen=True)
class NetFile:
    """A published file of weights: its name (torchvision's names end in the first bytes of the SHA-256) and address.

    names : others under which the same file is known.
    """

    file_name: str
    url: str
    names: tuple[str, ...] = ()

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name to look for, the first one ours."""
        return self.file_name, str(Path(self.file_name).with_suffix(".safetensors")), *self.names

    def fetch_command(self, folder: Path) -> str:
        """The shell command that puts the file into `folder`."""
        return f"curl -L --create-dirs -o {shlex.quote(str(folder / self.file_name))} {self.url}"


_TORCHVISION = "https://download.pytorch.org/models/"
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"


def _torchvision(file_name: str) -> NetFile:
    return NetFile(file_name, _TORCHVISION + file_name)


def _lpips(net: str) -> NetFile:
    inside = f"weights/v0.1/{net}.pth"
    return NetFile(f"lpips_{net}.pth", f"{_LPIPS}{net}.pth", (f"lpips/{inside}", inside, f"{net}.pth"))


NET_FILES: dict[str, NetFile] = {
    "resnet50": _torchvision("resnet50-0676ba61.pth"),
    "inception_fid": NetFile("pt_inception-2015-12-05-6726825d.pth", _FID + "pt_inception-2015-12-05-6726825d.pth"),
    "inception_torchvision": _torchvision("inception_v3_google-0cc3c7bd.pth"),
    "alexnet": _torchvision("alexnet-owt-7be5be79.pth"),
    "vgg16": _torchvision("vgg16-397923af.pth"),
    "lpips_alex": _lpips("alex"),
    "lpips_vgg": _lpips("vgg"),
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
    """Where other programs keep such files: torch.hub, and the package lpips (looked at, not imported)."""
    import torch

    spec = find_spec("lpips")
    packages = spec.submodule_search_locations if spec is not None else None
    return [Path(torch.hub.get_dir()) / "checkpoints", *(Path(place) for place in packages or ())]


def find_net(name: str, folder: Path | None = None) -> Path | None:
    """The file of the network called `name` in NET_FILES, None where it is not on this machine.

    folder : looked at alone, where one is given.
    """
    folders = [folder] if folder is not None else [*model_folders(), *_caches()]
    candidates = (place / file_name for place in folders for file_name in NET_FILES[name].all_names)
    return next((path for path in candidates if path.is_file()), None)


def require_net(name: str) -> Path:
    """The file of the network called `name` in NET_FILES; WeightsError with the command that fetches it."""
    path = find_net(name)
    if path is None:
        net, folder = NET_FILES[name], model_folders()[0]
        raise WeightsError(
            f"{net.file_name} is not on this machine: fetch it with '{net.fetch_command(folder)}', "
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
