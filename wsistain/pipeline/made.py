"""With what a stain is made: the wishes of a configuration, resolved once into facts.

The key that a resume must meet, the provenance in the output and `run.json` are all made from this value, so that a
fact that is added here is compared, kept and told.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from wsistain.config import RunConfig
from wsistain.generators.device import Device
from wsistain.generators.spec import GeneratorSpec
from wsistain.output.store import OutputSpec
from wsistain.pipeline.planning import norm_mode
from wsistain.slide.base import SlideInfo
from wsistain.tiling.plan import RunPlan

CUDA_BATCH = 16

KEY_FORMAT = 2
"""Of the resume key: raised when its names change their meaning."""

TOLD = {"told": True}
"""Marks a fact that is told and not compared: a resumed run, or another worker, may differ in it."""


@dataclass(frozen=True)
class MadeWith:
    """Every fact about the making of one stain that is neither in the plan nor in the weights.

    reader       : what reads the slide.
    series       : the number of the picture that is read, among those that the file holds.
    device       : kind of device that stains: "cpu", "cuda" or "mps".
    device_names : the processors or GPUs themselves. Told, not compared: a cluster's workers, and the node that a run is
                   resumed on, may be of several models, whose results agree but for the last bit of a float.
    precision    : "float32", "bfloat16" or "float16".
    compile      : whether the network is compiled.
    batch_size   : tiles at once; 1 on a processor, where tiles run one by one.
    norm         : "tile", "slide" or "field".
    norm_tiles   : tissue tiles from which the statistics come; None where none are measured.
    seed         : of the noise of diffusion models; None: the weights' own.
    sampling     : how a diffusion model samples where that is not what its weights say.
    """

    reader: str
    series: int
    device: str
    device_names: tuple[str, ...] = field(metadata=TOLD)
    precision: str
    compile: bool
    batch_size: int
    norm: str
    norm_tiles: int | None
    seed: int | None
    sampling: dict[str, Any] | None = field(hash=False)  # a dict cannot be hashed; it is compared

    def deciding(self) -> dict[str, Any]:
        """What must be the same for a run to go on: everything but what is only told."""
        told = {f.name for f in fields(self) if f.metadata == TOLD}
        return {name: value for name, value in asdict(self).items() if name not in told}

    def as_config(self, config: RunConfig, plan: RunPlan) -> RunConfig:
        """`config` with what was resolved in place of what was wished: it makes the same stain again."""
        t = plan.tiling
        sizes = {"stride": t.stride, "overlap": t.overlap, "halo": t.halo, "block": t.block}
        tiling = config.tiling.model_copy(update=sizes)
        known = {n: v for n, v in asdict(self).items() if n in RunConfig.model_fields and v is not None}
        return config.model_copy(update={**known, "tiling": tiling})


def resolve(config: RunConfig, info: SlideInfo, spec: GeneratorSpec, devices: list[Device]) -> MadeWith:
    """What `spec` stains a slide with on `devices`, which are of one kind."""
    kind = devices[0].kind
    norm = norm_mode(spec, config)
    is_network = spec.weights != "identity"
    return MadeWith(
        reader=info.reader,
        series=info.series,
        device=kind,
        device_names=tuple(sorted({d.name for d in devices})),
        precision=spec.precision if config.precision == "auto" or not is_network else config.precision,
        compile=config.compile and is_network,
        batch_size=1 if kind == "cpu" else config.batch_size or CUDA_BATCH,
        norm=norm,
        norm_tiles=None if norm == "tile" else config.norm_tiles,
        seed=spec.seed,
        sampling=json.loads(spec.sampling) if spec.sampling else None,
    )


def key_of(plan: RunPlan, spec: GeneratorSpec, made: MadeWith, output: OutputSpec) -> dict[str, Any]:
    """What must be the same for a run to be resumed: everything that decides a byte."""
    return {
        "format": KEY_FORMAT,
        "slide": plan.fingerprint,
        "plan": plan.hash,
        "weights": spec.weights_hash,
        "marker": spec.marker,
        **made.deciding(),
        **({"probability": True} if spec.probability else {}),  # outputs of before the layer name none
        "output": output.storage.deciding(),
    }
