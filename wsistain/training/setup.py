"""What a run needs before its first step, and what identifies it."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsistain.config import TrainConfig, dump_yaml
from wsistain.data.annotation import annotate_patches, mask_folder
from wsistain.data.layouts import PatchRef, split_report
from wsistain.data.patches import Look, check_patches, load_patches, read_pair
from wsistain.data.pictures import resize
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.markers import Marker, parse_markers
from wsistain.networks.facts import facts_of
from wsistain.runtime.files import local_path, reporting, write_json, write_text
from wsistain.systems import find_system
from wsistain.systems.base import Reversible, SystemConfig
from wsistain.training.samples import SheetRow, sheet_rows
from wsistain.training.schedule import Length
from wsistain.weights.file import Header

TINY_STEPS = 4
TINY_LONGEST = 64
MEASURED_PATCHES = 64
_FREE = {"log_every", "sample_every", "checkpoint_every", "device", "licence"}  # may change between resumes
_FREE_DATA = {"root", "workers", "names"}  # of names the digest of patches tells
_WEIGHTS = ("weights.safetensors", "weights.ihc-to-he.safetensors")
_OURS = (*_WEIGHTS, "metrics.jsonl", "config.yaml", "data.json", "samples", "checkpoint", "tensorboard")


@dataclass(frozen=True)
class Job:
    """A run's material, read and checked.

    markers : what is stained for; several only where the system takes many.
    options : the system's configuration.
    patches : what is trained on.
    rows    : held-out patches for the sample sheets.
    sizes   : (h, w) of the patches as stored.
    report  : counts and slides of the split, and leaks.
    """

    markers: tuple[Marker, ...]
    options: SystemConfig
    patches: list[PatchRef]
    rows: list[SheetRow]
    sizes: set[tuple[int, int]]
    report: dict[str, Any]
    is_paired: bool

    @property
    def marker(self) -> Marker:
        """The first marker."""
        return self.markers[0]

    @property
    def n_sources(self) -> int:
        """H&E patches: what an epoch goes through."""
        return sum(p.he is not None for p in self.patches)


def system_options(cfg: TrainConfig, *, tiny: bool) -> SystemConfig:
    """The options of the system of `cfg`, resolved; ConfigError where they, the marker or the batch do not fit."""
    markers, config = parse_markers(cfg.marker), find_system(cfg.system).Config
    if len(markers) > 1 and not config.many_markers:
        raise ConfigError(f"system {cfg.system} is trained for one marker, found {cfg.marker}: name one of them")
    if len(markers) > 1 and cfg.data.pairing != "weak":
        raise ConfigError(f"several markers ({cfg.marker}) need pairs: set data.pairing to weak")
    options: SystemConfig = config.tiny(cfg.options) if tiny else config.preset(cfg.preset, cfg.options)
    options.check_batch(cfg.batch_size)
    return options


def gather(cfg: TrainConfig, output: Path, *, tiny: bool, rank: int) -> Job:
    """The run's material; every fault of data and options shows here, before anything is built or written.

    Only lists of unreadable patches and automatic masks may be written. Raises ConfigError or DataError.
    """
    markers, options = parse_markers(cfg.marker), system_options(cfg, tiny=tiny)
    patches, held_out = (
        [replace(p, marker=m.name) for m in markers for p in load_patches(cfg.data, m, split)]
        for split in ("train", "val")
    )
    sizes = usable_sizes(cfg, options, patches, output / f"unreadable{rank or ''}.txt")
    for marker in markers:
        own = [p for p in patches if p.marker == marker.name]
        options = options.measured(marker, _some_pairs(cfg, own), network_mpp(cfg, sizes))
    return Job(
        markers,
        options,
        annotated(cfg, options, patches, output),
        sheet_rows(held_out, cfg.data),
        sizes,
        split_report(patches, held_out),
        cfg.data.pairing == "weak",
    )


def _some_pairs(cfg: TrainConfig, patches: Sequence[PatchRef]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """H&E and IHC of at most `MEASURED_PATCHES` patches spread over all, resized as in training."""
    whole = [p for p in patches if p.he is not None and p.ihc is not None]
    for at in np.unique(np.linspace(0, len(whole) - 1, min(len(whole), MEASURED_PATCHES)).round().astype(int)):
        edge = cfg.data.load_px
        pair = [p if edge is None or p is None else resize(p, edge, edge) for p in read_pair(whole[at])]
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def tiny_config(cfg: TrainConfig, options: type[SystemConfig]) -> TrainConfig:
    """`cfg` cut down to a smoke run: small crops, at most two patches a step, a handful of steps, no workers.

    A length of at most 64 steps that was asked for is kept.
    """
    crop = min(cfg.data.crop_px, options.tiny_crop_px)
    load = None if cfg.data.load_px is None else round(cfg.data.load_px * crop / cfg.data.crop_px)
    steps = cfg.steps if cfg.steps is not None and cfg.steps <= TINY_LONGEST else TINY_STEPS
    return cfg.model_copy(
        update={
            "data": cfg.data.model_copy(update={"crop_px": crop, "load_px": load, "workers": 0}),
            "batch_size": min(cfg.batch_size, 2),
            "steps": steps,
            "log_every": 1,
            "sample_every": steps,
            "checkpoint_every": min(cfg.checkpoint_every, max(1, steps // 2)),
        }
    )


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


def usable_sizes(
    cfg: TrainConfig, options: SystemConfig, patches: Sequence[PatchRef], listing: Path
) -> set[tuple[int, int]]:
    """The sizes (h, w) of the patches.

    Raises DataError where files cannot be read (all of them are written into `listing`), where patches are smaller
    than the crop, or where patches to be resized differ in size.
    """
    check = check_patches(patches, is_paired=cfg.data.pairing == "weak")
    if check.unreadable:
        listing.parent.mkdir(parents=True, exist_ok=True)
        write_text(listing, "".join(f"{u.path}\t{u.why}\n" for u in check.unreadable))
        first = ", ".join(str(u) for u in check.unreadable[:3])
        raise DataError(
            f"{len(check.unreadable)} files of {len(patches)} patches cannot be used: {first}"
            f"{' ...' if len(check.unreadable) > 3 else ''}; all of them are listed in {listing}"
        )
    smallest = min(min(size) for size in check.sizes)
    if cfg.data.load_px is None and smallest < cfg.data.crop_px:
        raise DataError(f"patches of {smallest} px are smaller than the crop {cfg.data.crop_px}: lower data.crop_px")
    if cfg.data.load_px is not None and len(check.sizes) > 1:
        found = ", ".join(f"{h} x {w}" for h, w in sorted(check.sizes)[:3])
        raise DataError(f"data.load_px needs patches of one size, found {found}; set it to null")
    return set(check.sizes)


def annotated(cfg: TrainConfig, options: SystemConfig, patches: list[PatchRef], output: Path) -> list[PatchRef]:
    """`patches` with automatic masks where the system's options have `automatic_masks()` and give settings for them.

    The masks are kept in `annotation/` beside the patches, or in the run's folder where that cannot be written.
    Patches that have masks of their own (data.masks), or no pairs to take them from, stay as they are.
    """
    settings = options.automatic_masks()
    if settings is None or cfg.data.masks is not None or cfg.data.pairing != "weak":
        return patches
    root = Path(cfg.data.root).expanduser()
    parent = (root if os.access(root, os.W_OK) else output) / "annotation"
    folder = mask_folder(parent, f"{cfg.data.layout}-{cfg.marker}-train", settings)
    return annotate_patches(patches, folder, settings, workers=max(cfg.data.workers, 1))


def network_mpp(cfg: TrainConfig, sizes: set[tuple[int, int]]) -> float:
    """um per px of what the network sees: the stored patches', or coarser where they are resized first."""
    if cfg.data.load_px is None:
        return cfg.data.mpp
    return round(cfg.data.mpp * max(next(iter(sizes))) / cfg.data.load_px, 6)


def look_of(cfg: TrainConfig, length: Length, per_epoch: int) -> Look:
    """How the configuration has patches cut; `per_epoch` steps are one pass over them."""
    first_decay_step = -(-length.epochs * length.steps // (length.epochs + length.decay_epochs))
    return Look(
        crop_px=cfg.data.crop_px,
        load_px=cfg.data.load_px,
        flip=cfg.data.flip,
        stain_jitter=cfg.data.stain_jitter,
        shrink_from_epoch=first_decay_step // per_epoch if cfg.data.shrink_in_decay else None,
    )


def lasting_values(cfg: TrainConfig) -> dict[str, Any]:
    """What of `cfg` changes a run's numbers: all but where the patches lie, the device and how often it writes."""
    values = cfg.model_dump(mode="json", exclude=_FREE)
    values["data"] = {k: v for k, v in values["data"].items() if k not in _FREE_DATA}
    return values


def run_identity(cfg: TrainConfig, job: Job, tiny: bool, n_processes: int) -> dict[str, Any]:
    """What must be the same for a run to go on: everything that changes its numbers."""
    values = lasting_values(cfg)
    values["options"] = job.options.model_dump(mode="json")
    digest = hashlib.sha256("\n".join(p.name for p in job.patches).encode()).hexdigest()[:16]
    return {**values, "tiny": tiny, "processes": n_processes, "patches": f"{len(job.patches)} names, sha256 {digest}"}


def describe_data(cfg: TrainConfig, patches: Sequence[PatchRef]) -> str:
    """The training data in words, for the weights' header; no path of this machine."""
    slides = {p.slide for p in patches if p.slide is not None}
    origin = f" of {len(slides)} slides" if slides else ""
    return (
        f"{len(patches)} {cfg.data.layout} patches{origin} from {Path(cfg.data.root).name}, pairing {cfg.data.pairing}"
    )


def header_of(cfg: TrainConfig, system: Any, job: Job) -> Header:
    """The weights' header, but for the step; ConfigError where the network cannot take crops of that size."""
    facts = facts_of(system.generator())
    multiple, crop = facts.size_multiple, cfg.data.crop_px
    if crop % multiple:
        near = max(multiple, round(crop / multiple) * multiple)
        raise ConfigError(
            f"data.crop_px {crop} is not a multiple of {multiple}, as {cfg.system} needs; {near} would be"
        )
    if crop < facts.least_px:
        raise ConfigError(f"data.crop_px {crop} is less than the {facts.least_px} px that {cfg.system} needs")
    return Header(
        system=cfg.system,
        options=system.header_options(),
        markers=[marker.name for marker in job.markers],
        mpp=network_mpp(cfg, job.sizes),
        tile_px=facts.tile_px or crop,
        size_multiple=multiple,
        halo_px=facts.halo_px,
        norm=facts.norm,
        training_data=describe_data(cfg, job.patches),
        licence=cfg.licence,
    )


def reverse_header(header: Header, system: Reversible) -> Header:
    """The header of the weights that go from IHC to H&E, made from that of the forward ones."""
    facts = facts_of(system.reverse_generator())
    return header.model_copy(
        update={
            "direction": "ihc-to-he",
            "options": system.reverse_header_options(),
            "size_multiple": facts.size_multiple,
            "halo_px": facts.halo_px,
            "norm": facts.norm,
        }
    )


def write_record(cfg: TrainConfig, output: Path, job: Job) -> None:
    """`config.yaml` (everything resolved: it trains the same run again) and `data.json` (the split, and what the marker is)."""
    resolved = cfg.model_copy(update={"options": job.options.model_dump(mode="json")})
    write_text(output / "config.yaml", dump_yaml(resolved))
    write_json(output / "data.json", {**job.report, "marker": job.marker.facts()}, indent=1)


def summary(cfg: TrainConfig, job: Job, length: Length, start: int, n_processes: int, device: str) -> str:
    """What is about to happen, in a line or two."""
    report = job.report
    text = (
        f"{cfg.system} ({cfg.preset}), {cfg.marker}: "
        f"{report['train_patches']} patches of {report['train_slides']} slides, "
        f"{length.steps} steps of {cfg.batch_size * n_processes} on {device} "
        f"({n_processes} process{'es' if n_processes > 1 else ''}, {cfg.precision})"
    )
    text += f", from step {start}" if start else ""
    shared, unknown = report["slides_in_both"], report["patches_without_slide"]
    if shared:
        text += f"\nleak: {len(shared)} slides lie in both training and held-out patches ({', '.join(shared[:3])})"
    if unknown:
        text += f"\n{unknown} patches have no slide in their name: leaks between splits cannot be checked"
    return text
