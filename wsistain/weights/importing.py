"""Published checkpoints turned into our weights files: every tensor matched, none guessed.

Key layouts read in taesungp/contrastive-unpaired-translation (CUT; ASP, USIGAN and PSPStain build on it) and
junyanz/pytorch-CycleGAN-and-pix2pix (CycleGAN, Pix2Pix, PyramidP2P). Checkpoints are pickles; torch's `weights_only`
reader is used, which runs no code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsistain.errors import OutputError, WeightsError, WsistainError
from wsistain.markers import find_marker
from wsistain.networks.facts import facts_of
from wsistain.networks.layers import ResidualBlock, folded_state
from wsistain.networks.resnet import ResnetGenerator
from wsistain.networks.turbo import TURBO_FACTS
from wsistain.networks.unet import UnetGenerator
from wsistain.published.catalogue import CATALOGUE, installed_folder
from wsistain.published.tensors import check_fit, load_into, read_published
from wsistain.runtime.files import local_path, reporting
from wsistain.systems import SYSTEMS, find_system
from wsistain.weights.file import (
    SUFFIX,
    described_network,
    load_network,
    make_header,
    save_weights,
    stated_halo,
)
from wsistain.weights.import_atst import ATST_KINDS, convert_atst
from wsistain.weights.import_stainers import LICENCES, STAINER_KINDS, Converted, convert_stainer, digest_of
from wsistain.weights.import_turbo import TURBO_KINDS, convert_turbo

KINDS = (
    "cut",
    "asp",
    "usigan",
    "asp_dgrank",
    "cyclegan",
    "pix2pix",
    "pyramidp2p",
    *ATST_KINDS,
    *TURBO_KINDS,
    *STAINER_KINDS,
)
"""Systems whose published generators can be imported; the number of blocks and widths is read from the file."""

MOST_LEVELS = 16

BUILT = {
    "n_blocks": "{} residual blocks",
    "ngf": "{} channels in its first layer",
    "n_levels": "{} levels",
    "norm": "{} norms",
}
"""What tells one architecture from another among a generator's options, in words."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    path     : the weights file.
    n_tensors: tensors of the checkpoint that were used.
    n_folded : spectrally normalised kernels among them, now plain.
    surplus  : names that published files carry and the network computes itself (blur kernels) or never uses.
    sha256   : of the checkpoint.
    """

    path: Path
    n_tensors: int
    n_folded: int
    surplus: tuple[str, ...]
    sha256: str


def _describe_resnet(tensors: Mapping[str, Tensor], path: Path) -> ResnetGenerator:
    """A ResNet with the sizes that the names and shapes of `tensors` tell."""
    # Its sizes and kind stand in the names and shapes alone; the file says nothing else of itself.
    first = tensors.get("model.1.weight_orig", tensors.get("model.1.weight"))
    blocks = {int(m.group(1)) for name in tensors if (m := re.match(r"model\.(\d+)\.conv_block\.", name))}
    if first is None or first.dim() != 4 or not blocks:
        some = ", ".join(list(tensors)[:3])
        raise WeightsError(
            f"{path} does not look like a ResNet generator (found {some}); wanted tensors called model.1.weight and "
            "model.<i>.conv_block.<j>.weight: is it the discriminator or the patch network?"
        )
    is_spectral = any(name.endswith(".weight_orig") for name in tensors)
    # With dropout the block's second convolution is its sixth layer; without, that is the second norm where norms have weights.
    has_dropout = any(
        re.match(r"model\.\d+\.conv_block\.6\.weight(_orig)?$", name) and tensor.dim() == 4
        for name, tensor in tensors.items()
    )
    has_blur = not any(f"model.7.weight{end}" in tensors for end in ("", "_orig"))
    is_batch = "model.2.weight" in tensors
    if is_spectral and not has_blur:
        raise WeightsError(f"{path} has spectral norm on strided convolutions, a network that is not known here")

    def build() -> ResnetGenerator:
        return ResnetGenerator(
            len(blocks),
            first.shape[0],
            norm="batch" if is_batch else "instance",
            spectral=is_spectral,
            blur=has_blur,
            dropout=0.5 if has_dropout else 0.0,
        )

    network = described_network(build, tensors, str(path))
    assert isinstance(network, ResnetGenerator)
    return network


def _set_aside(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> list[str]:
    """Names in `tensors` that the network computes itself (checked) or never uses; WeightsError on odd blur kernels."""
    surplus = []
    for name, tensor in tensors.items():
        if name in wanted:
            continue
        end = name.rsplit(".", 1)[-1]
        if end == "filt":
            row = torch.tensor([1.0, 2.0, 1.0] if tensor.shape[-1] == 3 else [1.0, 3.0, 3.0, 1.0])
            kernel = torch.outer(row, row) / row.sum() ** 2 * (1 if tensor.shape[-1] == 3 else 4)
            if tensor.shape[-2:] != kernel.shape or not torch.allclose(tensor, kernel.expand_as(tensor), atol=1e-6):
                raise WeightsError(f"{path}: the blur kernel {name} is not the one of the CUT family")
            surplus.append(name)
        elif end in ("running_mean", "running_var", "num_batches_tracked"):
            surplus.append(name)  # instance norm of old torch versions, never used
    return surplus


def convert_resnet(tensors: Mapping[str, Tensor], path: Path) -> tuple[nn.Module, dict[str, Any], list[str], int]:
    """The plain network of a ResNet checkpoint with its tensors, header options, surplus names, and kernels folded."""
    # As published, spectral norm included.
    described = _describe_resnet(tensors, path)
    surplus = _set_aside(tensors, described.state_dict(), path)
    used = {n: t for n, t in tensors.items() if n not in surplus}
    check_fit(described.state_dict(), used, str(path))
    described = described.to_empty(device="cpu")  # only now: the names in a file can describe a network of any size
    load_into(described, used, str(path), may_lack=())

    # The same network with the spectral norm folded into its kernels: what is saved needs no power iteration.
    is_batch, has_blur = described.facts.norm == "frozen", "model.7.weight" not in described.state_dict()
    has_dropout = any(isinstance(m, nn.Dropout) for m in described.modules())
    options: dict[str, Any] = {
        "n_blocks": sum(1 for layer in described.model if isinstance(layer, ResidualBlock)),
        "ngf": described.tap_channels([1])[0],
        "norm": "batch" if is_batch else "instance",
        "blur": has_blur,
        "dropout": 0.5 if has_dropout else 0.0,
    }
    plain = ResnetGenerator(
        options["n_blocks"], options["ngf"], norm=options["norm"], blur=has_blur, dropout=options["dropout"]
    )
    state = folded_state(described)
    load_into(plain, state, str(path), may_lack=())
    n_folded = sum(name.endswith(".weight_u") for name in tensors)
    return plain.eval(), options, surplus, n_folded


def _unet_names(n_levels: int) -> dict[str, str]:
    """Their module names to ours, for a U-Net whose blocks are nested in one another."""
    names = {"model.model.0": "down.0.0", "model.model.3": "up.0.1"}
    prefix = "model.model.1.model"
    for level in range(1, n_levels):
        is_inner = level == n_levels - 1
        names[f"{prefix}.1"] = f"down.{level}.1"
        if is_inner:
            names[f"{prefix}.3"], names[f"{prefix}.4"] = f"up.{level}.1", f"up.{level}.2"
        else:
            names[f"{prefix}.2"] = f"down.{level}.2"
            names[f"{prefix}.5"], names[f"{prefix}.6"] = f"up.{level}.1", f"up.{level}.2"
        prefix += ".3.model"
    return names


def convert_unet(tensors: Mapping[str, Tensor], path: Path) -> tuple[nn.Module, dict[str, Any], list[str], int]:
    """The same for a U-Net checkpoint of Pix2Pix."""
    # Sizes stand in the names and shapes: a block nested in a block is a level more.
    first = tensors.get("model.model.0.weight")
    depths = [name.count(".model.") for name in tensors if name.endswith(".weight")]
    if first is None or first.dim() != 4 or not depths:
        raise WeightsError(
            f"{path} does not look like a U-Net generator (found {', '.join(list(tensors)[:3])}); wanted nested tensors "
            "called model.model.0.weight, model.model.1.model.1.weight"
        )
    n_levels = max(depths)
    is_batch = any(name.endswith(".running_mean") for name in tensors)
    options: dict[str, Any] = {"n_levels": n_levels, "ngf": first.shape[0], "dropout": 0.5}
    if n_levels > MOST_LEVELS:
        raise WeightsError(f"{path} describes a U-Net of {n_levels} levels; wanted {MOST_LEVELS} at most")
    names = _unet_names(n_levels)
    renamed = {}
    for name, tensor in tensors.items():
        module, end = name.rsplit(".", 1)
        renamed[f"{names[module]}.{end}" if module in names else name] = tensor

    # Tried without memory first: the names in a file can describe a network of any size.
    def build() -> nn.Module:
        return UnetGenerator(n_levels, first.shape[0], norm="batch" if is_batch else "instance", dropout=0.5)

    check_fit(described_network(build, renamed, str(path)).state_dict(), renamed, str(path))
    network = build()
    load_into(network, renamed, str(path), may_lack=())
    return network.eval(), options, [], 0


def import_checkpoint(
    path: Path,
    name: str,
    *,
    marker: str | None = None,
    mpp: float | None = None,
    tile_px: int | None = None,
    licence: str | None = None,
    training_data: str | None = None,
    direction: str = "he-to-ihc",
    prompt: str | None = None,
    reference: NDArray[np.uint8] | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Convert a published checkpoint and write it as a weights file; returns what was done.

    name    : of the catalogue ("asp-er"), or a system of `KINDS`; then `marker` and `mpp` are needed too (UNIStainNet's
              files tell their markers).
    prompt  : text that a turbo checkpoint was trained with; None: the marker's own.
    reference : picture of the wanted stain, uint8 (h, w, 3), whose tone D-VST takes.
    output  : the file to write; None: into `installed_folder()`, named after the catalogue or system and marker.

    Facts that are given win over the catalogue's. Raises WeightsError naming what does not fit, OutputError when the
    file exists and `overwrite` is not set; nothing is written then.
    """
    # Which network it is, what it stains and at which scale: from the catalogue where it is listed, else from the user.
    entry = CATALOGUE.get(name)
    system = entry.system if entry else name
    if system not in KINDS:
        raise WeightsError(
            f"--as {name!r} is neither published weights nor a system; wanted one of {', '.join((*KINDS, *CATALOGUE))}"
        )
    if prompt is not None and system not in TURBO_KINDS:
        raise WeightsError(f"--prompt is for turbo checkpoints; {name} takes no text")
    if reference is not None and system != "dvst":
        raise WeightsError(f"--reference is for D-VST, which stains in a picture's tone; {name} takes none")
    if marker is None and entry is None and system != "unistainnet":
        raise WeightsError(
            f"--as {name} does not say what the generator stains; pass --marker, for example --marker ER"
        )
    stated = marker if marker is not None else entry.marker if entry and len(entry.markers) == 1 else None
    stains = find_marker(stated).name if stated is not None else None
    scale = mpp if mpp is not None else entry.mpp if entry else None
    if scale is None:
        raise WeightsError(
            f"the um per px that {name} was trained at is not known; pass --mpp, for example --mpp 0.4661"
        )

    # Where it goes, and whether it is the file that was published under this name.
    ending = f"-{stains.lower()}" if stains is not None and not entry else ""
    target = output or installed_folder() / f"{name}{ending}{SUFFIX}"
    if local_path(target).exists() and not overwrite:
        raise OutputError(f"{target} exists; pass --overwrite to replace it")
    digest = digest_of(path) if path.exists() else ""
    if entry and entry.sha256 and digest and digest != entry.sha256:
        raise WeightsError(
            f"{path} is not the file published as {name}: its SHA-256 is {digest}, wanted {entry.sha256}"
        )

    # Their tensors as ours.
    if system in TURBO_KINDS:
        found = _from_turbo(path, system, stains, prompt, direction)
    elif system in STAINER_KINDS:
        found = convert_stainer(path, system, stains, reference)
    else:
        found = _from_network(path, name, system, stains, direction, is_published=entry is not None)

    # The weights file; it is read back as `run` will read it.
    header = make_header(
        system=system,
        options=found.options,
        markers=found.markers,
        mpp=scale,
        tile_px=tile_px or (entry.tile_px if entry else found.facts.tile_px or 1024),
        size_multiple=found.facts.size_multiple,
        halo_px=stated_halo(found.facts.halo_px),
        norm=found.facts.norm,
        direction="ihc-to-he" if found.direction == "ihc-to-he" else "he-to-ihc",
        training_data=training_data or (entry.training_data if entry else "unstated"),
        licence=licence or (entry.licence if entry else LICENCES.get(system, "unstated")),
        note=_note(entry.method if entry else "", entry.note if entry else "", path, digest),
    )
    with reporting(target, retry="import again"):
        save_weights(target, header, found.state)
    try:
        load_network(target)
    except WsistainError:
        local_path(target).unlink(missing_ok=True)
        raise
    return ImportReport(target, found.n_used, found.n_folded, tuple(found.surplus), digest)


def _from_turbo(path: Path, system: str, stains: str | None, prompt: str | None, direction: str) -> Converted:
    assert stains is not None  # every turbo checkpoint is of one marker
    text = prompt if prompt is not None else find_marker(stains).prompt
    state, options, surplus, n_used = convert_turbo(path, system, prompt=text, direction=direction)
    facts = replace(TURBO_FACTS, tile_px=TURBO_FACTS.tile_px or 512)
    return Converted(state, options, [stains], facts, n_used, surplus, direction=direction)


def _from_network(
    path: Path, name: str, system: str, stains: str | None, direction: str, *, is_published: bool
) -> Converted:
    assert stains is not None  # these networks stain for one marker
    tensors = read_published(path)
    convert = {"pix2pix": convert_unet, "atst_net": convert_atst}.get(system, convert_resnet)
    network, options, surplus, n_folded = convert(tensors, path)
    direction = options.get("direction", direction)
    options = _fit_to_system(system, network, options, path)
    if is_published:
        _check_published(name, system, options, path)
    n_used, facts = len(tensors) - len(surplus), replace(facts_of(network), tile_px=None)
    return Converted(network.state_dict(), options, [stains], facts, n_used, surplus, n_folded, direction)


def _check_published(name: str, system: str, options: Mapping[str, Any], path: Path) -> None:
    """WeightsError where a generator is built otherwise than that of the authors who published `name`."""
    published = find_system(system).Config.preset("paper", {}).model_dump()
    for key, words in BUILT.items():
        if key in options and published.get(key) not in (None, options[key]):
            raise WeightsError(
                f"{path} holds a generator of {words.format(options[key])}, and {name} has {published[key]}: it is another "
                "network; import it by its system, as in --as cut --marker ER --mpp MPP"
            )


def _note(method: str, note: str, path: Path, digest: str) -> str:
    parts = [method, note, f"imported from {path.name}, SHA-256 {digest}"]
    return ". ".join(p for p in parts if p)


def _fit_to_system(system: str, network: nn.Module, options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The header options that the system's own `generator_network` takes; WeightsError where it builds another network."""
    trial = dict(options)
    if system == "cyclegan":
        trial = {k: options[k] for k in ("n_blocks", "ngf")}
    elif system == "pyramidp2p":
        trial = {k: options[k] for k in ("n_blocks", "ngf", "dropout")}
    with torch.device("meta"):
        rebuilt = find_system(system).generator_network(trial)
    ours = {n: tuple(t.shape) for n, t in rebuilt.state_dict().items()}
    theirs = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    if ours != theirs or facts_of(rebuilt).norm != facts_of(network).norm:
        what = ", ".join(f"{k} {v}" for k, v in options.items())
        raise WeightsError(
            f"{path} holds a generator of another kind than {SYSTEMS[system].partition(':')[2]}'s: {what}; choose another --as"
        )
    return trial
