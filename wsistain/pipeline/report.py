"""What a run says of itself: `run.json` beside the output, and the provenance inside it."""

import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.config import RunConfig
from wsistain.generators.spec import GeneratorSpec
from wsistain.markers import find_marker
from wsistain.pipeline.tasks import Times, Written, peak_rss_mb
from wsistain.runtime.files import write_json
from wsistain.slide.base import SlideInfo
from wsistain.tiling.plan import RunPlan
from wsistain.tiling.seams import SeamSums

PACKAGES = ("torch", "numpy", "zarr", "dask", "tifffile", "imagecodecs", "openslide-python", "tiffslide")


@dataclass
class Tally:
    """What the writes of one run add up to."""

    n_tiles: int = 0
    shards: int = 0
    n_bytes: int = 0
    blocks: int = 0
    unreadable: set[tuple[int, ...]] = field(default_factory=set)
    times: Times = field(default_factory=Times)
    seams: list[SeamSums] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, written: Written) -> None:
        """Count one block, written for every marker."""
        self.n_tiles += written.n_tiles
        self.blocks += 1
        self.shards += sum(d.shards_written for d in written.done)
        self.n_bytes += sum(d.bytes_written for d in written.done)
        self.unreadable |= written.unreadable
        self.times = self.times + written.times
        if not self.seams:
            self.seams = [SeamSums() for _ in written.seams]
        self.seams = [a + b for a, b in zip(self.seams, written.seams, strict=True)]
        self.peaks[written.process] = max(written.peak_rss_mb, self.peaks.get(written.process, 0.0))


@dataclass(frozen=True)
class RunReport:
    """The facts of one finished output; `run.json` holds exactly these."""

    output: str
    marker: str
    tiles_planned: int
    tiles_generated: int
    shards_written: int
    bytes_written: int
    blocks: int
    resumed_blocks: int
    unreadable_tiles: int
    seconds: dict[str, float]
    megapixels: float
    mp_per_second: float
    peak_rss_mb: float
    seam_score: float | None
    plan: dict[str, Any]
    provenance: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write `run.json` in one move."""
        write_json(path, asdict(self))


def provenance(
    info: SlideInfo, plan: RunPlan, spec: GeneratorSpec, config: RunConfig, norm: str, key: dict[str, Any], device: str
) -> dict[str, Any]:
    """Where a virtual slide comes from: plain JSON values for the root attributes and `run.json`."""
    return {
        "virtual": True,
        "statement": f"Virtual {spec.marker} stain computed from an H&E slide; for research use only, not for diagnosis.",
        "note": spec.note,
        "marker": spec.marker,
        "marker_definition": find_marker(spec.marker).facts(),
        "slide": {
            "name": Path(info.path).name,
            "fingerprint": info.fingerprint,
            "mpp": info.mpp,
            "mpp_source": info.mpp_source,
            "size_l0": list(info.size_l0),
            "vendor": info.vendor,
            "reader": info.reader,
        },
        "plan_hash": plan.hash,
        "mpp": plan.sampling.mpp,
        "system": spec.name,
        "weights": {
            "name": Path(spec.weights).name,
            "sha256": spec.weights_hash,
            "training_data": spec.training_data,
            "licence": spec.licence,
        },
        "norm": norm,
        "device": device,
        "config": config.model_dump(mode="json"),
        "versions": {"wsistain": __version__, "python": platform.python_version(), **_versions()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": key,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def make_report(
    *,
    output: str,
    k: int,
    spec: GeneratorSpec,
    plan: RunPlan,
    tally: Tally,
    resumed: int,
    pyramid_shards: int,
    seconds: dict[str, float],
    source: dict[str, Any],
    n_outputs: int,
) -> RunReport:
    """The report of output number `k` of `n_outputs` that one pass over the slide wrote."""
    total = max(seconds["total"], 1e-9)
    seam = tally.seams[k].score if tally.seams else None
    share = tally.blocks / max(tally.blocks + resumed, 1)  # what an earlier run finished is not this run's speed
    return RunReport(
        output=output,
        marker=spec.marker,
        tiles_planned=plan.n_tiles,
        tiles_generated=tally.n_tiles,
        shards_written=tally.shards // n_outputs + pyramid_shards,
        bytes_written=tally.n_bytes // n_outputs,
        blocks=tally.blocks,
        resumed_blocks=resumed,
        unreadable_tiles=len(tally.unreadable),
        seconds={**seconds, **{f"{name}_threads": round(value, 3) for name, value in asdict(tally.times).items()}},
        megapixels=round(plan.canvas[2] * plan.canvas[3] / 1e6, 3),
        mp_per_second=round(plan.canvas[2] * plan.canvas[3] / 1e6 * share / total, 3),
        peak_rss_mb=round(max([peak_rss_mb(), *tally.peaks.values()]), 1),
        seam_score=None if seam is None else round(seam, 4),
        plan=plan.describe(),
        provenance=source,
    )
