"""What can be trained, what it asks for, and what every option means: for people who choose. Nothing here trains."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from wsistain.config import DataConfig, TrainConfig, read_yaml
from wsistain.errors import ConfigError
from wsistain.packaged import packaged_folder
from wsistain.systems import find_system

CARD = "a 24 GB card of 2023 (30 TFLOP a second in TF32 or bfloat16); estimates from counted work, not measurements"

_WORDS = {
    "a2sp": "attention to spatial places", "attention": "levels with attention", "base": "channels of the first level",
    "beta_first": "noise variance of the first step", "beta_last": "noise variance of the last step",
    "betas": "Adam's two decay rates", "composition": "how several plans are combined", "cost": "what transport costs",
    "d_layers": "halvings of the critic", "decoder": "kind of the generator's second half",
    "density_range": "optical densities between which stain counts", "depth": "layers of the transformer",
    "diffuse": "noise is added before the critic looks", "distance": "how shares are compared", "dropout": "share of channels dropped",
    "ema_decay": "of the exponential mean that is saved", "estimator_lr": "learning rate of the estimator",
    "flip_vertical": "mirror half of the crops top to bottom", "groups": "groups of the group norms",
    "head_width": "channels of the projections that are contrasted", "heads": "attention heads",
    "least_stained": "smallest share of stained pixels of a crop", "most_stained": "largest share of stained pixels of a crop",
    "lr": "learning rate", "mask_form": "soft or hard masks", "multipliers": "channels of each level, as multiples of the first",
    "n_blocks": "residual blocks of the generator", "n_layers": "halvings of the critic", "n_levels": "halvings of the U-Net",
    "n_octaves": "octaves of the pyramid", "n_residual": "residual blocks", "nce_tau": "temperature of the contrastive term",
    "ndf": "channels of the critic's first layer", "ngf": "channels of the generator's first layer",
    "octaves": "weights of the pyramid's octaves", "opening": "radius that masks are opened with, px", "patch": "edge of a patch, px",
    "plan_iterations": "iterations of the transport plan", "pool_size": "fakes that the critic is shown again",
    "pooled_critic": "the critic sees pooled features", "prompt_he": "text for H&E", "sampling": "how places are sampled",
    "seed": "of everything that is random", "sigma": "width of the smoothing, px", "solver": "of the reverse process", "ssim_gain": "gain of the SSIM term",
    "stride": "step of the windows", "t_max": "largest noise level", "t_min": "smallest noise level",
    "taps": "generator layers that are compared", "time_conditioning": "how the noise level reaches the critic",
    "time_width": "channels of the noise level's embedding", "train_parts": "which networks train", "tune_loss": "loss of tuning while staining",
    "tune_lr": "its learning rate", "tune_patches": "its patches", "tune_tau": "its temperature", "unpaired_b": "IHC of another patch",
    "weight_decay": "of AdamW", "width": "channels", "widths": "channels of each layer", "window": "edge of the attention windows",
    "window_batch": "windows at a time", "windows_together": "windows in one pass",
    "counterstain": "of the counterstain", "semantic": "of the semantic term", "asp": "of the adaptive contrastive term",
    "root": "folder of the data set", "layout": "how its folders are named", "pairing": "weak: IHC of the same name; none: of any other",
    "crop_px": "edge of the square crops, px", "flip": "mirror half of the crops left to right", "system": "which method",
    "preset": "values of the paper, or of the authors' code where it differs", "precision": "of the step",
    "device": "auto, cpu, cuda or cuda:N", "log_every": "steps between lines of metrics", "sample_every": "steps between sample sheets",
    "checkpoint_every": "steps between checkpoints",
}  # fmt: skip
"""What keys mean whose field says nothing; most mean the same in every system."""


@dataclass(frozen=True)
class ConfigFacts:
    """A shipped configuration: what it is of, what a step takes, how long it lasts, what it needs."""

    name: str
    system: str
    paper: str
    memory: str
    time: str
    needs: str


def shipped_configs() -> list[ConfigFacts]:
    """Every configuration that ships, by name, from what its file says of itself. Imports no torch."""
    return [_facts_of(path) for path in sorted((packaged_folder("configs") / "train").glob("*.yaml"))]


def _facts_of(path: Path) -> ConfigFacts:
    values, lines = read_yaml(path), path.read_text(encoding="utf-8").splitlines()
    comment = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)]
    text = " ".join(line.lstrip("# ").strip() for line in comment)
    memory = re.search(r"take ([\d.]+ GiB)", text) or re.search(r"so (\d+ GB) for a step", text)
    time = re.search(r"Time: about (.+?), an estimate", text) or re.search(r"so (one to two hours)", text)
    time = time or re.search(r"([\w.]+ (?:minutes|hours) of one core)", text)
    paper = re.match(r"(\S+ \([^)]*\)|[^:.]*)", text)
    nets = re.search(r"Needs (.+?) on this machine", text)
    data = values.get("data", {})
    pairs = (
        "unpaired"
        if data.get("pairing") == "none"
        else "weak pairs"
        if values["system"] != "aligned"
        else "aligned pairs"
    )
    return ConfigFacts(
        path.stem,
        str(values["system"]),
        paper.group(1) if paper else text,
        memory.group(1) if memory else "small" if time and "core" in time.group(1) else "-",
        time.group(1) if time else "not known",
        pairs + (f"; {nets.group(1)}" if nets else ""),
    )


def table_of(facts: Sequence[ConfigFacts]) -> list[str]:
    """The list as lines of text, one configuration each, and what the times are of."""
    columns = ("name", "system", "memory", "time", "needs", "of")
    rows = [columns, *((f.name, f.system, f.memory, f.time, f.needs, f.paper) for f in facts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "", f"memory: tensors of a step at the peak; time: on {CARD}"]


def options_of(system: str) -> list[str]:
    """Every key of a training configuration of `system` with its default and what it means, as YAML."""
    options = find_system(system).Config.preset("paper", {})
    keys = TrainConfig(system=system, data=DataConfig(root="DATA"))
    lines = [f"# every key of a training run of {system}; set one with --set KEY=VALUE"]
    for line in _yaml_of(keys):
        if not line.startswith("options:"):
            lines.append(line)
    return [*lines, "options:", *_yaml_of(options, "  ", "options")]


def _yaml_of(model: BaseModel, indent: str = "", below: str = "") -> Iterator[str]:
    import yaml

    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _yaml_of(value, indent + "  ", name)
            continue
        plain = [model.model_dump(mode="json", include={name})[name]]
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000).strip()
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        means = "; ".join(filter(None, (meaning(name, field.description, below), ", ".join(map(str, choices)))))
        yield f"{indent}{name}: {text[1:-1]}  # {means}"


def meaning(name: str, description: str | None, below: str) -> str:
    """What a key means in words: its field's own, else what it means in every system, else what it weighs."""
    if description:
        return description
    if below == "weights":
        return f"weight of the {name} term; 0: without it"
    return _WORDS.get(name, name.replace("_", " "))


def whole_keys(overrides: Sequence[str], system: str) -> list[str]:
    """`overrides` ("key=value") with keys that stand alone given their place: `lr` becomes `options.lr`.

    Keys with a dot and those of the run itself stay as they are. Raises ConfigError naming the places of a key where there
    are several, and the nearest key of all where there is none.
    """
    result = []
    for item in overrides:
        key, sign, value = item.partition("=")
        key = key.strip()
        if not sign or "." in key or key in TrainConfig.model_fields:
            result.append(item)
            continue
        places = [f"data.{key}"] if key in DataConfig.model_fields else []
        places += [f"options.{path}" for path in _paths(find_system(system).Config, key)]
        if len(places) > 1:
            raise ConfigError(f"--set {key} could be {' or '.join(places)}; write it out")
        if not places:
            raise ConfigError(f"--set {key} is not a known key of {system}{_nearest(key, system)}")
        result.append(f"{places[0]}={value}")
    return result


def _nearest(key: str, system: str) -> str:
    """The known key that is most like one that is not, as the end of a sentence."""
    known = {name: name for name in TrainConfig.model_fields}
    known |= {name: f"data.{name}" for name in DataConfig.model_fields}
    known |= {path.rsplit(".", 1)[-1]: f"options.{path}" for path in _leaves(find_system(system).Config)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {known[near[0]]}?" if near else f"; 'wsistain train --help-options {system}' lists all"


def _leaves(model: Any) -> Iterator[str]:
    """Every key of a model that holds a value, with its place."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{path}" for path in _leaves(inner))
        else:
            yield name


def _paths(model: Any, key: str) -> list[str]:
    """Where a key is in a model: its own, else those of the models inside it."""
    if key in model.model_fields:
        return [key]
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{name}.{path}" for path in _paths(inner, key)]
    return found
