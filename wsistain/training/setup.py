"""What a run needs before its first step: its options and its material, read and checked."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsistain.config import TrainConfig
from wsistain.data.annotation import annotate_patches, mask_folder
from wsistain.data.filter import filter_patches
from wsistain.data.layouts import PatchRef, split_report
from wsistain.data.patches import Look, check_patches, load_patches, read_pair
from wsistain.data.pictures import resize_short
from wsistain.data.sides import check_sides
from wsistain.data.stated import mpp_of, stated_version
from wsistain.data.unused import Unused, by_reason, unused_files
from wsistain.errors import ConfigError, DataError
from wsistain.markers import Marker, parse_markers
from wsistain.runtime.files import write_text
from wsistain.systems import find_system
from wsistain.systems.base import SystemConfig
from wsistain.training.samples import SheetRow, sheet_rows
from wsistain.training.schedule import Length

TINY_STEPS = 4
TINY_LONGEST = 64
MEASURED_PATCHES = 64


@dataclass(frozen=True)
class Material:
    """A run's material, read and checked.

    config  : the configuration, with the scale of the patches where it did not name it.
    markers : what is stained for; several only where the system takes many.
    options : the system's configuration.
    patches : what is trained on.
    held_out: patches that are not trained on.
    rows    : a few of them for the sample sheets.
    sizes   : (h, w) of the patches as stored.
    unused  : files beside the patches that are none of them.
    report  : counts and slides of the split, and leaks.
    """

    config: TrainConfig
    markers: tuple[Marker, ...]
    options: SystemConfig
    patches: list[PatchRef]
    held_out: list[PatchRef]
    rows: list[SheetRow]
    sizes: set[tuple[int, int]]
    report: dict[str, Any]
    is_paired: bool
    unused: list[Unused]

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


def gather(cfg: TrainConfig, output: Path, *, tiny: bool, rank: int) -> Material:
    """The run's material; every fault of data and options shows here, before anything is built or written.

    Only lists of unreadable patches and automatic masks may be written. Raises ConfigError or DataError.
    """
    markers, options = parse_markers(cfg.marker), system_options(cfg, tiny=tiny)
    patches, held_out = (
        [replace(p, marker=m.name) for m in markers for p in load_patches(cfg.data, m, split)]
        for split in ("train", "val")
    )
    unused = unused_files([*patches, *held_out], deep=cfg.data.layout == "ihc4bc")
    patches, left_out = filter_patches(patches, cfg.data.filter)
    cfg = _with_scale(cfg, [*patches, *held_out])
    version = stated_version([*patches, *held_out])
    sizes = usable_sizes(cfg, options, patches, output / f"unreadable{rank or ''}.txt")
    for marker in markers:
        own = [p for p in patches if p.marker == marker.name]
        check_sides(own, marker, any_stain=None if cfg.data.any_stain else "pass --set data.any_stain=true")
        options = options.measured(marker, _some_pairs(cfg, own), network_mpp(cfg, sizes))
    report = {
        **split_report(patches, held_out),
        "mpp": cfg.data.mpp,
        **({} if version is None else {"phantom": version}),
        "not_used": by_reason(unused),
        "left_out": left_out,
    }
    return Material(
        cfg,
        markers,
        options,
        annotated(cfg, options, patches, output),
        held_out,
        sheet_rows(held_out, cfg.data),
        sizes,
        report,
        cfg.data.pairing == "weak",
        unused,
    )


def _with_scale(cfg: TrainConfig, patches: Sequence[PatchRef]) -> TrainConfig:
    """`cfg` with the um per px of the patches, from what stands beside them where it names none. Raises DataError."""
    if cfg.data.mpp is not None:
        return cfg
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"mpp": mpp_of(patches, cfg.data.layout)})})


def _some_pairs(cfg: TrainConfig, patches: Sequence[PatchRef]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """H&E and IHC of at most `MEASURED_PATCHES` patches spread over all, resized as in training."""
    whole = [p for p in patches if p.he is not None and p.ihc is not None]
    for at in np.unique(np.linspace(0, len(whole) - 1, min(len(whole), MEASURED_PATCHES)).round().astype(int)):
        edge = cfg.data.load_px
        pair = [p if edge is None or p is None else resize_short(p, edge) for p in read_pair(whole[at])]
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def tiny_config(cfg: TrainConfig, options: type[SystemConfig], kept: Collection[str] = ()) -> TrainConfig:
    """`cfg` cut down to a smoke run: small crops, at most two patches a step, a handful of steps, no workers.

    kept : dotted keys that stay as they are, because somebody asked for them. A length of at most 64 steps stays anyway.
    """
    crop = min(cfg.data.crop_px, options.tiny_crop_px)
    crop = cfg.data.crop_px if "data.crop_px" in kept else crop
    load = None if cfg.data.load_px is None else round(cfg.data.load_px * crop / cfg.data.crop_px)
    steps = cfg.steps if cfg.steps is not None and cfg.steps <= TINY_LONGEST else TINY_STEPS
    steps = cfg.steps if cfg.steps is not None and "steps" in kept else steps
    data = {"crop_px": crop, "load_px": load, "workers": 0}
    values = {
        "batch_size": min(cfg.batch_size, 2),
        "steps": steps,
        "log_every": 1,
        "sample_every": steps,
        "checkpoint_every": min(cfg.checkpoint_every, max(1, steps // 2)),
    }
    data = {key: value for key, value in data.items() if f"data.{key}" not in kept}
    values = {key: value for key, value in values.items() if key not in kept}
    return cfg.model_copy(update={"data": cfg.data.model_copy(update=data), **values})


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
    if cfg.data.mpp is None:
        raise ValueError("the scale of the patches is not resolved")
    if cfg.data.load_px is None:
        return cfg.data.mpp
    return round(cfg.data.mpp * min(next(iter(sizes))) / cfg.data.load_px, 6)


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
