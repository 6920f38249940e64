"""Where published models lie on this machine. Nothing is downloaded: what is missing is named, with the command
that fetches it.

Looked at in this order: the path itself, the folder named by the environment variable WSISTAIN_MODELS, and the
cache of the hub (or of torch.hub).
"""

import os
from importlib.util import find_spec
from pathlib import Path

from wsistain.errors import WeightsError

MODELS_VARIABLE = "WSISTAIN_MODELS"


def _models_folder() -> Path | None:
    value = os.environ.get(MODELS_VARIABLE)
    return Path(value) if value else None


def find_hub_folder(name: str, *probes: str) -> Path:
    """The folder of the hub model `name` ("owner/model") or the local folder `name` that holds one of the files `probes`.

    An earlier probe is wanted more than a later one: it is looked for everywhere first, in every snapshot of the hub's
    cache too (`main` first), since a file can lie in another one than the newest. Raises WeightsError with the command
    that fetches the model.
    """
    folders = [Path(name)]
    models = _models_folder()
    if models is not None:
        folders += [models / name, models / name.rpartition("/")[2]]
    folders += _snapshots(name)
    for probe in probes:
        for folder in folders:
            if (folder / probe).is_file():
                return folder
    wanted = " or ".join(probes)
    if Path(name).is_dir():
        raise WeightsError(f"{name} is not a folder of the wanted model: it holds no {wanted}")
    raise WeightsError(
        f"the model {name} is not on this machine: fetch it with 'hf download {name}', "
        f"or set {MODELS_VARIABLE} to a folder that holds {name.rpartition('/')[2]}/{wanted}"
    )


def _snapshots(name: str) -> list[Path]:
    """The snapshots of the hub model `name` in the hub's cache, that of `main` first; none where it is no hub name."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return []
    place = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    main = place / "refs" / "main"
    newest = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    found = [folder for folder in sorted((place / "snapshots").glob("*")) if folder.is_dir()]
    return sorted(found, key=lambda folder: folder.name != newest)


def find_torch_file(file_name: str, url: str) -> Path:
    """The file `file_name` of torch's own model collection; WeightsError with the command that fetches `url`."""
    import torch

    models = _models_folder()
    folders = [Path(torch.hub.get_dir()) / "checkpoints", *([models] if models is not None else [])]
    for folder in reversed(folders):
        if (folder / file_name).is_file():
            return folder / file_name
    raise WeightsError(
        f"{file_name} is not on this machine: fetch it with "
        f"'python -c \"import torch; torch.hub.load_state_dict_from_url(\\'{url}\\')\"', "
        f"or set {MODELS_VARIABLE} to the folder that holds it"
    )


def find_lpips_file(net: str) -> Path:
    """The `lpips` package's linear weights v0.1 for `net` ("vgg", "alex"), from WSISTAIN_MODELS or the package itself.

    The package is looked at, not imported. Raises WeightsError with the command that installs it.
    """
    relative = Path("weights") / "v0.1" / f"{net}.pth"
    models = _models_folder()
    folders = [models / "lpips"] if models is not None else []
    spec = find_spec("lpips")
    if spec is not None and spec.submodule_search_locations:
        folders += [Path(place) for place in spec.submodule_search_locations]
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    raise WeightsError(
        f"the weights of LPIPS ({net}) are not on this machine: fetch them with 'pip install lpips', "
        f"or set {MODELS_VARIABLE} to a folder that holds lpips/{relative.as_posix()}"
    )
