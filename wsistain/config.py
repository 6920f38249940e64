"""Strict configuration: frozen pydantic models, YAML files and `--set` overrides.

Unknown, missing or wrongly typed keys fail with the path of the key and the nearest valid name. Models hold
defaults, YAML holds choices, and nothing merges in between.
"""

import difflib
import re
import reprlib
import stat
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from wsistain.errors import ConfigError


class Strict(BaseModel):
    """Base of every configuration: immutable, no surplus keys, no number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`mpp: yes` is no mpp of 1."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("Input should be a number, not yes or no")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types that a union is made of; of anything else, itself."""
    return set(get_args(annotation)) if isinstance(annotation, UnionType) else {annotation}


M = TypeVar("M", bound=BaseModel)

Direction = Literal["he-to-ihc", "ihc-to-he"]
Layout = Literal["mist", "bci", "bci_ab", "ihc4bc", "ab"]
Ngff = Literal["0.5", "0.4"]
Norm = Literal["auto", "tile", "slide", "field"]
Pairing = Literal["mist", "aligned", "adjacent", "far"]
PhantomVersion = Literal["v0", "v1"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Reader = Literal["auto", "tiff", "openslide", "tiffslide", "zarr", "picture"]
"""Values that are fixed; the command line shows them in its help."""

MOST_BYTES = 1 << 20
MOST_VALUES = 10_000
MOST_KEYS = 16
_ODD_NUMBER = re.compile(r"[-+]?(?:0[0-7_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:[.][0-9_]*)?)")
"""What YAML 1.1 takes for a number in base 8 (`010` is 8) or 60 (`1:30` is 90), and nobody else."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(?:[.][0-9]{0,40})?(?:[eE][+-]?[0-9]{1,4})?")


class TilingConfig(Strict):
    """How the output is cut; sizes in output pixels."""

    stride: int | None = Field(None, ge=16, le=8192, description="step of the tile grid; None: the generator's")
    overlap: int | None = Field(
        None, ge=0, le=2048, description="shared band of neighbouring cores; None: the generator's"
    )
    halo: int | None = Field(None, ge=0, le=2048, description="margin read and thrown away; None: the generator's")
    block: int | None = Field(
        None,
        ge=32,
        le=65536,
        description="edge of the unit of work, a multiple of shard and stride; None: 4096, or 2048 for weights of many markers",
    )


BESIDE: dict[str, Any] = {"beside": True}
"""Marks an option that changes no byte of the stain itself, so that it may differ when a run is resumed."""


class OutputConfig(Strict):
    """How the stained slide is stored: the one place where an option of it stands.

    What is here reaches the writers (as `OutputSpec.storage`), the key that a resume must meet and the table in
    docs/running.md by itself.
    """

    ngff: Ngff = Field("0.5", description="OME-Zarr version; 0.4 for readers without Zarr v3 (QuPath)")
    chunk: int = Field(512, ge=16, le=4096, description="edge of a compressed chunk, px")
    shard: int = Field(2048, ge=16, le=16384, description="edge of a shard file, px; a multiple of the chunk")
    zstd_level: int = Field(1, ge=1, le=19, description="1 (fast) to 19 (small); at most 9 with ngff 0.4")
    formats: tuple[Literal["zarr", "ome-tiff"], ...] = Field(
        ("zarr",),
        description="zarr, and ome-tiff to have the same stain beside it for QuPath and OpenSlide (JPEG 90, 4:4:4)",
        json_schema_extra=BESIDE,
    )
    preview_px: int = Field(
        2048, ge=64, le=16384, description="longest side of the preview JPEG, px", json_schema_extra=BESIDE
    )

    @field_validator("ngff", mode="before")
    @classmethod
    def _version_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, float) else value  # YAML reads 0.4 as a number

    @field_validator("formats", mode="before")
    @classmethod
    def _formats_as_names(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("formats")
    @classmethod
    def _always_zarr(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "zarr" not in value:
            raise ValueError("the OME-Zarr is always written, the OME-TIFF beside it; wanted zarr,ome-tiff")
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _shard_holds_chunks(self) -> "OutputConfig":
        if self.shard % self.chunk:
            raise ValueError(f"shard {self.shard} is not a multiple of chunk {self.chunk}")
        return self

    def deciding(self) -> dict[str, Any]:
        """The options that decide bytes of the stain, by name, as plain JSON values."""
        beside = {name for name, field in type(self).model_fields.items() if field.json_schema_extra == BESIDE}
        return self.model_dump(mode="json", exclude=beside)


class RunConfig(Strict):
    """Everything of `wsistain run` that changes the result or how it is made."""

    weights: str = Field("demo", description="file, folder, hub id or built-in name (demo, lpstain, identity)")
    mpp: float | None = Field(None, gt=0, description="um per px of the slide, where it has none")
    reader: Reader = "auto"
    series: int | None = Field(
        None, ge=0, description="which picture of a file that holds several; None: the finest brightfield one"
    )
    norm: Norm = "auto"
    norm_tiles: int = Field(64, ge=4, le=4096, description="tissue tiles from which slide statistics are taken")
    roi_class: str | None = Field(None, description="classes of the shapes of --roi, with commas; None: all")
    all_tiles: bool = Field(False, description="generate glass too")
    any_stain: bool = Field(False, description="stain also what does not look like H&E (of an IHC: like DAB)")
    direction: Direction = "he-to-ihc"
    seed: int | None = Field(None, description="of the noise of diffusion models; None: the weights' own")
    sampling: dict[str, Any] = Field(
        default_factory=dict,
        description="how a diffusion model stains, in place of what its weights say (n_steps, ...)",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Precision = "auto"
    compile: bool = False
    batch_size: int | None = Field(None, ge=1, le=4096)
    probability: bool = Field(False, description="store p of the marker beside the stain, where the system tells it")
    strict: bool = Field(False, description="undecodable native tiles end the run with exit code 2")
    read: bool = Field(False, description="find, class and score the cells of what was stained (docs/reading.md)")
    tiling: TilingConfig = TilingConfig()
    output: OutputConfig = OutputConfig()


MIST_MPP = 0.4661
"""um per px of MIST's patches, from its readme; the phantom's are made at the same scale."""


class PatchFilter(Strict):
    """Limits on what `wsistain pair` measured of each training patch (docs/pair.md); None: no limit."""

    max_residual_um: float | None = Field(None, gt=0, description="displacement left after registration, um")
    min_agreement: float | None = Field(None, ge=-1, le=1, description="correlation of both sections' haematoxylin")
    max_stretch: float | None = Field(None, gt=0, description="largest local change of length, share")
    min_tissue: float | None = Field(None, ge=0, le=1, description="share that is tissue, on both slides")
    max_fold: float | None = Field(None, ge=0, le=1, description="share that is folded, on both slides")
    min_focus: float | None = Field(None, ge=0, description="fine detail per coarse, on both slides; 0.25 is sharp")
    min_dab: float | None = Field(None, ge=0, le=1, description="share of the IHC that is positive")


class DataConfig(Strict):
    """Where the training patches are and how they are cut."""

    layout: Layout = "mist"
    root: str
    pairing: Literal["weak", "none"] = "weak"
    load_px: int | None = Field(
        None, description="patches are resized first, their shorter side to this; None: as stored"
    )
    crop_px: int = Field(512, ge=16, le=16384)
    flip: bool = True
    mpp: float | None = Field(
        None, ge=0.05, le=20, description="um per px of the stored patches; None: what stands beside them says it"
    )
    any_stain: bool = Field(False, description="learn also from what does not look like H&E")
    stain_jitter: float = Field(0.0, ge=0, le=1, description="strength of H&E colour augmentation; 0: none")
    workers: int = Field(2, ge=0, le=64, description="decoding processes")
    split: Literal["official", "slide", "patient", "file"] = Field(
        "official",
        description="who is held out: as the data set came, or whole slides or patients by hash, or by a table",
    )
    split_file: str | None = Field(
        None, description="with split file: table with the columns slide (or patch) and part"
    )
    val_share: float = Field(
        0.1, gt=0, lt=1, description="share of slides or patients held out where the data set's own split is not used"
    )
    split_seed: int = Field(0, ge=0, description="which ones those are")
    names: str | None = Field(
        None, description="text file, one a line, of the training patches to use; None: all of them"
    )
    masks: str | None = Field(
        None, description="folder, in `root`, of masks named as the H&E patches: non-zero is positive"
    )
    filter: PatchFilter = Field(
        PatchFilter(), description="training patches to leave out by what `wsistain pair` measured of them"
    )
    shrink_in_decay: bool = Field(
        False, description="after the constant epochs whole patches shrunk to the crop (quirk of USIGAN's code)"
    )

    @field_validator("filter", mode="before")
    @classmethod
    def _null_is_no_filter(cls, value: Any) -> Any:
        return PatchFilter() if value is None else value

    @model_validator(mode="after")
    def _crop_fits(self) -> "DataConfig":
        if (self.split == "file") != (self.split_file is not None):
            raise ValueError("split file needs split_file, and split_file needs split file")
        if self.load_px is not None and self.load_px < self.crop_px:
            raise ValueError(f"load_px {self.load_px} is smaller than crop_px {self.crop_px}")
        return self


class TrainConfig(Strict):
    """One training run; `options` are validated by the system's own Config."""

    system: str
    marker: str = Field("ER", description="what is stained for; several (ER,PR) where the system takes many")
    data: DataConfig
    preset: Literal["paper", "official"] = "paper"
    steps: int | None = Field(
        None, ge=1, description="optimiser steps, over which the epochs are stretched; None: from the epochs"
    )
    epochs: int = Field(1, ge=1, description="epochs at constant learning rate")
    decay_epochs: int = Field(0, ge=0, description="epochs of linear decay after that")
    batch_size: int = Field(1, ge=1, description="patches a step in each process")
    seed: int = Field(0, ge=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    log_every: int = Field(50, ge=1)
    sample_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    val_every: int | None = Field(None, ge=1, description="steps between validations on held-out patches; None: none")
    val_patches: int = Field(32, ge=1, description="held-out patches of each marker that are measured, evenly spaced")
    val_metrics: list[str] = Field(
        default_factory=list,
        description="what is measured, as `evaluate` calls it; none: cell_auc (where the truth is known), css, positive_error",
    )
    best_metric: str | None = Field(
        None, description="by which weights.best.safetensors is chosen; None: the first of val_metrics"
    )
    patience: int | None = Field(None, ge=1, description="validations without gain that end the run; None: it goes on")
    trackers: list[str] = Field(
        default_factory=lambda: ["tensorboard"], description="accelerate's trackers: tensorboard, wandb, mlflow, ..."
    )
    tracker_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by tracker, what its class takes, as {wandb: {entity: lab}}"
    )
    licence: str = Field("unstated", description="licence of the weights, written into their header")
    start_from: str | None = Field(None, description="weights (a file, a name) or the folder of a run to begin from")
    start_with: Literal["weights", "networks", "all"] = Field(
        "weights",
        description="what is taken from there: the network that stains; with a run's folder also all its networks, or all "
        "networks and their optimisers",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="fields of systems/<system>.py Config")


def _model_at(model: Any, path: Sequence[Any]) -> type[BaseModel] | None:
    """The configuration model that holds the last key of `path`, or None where there is none."""
    current: Any = model
    for key in path[:-1]:
        if isinstance(key, int):
            continue  # a place in a list, of whose members `current` is the model already
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or key not in current.model_fields:
            return None
        annotation = current.model_fields[key].annotation
        models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        current = models[0] if models else None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(p) for p in first["loc"]) or "(top)"
    if first["type"] == "extra_forbidden":
        holder = _model_at(model, first["loc"])
        near = (
            difflib.get_close_matches(str(first["loc"][-1]), list(holder.model_fields), n=1, cutoff=0.4)
            if holder
            else []
        )
        hint = (
            f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(holder.model_fields) if holder else '-'}"
        )
        return f"{where}: {path} is not a known key; {hint}"
    if first["type"] == "missing":
        return f"{where}: {path} is missing"
    return f"{where}: {path[:300]}: {first['msg']} (found {reprlib.repr(first.get('input'))})"


def validate(model: type[M], values: Any, where: str) -> M:
    """`values` as a `model`; ConfigError naming `where`, the key's path and the nearest valid name otherwise."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: wanted keys and values, found {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, where)) from None


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Safe (no code can run), and without dates: what looks like one is a name, as in `weights: 2026-01-01`."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, where: str) -> Any:
    """The values in a YAML text.

    Raises ConfigError naming `where`: no YAML, more than 10,000 values once every alias is written out (a few hundred
    bytes can stand for gigabytes), a key that is there twice, or a number or date that is none.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {(str(error).splitlines() or ['?'])[0][:200]}") from None
    except RecursionError:
        raise ConfigError(f"{where} is not YAML that can be used: it is nested too deep") from None
    except (ValueError, OverflowError, TypeError) as error:
        raise ConfigError(f"{where} holds a value that is none: {str(error)[:200]}") from None


def _check_nodes(root: yaml.Node, where: str) -> None:
    """Count the values of a parsed text, those behind an alias as often as they are named, and look for doubled keys."""
    waiting, seen = [root], 0
    while waiting:
        node, seen = waiting.pop(), seen + 1
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _ODD_NUMBER.fullmatch(node.value):
            raise ConfigError(
                f"{where} holds {node.value}, which YAML takes for a number in base {60 if ':' in node.value else 8}; "
                "write it in decimal, or in quotes where it is a name"
            )
        if seen > MOST_VALUES:
            raise ConfigError(
                f"{where} holds more than {MOST_VALUES} values, aliases written out; wanted a configuration"
            )
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = [key for key in keys if keys.count(key) > 1] if len(keys) <= 1000 else []
            if twice:
                raise ConfigError(f"{where}: the key {reprlib.repr(twice[0])} is there twice; keep one")
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; {} when the file is empty. ConfigError as in `parse_yaml`, and for what is no file."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigError(f"{path} is no regular file; wanted a YAML file")
        if facts.st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than a configuration can be ({MOST_BYTES >> 20} MiB)")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: wanted keys and values, found {type(values).__name__}")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each "a.b=value" of `overrides` set; the value is read as YAML."""
    import copy

    result: dict[str, Any] = copy.deepcopy(values)
    for item in overrides:
        path, sign, text = item.partition("=")
        keys = [k.strip() for k in path.split(".")]
        short = f"--set {reprlib.repr(item)}"
        if not sign or not all(keys) or len(keys) > MOST_KEYS:
            raise ConfigError(f"{short} is not key=value, as in --set tiling.overlap=128")
        value = parse_yaml(text, f"{short}: the value")
        if isinstance(value, str) and value == text.strip() and _NUMBER.fullmatch(value):
            value = float(value)  # YAML 1.1 reads 1e-4 as text; what is quoted stays text
        target = result
        for key in keys[:-1]:
            child = target.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{short}: {key} holds a value, not keys")
            target = child
        target[keys[-1]] = value
    return result


def keys_of(overrides: Sequence[str]) -> frozenset[str]:
    """The dotted keys that "a.b=value" of `--set` set."""
    return frozenset(".".join(k.strip() for k in item.partition("=")[0].split(".")) for item in overrides)


def preset_of(model: type[M], values: dict[str, Any], overrides: dict[str, Any], where: str) -> M:
    """A `model` from a preset's `values` with the user's `overrides` (nested keys one by one) put over them."""

    def over(base: Any, top: Any) -> Any:
        if isinstance(base, dict) and isinstance(top, dict):
            return {**base, **{key: over(base.get(key), value) for key, value in top.items()}}
        return top

    return validate(model, over(values, overrides), where)


def load_config(model: type[M], path: Path | None, overrides: Sequence[str] = ()) -> M:
    """A `model` from an optional YAML file and `--set` overrides."""
    values = read_yaml(path) if path else {}
    return validate(model, apply_overrides(values, overrides), str(path) if path else "options")


def dump_yaml(config: BaseModel) -> str:
    """The resolved configuration as YAML, with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
