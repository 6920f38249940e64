"""What a run writes into the header of its weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsistain.config import TrainConfig
from wsistain.data.layouts import SPLIT_HERE, PatchRef
from wsistain.data.splits import slide_hashes
from wsistain.data.stated import stated_version
from wsistain.errors import ConfigError
from wsistain.networks.facts import facts_of
from wsistain.networks.patchgan import PatchDiscriminator
from wsistain.optics.familiar import make_familiar
from wsistain.systems.base import Reversible
from wsistain.training.bank import spread_over
from wsistain.training.setup import Material, network_mpp
from wsistain.weights.file import Header, TrainedOn, make_header, stated_halo

_MOST_SLIDES = 20_000
"""More than any data set of today has; a header has to stay small."""


def check_crop(cfg: TrainConfig, system: Any) -> None:
    """ConfigError, with one that would do, where a network or a critic of the system cannot take crops of that size."""
    facts = facts_of(system.generator())
    multiple, crop = facts.size_multiple, cfg.data.crop_px
    if crop % multiple:
        near = max(multiple, round(crop / multiple) * multiple)
        raise ConfigError(
            f"data.crop_px {crop} is not a multiple of {multiple}, as {cfg.system} needs; {near} would be"
        )
    critics = [module.least_px for module in system.modules() if isinstance(module, PatchDiscriminator)]
    least = max(facts.least_px, *critics) if critics else facts.least_px
    if crop < least:
        wanted = -(-least // multiple) * multiple
        raise ConfigError(f"data.crop_px {crop} is less than the {least} px that {cfg.system} needs; {wanted} would do")


def with_history(header: Header, history: Sequence[Mapping[str, Any]]) -> Header:
    """A run's header with what it began from and what was changed on its way: after the description of its data, and with
    the slides that its first weights were trained on among its own.
    """
    slides = {*header.slides, *(name for turn in history for name in turn.get("slides", ()))}
    told = header.training_data + _told(history)
    return header.model_copy(update={"training_data": told, "slides": sorted(slides)[:_MOST_SLIDES]})


def _told(history: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"began from {turn['origin']}" for turn in history if turn.get("origin")]
    for turn in history:
        parts += [f"{key} {was} until step {turn['from_step']}" for key, (was, _) in turn.get("changes", {}).items()]
    text = "; ".join(parts)
    return f"; {text[:2000]}" if text else ""


def header_of(cfg: TrainConfig, system: Any, material: Material) -> Header:
    """The weights' header, but for the step; ConfigError for values that no header can hold."""
    facts = facts_of(system.generator())
    multiple, crop = facts.size_multiple, cfg.data.crop_px
    mpp = network_mpp(cfg, material.sizes)
    pictures = spread_over(material.patches, mpp, cfg.data.load_px)
    return make_header(
        system=cfg.system,
        options=system.header_options(),
        markers=[marker.name for marker in material.markers],
        mpp=mpp,
        tile_px=facts.tile_px or crop,
        size_multiple=multiple,
        halo_px=stated_halo(facts.halo_px),
        norm=facts.norm,
        training_data=describe_data(cfg, material.patches),
        trained_on=trained_on(cfg),
        slides=slide_hashes(material.patches)[:_MOST_SLIDES],
        licence=cfg.licence,
        familiar=make_familiar(pictures, mpp),
    )


def reverse_header(header: Header, system: Reversible) -> Header:
    """The header of the weights that go from IHC to H&E, made from that of the forward ones."""
    facts = facts_of(system.reverse_generator())
    return header.model_copy(
        update={
            "direction": "ihc-to-he",
            "options": system.reverse_header_options(),
            "size_multiple": facts.size_multiple,
            "halo_px": stated_halo(facts.halo_px),
            "norm": facts.norm,
        }
    )


def trained_on(cfg: TrainConfig) -> TrainedOn | None:
    """Layout, scale and split of the training data, by which `evaluate` finds the patches that were held out."""
    data = cfg.data
    if data.mpp is None:
        return None
    if data.layout not in SPLIT_HERE or data.split == "file":
        return TrainedOn(layout=data.layout, mpp=data.mpp)
    return TrainedOn(layout=data.layout, mpp=data.mpp, val_share=data.val_share, split_seed=data.split_seed)


def describe_data(cfg: TrainConfig, patches: Sequence[PatchRef]) -> str:
    """The training data in words, for the weights' header; no path of this machine."""
    slides = {p.slide for p in patches if p.slide is not None}
    origin = f" of {len(slides)} slides" if slides else ""
    version = stated_version(patches)
    origin += f" of synthetic tissue (phantom {version})" if version else ""
    return (
        f"{len(patches)} {cfg.data.layout} patches{origin} from {Path(cfg.data.root).name}, pairing {cfg.data.pairing}"
        + (f", split by {cfg.data.split}" if cfg.data.split != "official" else "")
    )
