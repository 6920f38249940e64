"""Published checkpoints from the Hugging Face hub, or from a folder that holds the same files."""

import re
from collections.abc import Sequence
from pathlib import Path

from wsistain.errors import WeightsError
from wsistain.markers import find_marker, known_markers
from wsistain.published.catalogue import PublishedGenerator

_CHECKPOINT = (".pth", ".pt", ".safetensors")
_DATASETS = ("mist", "ihc4bc", "bci")


def _words(path: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", path.lower()))


def choose_file(entry: PublishedGenerator, files: Sequence[str], wanted: str | None = None) -> str:
    """The generator's checkpoint for `entry` among a repository's files.

    `wanted` (the user's --file) or the catalogue decides; else the one file that is a generator's (`net_G` in its name,
    or no discriminator's and no patch network's), names the marker as a word, and no other data set. Raises
    WeightsError listing the candidates when not exactly one fits.
    """
    named = wanted or entry.file
    if named is not None:
        if named in files:
            return named
        raise WeightsError(
            f"{named} is not among the published files: {_some([f for f in files if f.endswith(_CHECKPOINT)])}"
        )
    # Checkpoints that name the marker and no other, generators before critics, of this data set before unnamed ones.
    spellings = {word for marker in entry.markers for word in find_marker(marker).spellings}
    others = {word for m in known_markers().values() if m.name not in entry.markers for word in m.spellings}
    checkpoints = [f for f in files if f.endswith(_CHECKPOINT)]
    generators = [f for f in checkpoints if not re.search(r"net_?(D|F)\b|net_?(D|F)[_.]", Path(f).name)]
    named_g = [f for f in generators if re.search(r"net_?G", Path(f).name)] or generators
    fitting = [f for f in named_g if _words(f) & spellings and not _words(f) & others]
    exact = [f for f in fitting if entry.dataset in _words(f)]
    foreign = {d for d in _DATASETS if d != entry.dataset}
    left = exact or [f for f in fitting if not _words(f) & foreign]
    if len(left) == 1:
        return left[0]
    if not checkpoints:
        raise WeightsError(f"no checkpoint was found where {entry.name} is published; look at {entry.page}")
    count = "none" if not left else f"{len(left)}"
    raise WeightsError(
        f"{count} of the published files can be told to be {entry.name}: {_some(left or checkpoints)}; name one with --file"
    )


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:12]) + (f" and {len(files) - 12} more" if len(files) > 12 else "") if files else "none"


def fetch_checkpoint(entry: PublishedGenerator, *, folder: Path | None = None, file: str | None = None) -> Path:
    """The checkpoint of `entry` on this machine: downloaded with a progress bar, or found in `folder`.

    Raises WeightsError when it cannot be had: published for browsers only, no network, not found.
    """
    if folder is not None:
        if not folder.is_dir():
            raise WeightsError(f"--from {folder} is not a folder")
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        return folder / choose_file(entry, files, file)
    if entry.hub is None:
        raise WeightsError(
            f"{entry.name} can only be fetched with a browser: visit {entry.page}, save the generator's checkpoint "
            f"(*_net_G.pth) and run 'wsistain weights import FILE --as {entry.name}'"
        )
    from huggingface_hub import HfApi, errors, hf_hub_download

    # The hub's errors stand on those of the HTTP library that its version uses, which also reports a missing network.
    network_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        chosen = choose_file(entry, HfApi().list_repo_files(entry.hub), file)
        return Path(hf_hub_download(entry.hub, chosen))
    except (network_error, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{entry.name} could not be downloaded from {entry.hub} ({reason[:200]}); try again, or save the file from "
            f"{entry.page} and run 'wsistain weights import FILE --as {entry.name}'"
        ) from None
