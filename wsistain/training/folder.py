"""The folder of a run: which files are ours, whose turn it is, and what identifies the run in it."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsistain.config import TrainConfig, dump_yaml, read_yaml
from wsistain.data.splits import split_table
from wsistain.errors import ConfigError, OutputError
from wsistain.runtime.files import local_path, reporting, write_json, write_text
from wsistain.runtime.lock import locked
from wsistain.training.setup import Material
from wsistain.weights.find import BEST

_WEIGHTS = ("weights.safetensors", BEST, "weights.ihc-to-he.safetensors")
_OURS = (
    *_WEIGHTS,
    "metrics.jsonl",
    "config.yaml",
    "data.json",
    "not_used.txt",
    "samples",
    "checkpoint",
    "tensorboard",
    "report.html",
)
_FREE = {
    "log_every", "sample_every", "checkpoint_every", "device", "licence", "start_from", "start_with", "val_every",
    "val_patches", "val_metrics", "best_metric", "patience", "trackers", "tracker_options",
}  # fmt: skip
"""Keys that change no number of a run once it has begun."""
_FREE_DATA = {"root", "workers", "names", "split_file", "any_stain"}  # which patches they gave, their digest tells
_FREE_OPTIONS = {"start_from"}
_STEERED = {
    "steps", "epochs", "decay_epochs", "batch_size", "precision", "data.crop_px", "data.flip", "data.stain_jitter",
    "options.turbo_steps", "options.model.checkpointing",
}  # fmt: skip
_STEERED_OPTIONS = re.compile(r"options\.(weights\..+|([a-z_.]*[._])?lr)")


_LENGTH = {"steps", "epochs", "decay_epochs"}


def is_free(key: str) -> bool:
    """Whether a dotted key is no part of a run's identity, though a checkpoint of another release may hold it."""
    group, _, name = key.rpartition(".")
    return name in {"": _FREE, "data": _FREE_DATA, "options": _FREE_OPTIONS}.get(group, ())


def may_steer(key: str) -> bool:
    """Whether a run may go on with another value of this dotted key: what is learnt so far still fits.

    That is its length, its learning rates, the weights of its losses, and what is said to help against NaN and a full
    memory. What was changed when is kept (`history_of`).
    """
    return key in _STEERED or _STEERED_OPTIONS.fullmatch(key) is not None


def check_goes_on(output: Path, history: Sequence[Mapping[str, Any]], start: int, steps: int, *, is_over: bool) -> None:
    """ConfigError where what was set for a run that goes on would be written down, and no step would follow it.

    history : turns of the run as `history_of` tells them. start, steps : what is done, and how long it is to be.
    is_over : whether validation ended it without gain.
    """
    if steps < start:
        raise ConfigError(
            f"the run in {output} has {start} steps already, and {steps} are asked for; set steps (or epochs) for more than "
            f"{start}, or train a shorter one into another --output"
        )
    if start < steps and not is_over:
        return
    idle = [key for turn in history if turn["from_step"] == start for key in turn.get("changes", {})]
    if idle := [key for key in idle if key not in _LENGTH]:
        more = "patience=null lets it go on" if is_over else f"steps={2 * start} makes it longer"
        raise ConfigError(
            f"the run in {output} has ended after {start} steps, so {', '.join(idle[:3])} would change nothing; --set "
            f"{more}, or leave {'it' if len(idle) == 1 else 'them'} away"
        )


def check_origin(output: Path, cfg: TrainConfig) -> None:
    """ConfigError where a run that goes on is told to begin from other weights than those it began from."""
    record = output / "config.yaml"
    own = read_yaml(record) if record.is_file() else {}
    for key, was, now in (
        ("start_from", own.get("start_from"), cfg.start_from),
        ("options.start_from", (own.get("options") or {}).get("start_from"), cfg.options.get("start_from")),
    ):
        if own and now is not None and now != was:
            raise ConfigError(
                f"the run in {output} began from {was or 'nothing'} and goes on from its own checkpoint, so {key} {now} would "
                "change nothing; leave it away, or begin another run from it in another --output"
            )


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """OutputError naming --resume and --overwrite where a run is in `output` and neither was given; writes nothing."""
    local_path(output)
    if resume and overwrite:
        raise OutputError("--resume and --overwrite exclude each other")
    if output.is_dir() and os.environ.get("RANK", "0") == "0":
        with reporting(output, retry="train again"), locked(output, _busy(output)):
            pass
    present = [name for name in _OURS if (output / name).exists()]
    if present and not (resume or overwrite):
        raise OutputError(
            f"{output} holds a run already ({present[0]}); go on with --resume or replace it with --overwrite"
        )


def _busy(output: Path) -> str:
    return f"another process is training into {output}; wait until it ends, stop it, or choose another --output"


@contextmanager
def claim_output(output: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """The output folder, made and held against other runs; with `overwrite` what an earlier run wrote there is gone.

    Raises OutputError where another process holds it, or has begun a run there since `check_output`.
    """
    with reporting(output, retry="train again"):
        output.mkdir(parents=True, exist_ok=True)
    with locked(output, _busy(output)):
        if not (resume or overwrite) and any((output / name).exists() for name in _OURS):
            raise OutputError(f"another run was begun in {output} meanwhile; choose another --output")
        with reporting(output, retry="train again"):
            for name in _OURS if overwrite else ():
                path = output / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        yield


def write_record(cfg: TrainConfig, output: Path, material: Material) -> None:
    """`config.yaml` (everything resolved: it trains the same run again), `data.json` (the split, and what the marker is).

    `split.csv` says of every slide (or patch, where names tell no slide) in which part it is; it serves as
    `data.split_file`. `not_used.txt` names the files beside the patches that are none of them, where there are such.
    """
    resolved = cfg.model_copy(update={"options": material.options.model_dump(mode="json")})
    write_text(output / "config.yaml", dump_yaml(resolved))
    if material.unused:
        write_text(output / "not_used.txt", "".join(f"{u.path}\t{u.why}\n" for u in material.unused))
    write_text(output / "split.csv", split_table(material.patches, material.held_out))
    write_json(output / "data.json", {**material.report, "marker": material.marker.facts()}, indent=1)


def lasting_values(cfg: TrainConfig) -> dict[str, Any]:
    """What of `cfg` changes a run's numbers: all but where the patches lie, the device and how often it writes."""
    values = cfg.model_dump(mode="json", exclude=_FREE)
    values["data"] = {k: v for k, v in values["data"].items() if k not in _FREE_DATA}
    return values


def run_identity(cfg: TrainConfig, material: Material, n_processes: int) -> dict[str, Any]:
    """What must be the same for a run to go on, but for keys that `may_steer`: everything that changes its numbers."""
    values = lasting_values(cfg)
    values["options"] = material.options.model_dump(mode="json", exclude=_FREE_OPTIONS)
    digest = hashlib.sha256("\n".join(p.name for p in material.patches).encode()).hexdigest()[:16]
    # One name is another picture in each version of the phantom; runs of v0 were begun before there were versions.
    version = material.report.get("phantom", "v0")
    return {
        **values,
        "processes": n_processes,
        "patches": f"{len(material.patches)} names, sha256 {digest}"
        + ("" if version == "v0" else f", phantom {version}"),
    }
