"""The folder of a run: which files are ours, whose turn it is, and what identifies the run in it."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from wsistain.config import TrainConfig, dump_yaml
from wsistain.errors import OutputError
from wsistain.runtime.files import local_path, reporting, write_json, write_text
from wsistain.training.setup import Material

_WEIGHTS = ("weights.safetensors", "weights.ihc-to-he.safetensors")
_OURS = (*_WEIGHTS, "metrics.jsonl", "config.yaml", "data.json", "samples", "checkpoint", "tensorboard")
_FREE = {"log_every", "sample_every", "checkpoint_every", "device", "licence"}  # may change between resumes
_FREE_DATA = {"root", "workers", "names"}  # of names the digest of patches tells


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """OutputError naming --resume and --overwrite where a run is in `output` and neither was given; writes nothing."""
    local_path(output)
    if resume and overwrite:
        raise OutputError("--resume and --overwrite exclude each other")
    present = [name for name in _OURS if (output / name).exists()]
    if present and not (resume or overwrite):
        raise OutputError(
            f"{output} holds a run already ({present[0]}); go on with --resume or replace it with --overwrite"
        )


def claim_output(output: Path, *, overwrite: bool) -> None:
    """Make the output folder; with `overwrite` delete what an earlier run wrote there, and nothing else."""
    with reporting(output, retry="train again"):
        for name in _OURS if overwrite else ():
            path = output / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        output.mkdir(parents=True, exist_ok=True)


def write_record(cfg: TrainConfig, output: Path, material: Material) -> None:
    """`config.yaml` (everything resolved: it trains the same run again) and `data.json` (the split, and what the marker is)."""
    resolved = cfg.model_copy(update={"options": material.options.model_dump(mode="json")})
    write_text(output / "config.yaml", dump_yaml(resolved))
    write_json(output / "data.json", {**material.report, "marker": material.marker.facts()}, indent=1)


def lasting_values(cfg: TrainConfig) -> dict[str, Any]:
    """What of `cfg` changes a run's numbers: all but where the patches lie, the device and how often it writes."""
    values = cfg.model_dump(mode="json", exclude=_FREE)
    values["data"] = {k: v for k, v in values["data"].items() if k not in _FREE_DATA}
    return values


def run_identity(cfg: TrainConfig, material: Material, tiny: bool, n_processes: int) -> dict[str, Any]:
    """What must be the same for a run to go on: everything that changes its numbers."""
    values = lasting_values(cfg)
    values["options"] = material.options.model_dump(mode="json")
    digest = hashlib.sha256("\n".join(p.name for p in material.patches).encode()).hexdigest()[:16]
    return {
        **values,
        "tiny": tiny,
        "processes": n_processes,
        "patches": f"{len(material.patches)} names, sha256 {digest}",
    }
