"""Which file of weights a name means: a path, a folder, an installed or shipped name, or a hub id."""

from pathlib import Path

from wsistain.errors import WeightsError
from wsistain.published.catalogue import installed_folder
from wsistain.runtime.files import refuse_url
from wsistain.weights.file import SUFFIX, read_header

LAST, BEST = "weights.safetensors", "weights.best.safetensors"
"""The weights of a training run: as of its last checkpoint, and those that did best on held-out patches."""

DEMO_NOTE = "DEMONSTRATION only: trained on synthetic tissue, not on patients' slides"


def shipped_folder() -> Path:
    """Folder of the weights that are part of the package."""
    return Path(__file__).parents[1] / "shipped"


def run_weights(folder: Path) -> Path:
    """The weights of a run's folder: the best where it was validated, else the last."""
    return folder / (BEST if (folder / BEST).is_file() else LAST)


def chosen_of_run(name: str) -> Path | None:
    """The file that `RUN@best` or `RUN@last` means, None for other names; WeightsError where the run has none."""
    run, _, which = name.rpartition("@")
    if which not in ("best", "last") or not Path(run).is_dir() or Path(name).exists():
        return None
    chosen = Path(run) / {"best": BEST, "last": LAST}[which]
    if not chosen.is_file():
        raise WeightsError(f"{run} holds no {chosen.name}; best weights need a run with val_every")
    return chosen


def _demo_file(marker: str) -> Path:
    return shipped_folder() / f"demo-{marker.lower()}.safetensors"


def find_weights(name: str, marker: str, direction: str = "he-to-ihc") -> Path:
    """The weights file that `name` means for `marker`.

    `name` is a file, a folder (with `<anything>.safetensors` for the marker), the folder of a training run (its best
    weights where it was validated, else its last; `RUN@best` and `RUN@last` choose), an installed or shipped name, or a hub id (`owner/repository`, looked up in the local hub cache).
    Raises WeightsError with what was looked for.
    """
    if name == "demo":
        return _demo_file(marker)
    # What lies there wins over what is installed under that name.
    path = Path(name)
    if path.is_file():
        return path
    chosen = chosen_of_run(name)
    if chosen is not None:
        return chosen
    if path.is_dir() and direction == "he-to-ihc" and (path / LAST).is_file() and (path / BEST).is_file():
        return run_weights(path)
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        headers = {f: read_header(f) for f in files}
        fitting = [f for f, h in headers.items() if marker in h.markers and h.direction == direction]
        if len(fitting) == 1:
            return fitting[0]
        if not files:
            raise WeightsError(f"the folder {name} holds no {SUFFIX} file")
        found = ", ".join(f"{f.name} ({'/'.join(h.markers)}, {h.direction})" for f, h in list(headers.items())[:3])
        problem = "none" if not fitting else f"{len(fitting)} files"
        raise WeightsError(
            f"{problem} of the weights in {name} fit marker {marker} {direction}: found {found}; name the file"
        )
    installed = _installed(name, marker)
    if installed is not None:
        return installed
    refuse_url(name)
    raise WeightsError(
        f"weights {name!r} were not found: no such file or folder, not built in (demo, lpstain, identity), not installed; "
        "see 'wsistain weights list'"
    )


def _installed(name: str, marker: str) -> Path | None:
    places = (installed_folder(), shipped_folder())  # what was installed wins: the shipped names are few and documented
    candidates = [place / f"{stem}{SUFFIX}" for place in places for stem in (name, f"{name}-{marker.lower()}")]
    if "/" in name and not Path(name).is_absolute() and ".." not in name:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for file in (f"{marker}{SUFFIX}", f"{marker.lower()}{SUFFIX}", f"weights{SUFFIX}"):
            try:
                hit = try_to_load_from_cache(name, file)
            except HFValidationError:
                break
            if isinstance(hit, str):
                candidates.append(Path(hit))
    return next((c for c in candidates if c.is_file()), None)
