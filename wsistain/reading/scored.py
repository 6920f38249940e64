"""What was read of one stain: its cells as far as they are kept in memory, and their scores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.reading.regions import Regions, in_polygons
from wsistain.reading.scores import Hotspot, Scores, find_hotspot, score_cells
from wsistain.reading.source import Result
from wsistain.reading.table import Rows
from wsistain.reading.trusted import TrustMap
from wsistain.slide.roi import Shape


@dataclass
class Kept:
    """What is kept of every cell for scores and pictures: about 24 bytes."""

    y: list[NDArray[np.float32]] = field(default_factory=list)
    x: list[NDArray[np.float32]] = field(default_factory=list)
    od: list[NDArray[np.float32]] = field(default_factory=list)
    grade: list[NDArray[np.int8]] = field(default_factory=list)
    region: list[NDArray[np.object_]] = field(default_factory=list)
    counted: list[NDArray[np.bool_]] = field(default_factory=list)
    trust: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        """Keep a block."""
        n, r = rows.nuclei, rows.readings
        self.y.append(n.y.astype(np.float32))
        self.x.append(n.x.astype(np.float32))
        self.od.append((r.od if r.deciding is None else r.deciding).astype(np.float32))
        self.grade.append(r.grade)
        self.region.append(rows.region)
        self.counted.append(rows.counted)
        self.trust.append(np.full(len(n), np.nan, np.float32) if rows.trust is None else rows.trust)

    def joined(self, name: str, dtype: Any) -> NDArray[Any]:
        """One property of all cells."""
        parts = getattr(self, name)
        return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


@dataclass(frozen=True)
class Reading:
    """What was read of one stain.

    kept : places, densities and classes of all cells; files: by what they are; trust: the map.
    rois: of each drawn shape, by its name.
    resumed_blocks : blocks that an interrupted session had read before.
    """

    result: Result
    n_cells: int
    slide: Scores
    regions: dict[str, Scores]
    hotspot: Hotspot | None
    seconds: float
    kept: Kept
    facts: dict[str, Any]
    files: dict[str, Path]
    trust: TrustMap | None = None
    resumed_blocks: int = 0
    rois: dict[str, Scores] = field(default_factory=dict)


def scored(
    result: Result, kept: Kept, regions: Regions, seconds: float, facts: dict[str, Any], trust: TrustMap | None,
    resumed: int,
) -> Reading:  # fmt: skip
    y, x, grade = kept.joined("y", float), kept.joined("x", float), kept.joined("grade", np.int8)
    counted, region = kept.joined("counted", bool), kept.joined("region", object)

    def scores(which: NDArray[np.bool_]) -> Scores:
        return score_cells(y[which], x[which], grade[which], result.marker)

    def inside(shape: Shape) -> NDArray[np.bool_]:
        um_l0 = float(facts["slide"]["mpp"])
        of_kind: NDArray[np.bool_] = region == shape.kind
        return in_polygons(shape.polygons, y / um_l0, x / um_l0) & of_kind

    names = [r.name for r in regions.regions]
    return Reading(
        result=result,
        n_cells=len(y),
        slide=scores(counted),
        regions={name: scores(region == name) for name in names},
        hotspot=find_hotspot(y[counted], x[counted], grade[counted], result.marker),
        seconds=round(seconds, 3),
        kept=kept,
        facts=facts,
        files={
            "table": result.beside("cells.parquet"),
            "objects": result.beside("cells.geojson"),
            "scores": result.beside("scores.csv"),
            "report": result.beside("report.html"),
            "facts": result.beside("read.json"),
        },
        trust=trust,
        resumed_blocks=resumed,
        rois={name: scores(inside(shape)) for name, shape in regions.shapes.items()},
    )
