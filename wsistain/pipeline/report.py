"""What a run says of itself: `run.json` beside the output, and the provenance inside it."""

import platform
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsistain import __version__
from wsistain.config import RunConfig
from wsistain.markers import find_marker
from wsistain.output.layout import PROBABILITY
from wsistain.pipeline.job import Times, Written, peak_rss_mb
from wsistain.pipeline.stain import Stain
from wsistain.runtime.files import write_json
from wsistain.slide.base import SlideInfo
from wsistain.slide.quality import Quality
from wsistain.tiling.plan import RunPlan

PACKAGES = ("torch", "numpy", "zarr", "tensorstore", "dask", "tifffile", "imagecodecs", "openslide-python", "tiffslide")


@dataclass
class Tally:
    """What the writes of one session add up to; what the whole run comes to is in the journals."""

    blocks: int = 0
    unreadable: set[tuple[int, ...]] = field(default_factory=set)
    times: Times = field(default_factory=Times)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, written: Written) -> None:
        """Count one block, written for every marker."""
        self.blocks += 1
        self.unreadable |= written.unreadable
        self.times = self.times + written.times
        self.peaks[written.process] = max(written.peak_rss_mb, self.peaks.get(written.process, 0.0))


@dataclass(frozen=True)
class About:
    """What was seen on the slide before it was stained: its quality (None where nobody looked), and warnings."""

    quality: Quality | None = None
    warnings: tuple[str, ...] = ()

    def also(self, warnings: tuple[str, ...]) -> "About":
        """The same with more warnings."""
        return replace(self, warnings=self.warnings + warnings)


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
    quality: dict[str, Any] | None
    warnings: list[str]
    plan: dict[str, Any]
    provenance: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write `run.json` in one move."""
        write_json(path, asdict(self))


def provenance(info: SlideInfo, plan: RunPlan, stain: Stain, config: RunConfig) -> dict[str, Any]:
    """Where a virtual slide comes from: plain JSON values for the root attributes and `run.json`."""
    spec = stain.spec
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
            "objective_power": info.power,
            "size_l0": list(info.size_l0),
            "vendor": info.vendor,
            "reader": info.reader,
            "notes": list(info.notes),
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
        **asdict(stain.made),
        "device_names": stain.device_names,
        "sessions": len(stain.journal.sessions),
        "config": stain.made.as_config(config, plan).model_dump(mode="json"),
        "versions": {"wsistain": __version__, "python": platform.python_version(), **_versions()},
        "layers": [layer.layer.folder for layer in stain.layers if layer.layer.folder],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": stain.key,
    }


def of_layer(source: dict[str, Any]) -> dict[str, Any]:
    """The provenance of the probability beside a stain, from that of the stain: what it is, and in which unit."""
    statement = (
        f"Chance, 0 to 255 for 0 to 1, that a place is positive for {source['marker']}, predicted from an H&E slide; it means "
        "something where the marker can lie, in nuclei or round them. For research use only, not for diagnosis."
    )
    return {**source, "layer": PROBABILITY.folder, "one": 255, "statement": statement, "layers": []}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def make_report(
    stain: Stain,
    plan: RunPlan,
    tally: Tally,
    resumed: int,
    pyramid_shards: int,
    seconds: dict[str, float],
    source: dict[str, Any],
    about: About,
) -> RunReport:
    """The report of a finished stain: of the whole run, and with seconds, rate and memory of the session that ended it.

    resumed        : blocks that sessions before it had finished.
    pyramid_shards : shards of the levels above the blocks.
    seconds        : by stage, "total" among them.
    """
    blocks = stain.blocks.values()
    megapixels = plan.canvas[2] * plan.canvas[3] / 1e6
    share = tally.blocks / max(len(blocks), 1)  # what an earlier session finished is not this one's speed
    seam = stain.seams.score
    shards = sum(b.shards_written for b in blocks) + pyramid_shards
    blank = () if shards else ("the stain is glass throughout: no tissue lies in what was stained, only beside it",)
    return RunReport(
        output=stain.output.path,
        marker=stain.spec.marker,
        tiles_planned=plan.n_tiles,
        tiles_generated=stain.n_tiles,
        shards_written=shards,
        bytes_written=sum(b.bytes_written for b in blocks),
        blocks=len(blocks),
        resumed_blocks=resumed,
        unreadable_tiles=len(tally.unreadable),
        seconds={
            **{name: round(value, 3) for name, value in seconds.items()},
            **{f"{name}_threads": round(value, 3) for name, value in asdict(tally.times).items()},
        },
        megapixels=round(megapixels, 3),
        mp_per_second=round(megapixels * share / max(seconds["total"], 1e-9), 3),
        peak_rss_mb=round(max([peak_rss_mb(), *tally.peaks.values()]), 1),
        seam_score=None if seam is None else round(seam, 4),
        quality=None if about.quality is None else about.quality.describe(),
        warnings=[*about.warnings, *blank],
        plan=plan.describe(),
        provenance=source,
    )
