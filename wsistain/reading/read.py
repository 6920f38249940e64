"""`read`: cells of one slide under one or several of its stains, block by block, to tables, objects and scores."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.output.names import READ_ENDINGS
from wsistain.reading.cells import Nuclei, measure_nuclei
from wsistain.reading.grid import BLOCK_PX, Box, Cover, Grid, make_grid
from wsistain.reading.nuclei import LEAST_UM2, haematoxylin
from wsistain.reading.qupath import object_writer
from wsistain.reading.regions import Regions, in_polygons, read_regions
from wsistain.reading.report import write_report
from wsistain.reading.scores import Hotspot, Scores, find_hotspot, score_cells
from wsistain.reading.shown import HePictures
from wsistain.reading.source import Result, known_to, open_he, open_results, steady_of
from wsistain.reading.sources import CellSource, Source, make_source
from wsistain.reading.stain import StainReader
from wsistain.reading.table import Rows, table_writer
from wsistain.reading.told import write_facts, write_scores
from wsistain.reading.trust import make_trust
from wsistain.reading.trusted import TrustMap
from wsistain.reading.unfinished import KeptBlocks, is_whole, kept_blocks, key_of, work_folder
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.runtime.files import reporting
from wsistain.slide.base import Slide
from wsistain.slide.quality import examine
from wsistain.slide.resample import read_window
from wsistain.slide.roi import Shape
from wsistain.slide.tissue import TissueMask, find_tissue

TISSUE_MARGIN_UM = 16.0
STATEMENT = "Read from a virtual stain computed from an H&E slide; for research use only, not for diagnosis."

F64 = NDArray[np.float64]
OnRows = Callable[[int, int], None]


@dataclass
class Kept:
    """What is kept of every cell for scores and pictures: about 24 bytes."""

    y: list[NDArray[np.float32]] = field(default_factory=list)
    x: list[NDArray[np.float32]] = field(default_factory=list)
    od: list[NDArray[np.float32]] = field(default_factory=list)
    grade: list[NDArray[np.int8]] = field(default_factory=list)
    membrane: list[NDArray[np.float32]] = field(default_factory=list)
    region: list[NDArray[np.object_]] = field(default_factory=list)
    counted: list[NDArray[np.bool_]] = field(default_factory=list)
    trust: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        """Keep a block."""
        n, r = rows.nuclei, rows.readings
        self.y.append(n.y.astype(np.float32))
        self.x.append(n.x.astype(np.float32))
        self.od.append(r.od.astype(np.float32))
        self.grade.append(r.grade)
        self.membrane.append((np.zeros(len(n)) if r.membrane is None else r.membrane).astype(np.float32))
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


def read(
    stains: Sequence[Path | str],
    *,
    slide: str | Path | None = None,
    cells: str | Path | None = None,
    cells_mpp: float | None = None,
    roi: Path | None = None,
    roi_class: Sequence[str] = (),
    without: Sequence[str] = (),
    trust: bool = True,
    trust_features: bool = True,
    trust_jitter: bool = False,
    weights: Path | None = None,
    block: int = BLOCK_PX,
    threads: int = 1,
    overwrite: bool = False,
    progress: OnRows | None = None,
    progress_trust: OnRows | None = None,
) -> list[Reading]:
    """Cells, classes and scores of the finished stains of one slide, one reading a stain; the cells are found once.

    stains    : OME-Zarr folders of `wsistain run`; the files are written beside each.
    slide     : the H&E; None: the one that the provenance names.
    cells     : the user's own nuclei, GeoJSON in level-0 px or a label image of the whole slide, or the name of another
                package's detector (`wsistain.reading.detectors`); None: found here.
    cells_mpp : um per px of a label image, where its size does not tell.
    roi       : drawn regions (QuPath GeoJSON); `roi_class`: those whose cells alone count, `without`: those left out.
    trust     : also the trust map of each stain, written into it, and the trust of each cell.
    trust_features : ask the network what it sees, where its weights keep a bank; a seventh of the time of staining.
    trust_jitter   : ask it how steady its answers are; costs four.
    weights   : the weights that made the stains, where they no longer lie where the run found them.
    block     : edge of a block, um; the cells do not depend on it.
    progress  : called with (blocks done, of how many); progress_trust: with (strips of the trust maps done, of how many).

    Cells that lie under none of the stains, where a part of the slide was stained, are not looked for.

    An interrupted reading is gone on with by the same call; its result is that of an unbroken one. Until then nothing of it
    lies among the results but the folder `<stem>.read.work`. Raises WsistainError children.
    """
    results = open_results(stains)
    for result in results:
        _check_place(result, overwrite)
    begin = time.perf_counter()
    with ExitStack() as stack:
        opened = stack.enter_context(closing(open_he(results, slide)))
        regions = read_regions(roi, roi_class, without, opened.info) if roi is not None else Regions()
        grid = make_grid(opened.info, block=block)
        tissue = find_tissue(opened).dilated(TISSUE_MARGIN_UM / opened.info.mpp)
        cover = Cover(tuple(r.place_um for r in results))
        blocks = [box for box in grid.blocks(tissue) if cover.touches(box, grid.mpp)]
        source = make_source(opened, grid, tissue, blocks, cells, cells_mpp)
        facts = _facts(opened, grid, source, roi, roi_class, without, regions)
        choices = {**{name: facts[name] for name in ("roi", "roi_class", "without")}, "cover": cover.rectangles}
        keys = [key_of(result, opened.info, grid, source.key, choices) for result in results]
        work = stack.enter_context(kept_blocks(results, keys))
        asked = (trust_features, trust_jitter)
        maps = _trust_maps(opened, results, weights, asked, threads, progress_trust) if trust else [None] * len(results)
        readers = [StainReader(r.stain, r.marker, grid) for r in results]
        found = read_blocks(opened, grid, tissue, source.cells, readers, regions, blocks, threads, work, cover)
        told = [_told_of(result, facts) for result in results]
        kept = _write_cells(results, told, found, maps, opened.info.mpp, len(blocks), progress)
        if not any(len(y) for y in kept[0].y):
            work.remove()
        _check_any(kept[0], results)
        # Pictures of the H&E for the reports, once for all stains of one place.
        he = HePictures(opened)
        shown = [he.of(result.stain) for result in results]
        if opened.unreadable_tiles:
            facts["notes"].append(
                f"{opened.unreadable_tiles} native tiles of {opened.info.path} could not be decoded and have no cells"
            )
        seconds = time.perf_counter() - begin
        readings = [
            _scored(result, keep, regions, seconds, _provenance(result, facts), there, work.resumed)
            for result, keep, there in zip(results, kept, maps, strict=True)
        ]
        _put_in_place(readings)
        for reading, (view, picture) in zip(readings, shown, strict=True):
            write_scores(reading)
            write_report(reading, view, picture, regions)
            write_facts(reading)  # last: what has it was read
        work.remove()
    return readings


def _write_cells(
    results: Sequence[Result],
    told: Sequence[dict[str, Any]],
    found: Iterator[list[Rows]],
    maps: Sequence[TrustMap | None],
    um_l0: float,
    n_blocks: int,
    progress: OnRows | None,
) -> list[Kept]:
    """The cells of all blocks, written as table and objects into the work folder of each stain."""
    kept = [Kept() for _ in results]
    with ExitStack() as stack:
        tables = [
            stack.enter_context(table_writer(work_folder(r) / "cells.parquet", um_l0, facts))
            for r, facts in zip(results, told, strict=True)
        ]
        objects = [
            stack.enter_context(object_writer(work_folder(r) / "cells.geojson", r.marker, um_l0)) for r in results
        ]
        for k, rows in enumerate(found):
            rows = [_with_trust(*each) for each in zip(rows, results, maps, strict=True)]
            for row, keep, table, geojson in zip(rows, kept, tables, objects, strict=True):
                keep.add(row)
                table.add(row)
                geojson.add(row)
            if progress is not None:
                progress(k + 1, n_blocks)
    return kept


def _put_in_place(readings: Sequence[Reading]) -> None:
    """Table and objects beside the stain; from here to the new `read.json` nothing passes for a whole reading."""
    for reading in readings:
        with reporting(reading.files["table"], retry="run again"):
            for ending in reversed(READ_ENDINGS):  # old and new are never mixed
                reading.result.beside(ending).unlink(missing_ok=True)
            for what in ("table", "objects"):
                path = reading.files[what]
                (work_folder(reading.result) / path.name.removeprefix(f"{reading.result.stem}.")).replace(path)


def _trust_maps(
    slide: Slide,
    results: Sequence[Result],
    weights: Path | None,
    asked: tuple[bool, bool],
    threads: int,
    progress: OnRows | None,
) -> list[TrustMap | None]:
    """The trust map of each stain; the slide is looked at once for all. asked: its network, once, and four times more."""
    known = [known_to(result, weights, ask=asked[0]) for result in results]
    steady = [steady_of(result, weights) if asked[1] else None for result in results]
    seen = examine(slide)
    return [
        make_trust(slide, result.stain, one, seen=seen, steady=four, threads=threads, progress=progress)
        for result, one, four in zip(results, known, steady, strict=True)
    ]


def _with_trust(rows: Rows, result: Result, trust: TrustMap | None) -> Rows:
    if trust is None:
        return rows
    cut = result.marker.positive_cell_od
    return replace(rows, trust=trust.of_cells(rows.nuclei.y, rows.nuclei.x, rows.readings.od, cut))


def read_blocks(
    slide: Slide,
    grid: Grid,
    tissue: TissueMask,
    source: CellSource,
    readers: Sequence[StainReader],
    regions: Regions,
    blocks: Sequence[Box],
    threads: int = 1,
    kept: KeptBlocks | None = None,
    cover: Cover | None = None,
) -> Iterator[list[Rows]]:
    """The cells of each block, one `Rows` a stain; each cell in the block that holds its centre, once.

    kept  : blocks that are there already are taken from it, the others put into it.
    cover : cells elsewhere are left out; None: none are.
    """

    def one(box: Box) -> list[Rows]:
        wide = box.grown(grid.margin)
        labels = source.labels(wide)
        rgb = read_window(slide, grid.sampling, wide.y, wide.x, wide.height, wide.width)
        nuclei = measure_nuclei(labels, haematoxylin(rgb), wide, grid)
        nuclei = nuclei.take(_here(nuclei, box, grid, tissue))
        if cover is not None:
            nuclei = nuclei.take(cover.holds(nuclei.y, nuclei.x))
        y, x = nuclei.y / grid.um_l0, nuclei.x / grid.um_l0
        region, counted = regions.of(y, x)
        return [Rows(nuclei, reader.read(nuclei, labels, wide), region, counted) for reader in readers]

    def once(numbered: tuple[int, Box]) -> list[Rows]:
        number, box = numbered
        if kept is None:
            return one(box)
        rows = kept.load(number)
        if rows is None:
            damaged = slide.unreadable_tiles
            rows = one(box)
            if slide.unreadable_tiles == damaged:  # else it is read again, so that the damage is counted again
                kept.keep(number, rows)
        return rows

    with thread_pool(threads, "read") as pool:
        yield from in_order(pool, once, enumerate(blocks), threads + 1)


def _here(nuclei: Nuclei, box: Box, grid: Grid, tissue: TissueMask) -> NDArray[np.bool_]:
    """Nuclei of this block: centre inside, on tissue and on the slide, not a speck."""
    y, x = nuclei.y / grid.um_l0, nuclei.x / grid.um_l0
    here = box.holds(nuclei.y / grid.mpp, nuclei.x / grid.mpp) & (nuclei.area_um2 >= LEAST_UM2)
    here &= (y < grid.size_l0[0]) & (x < grid.size_l0[1])
    rows = (y / tissue.downsample).astype(np.int64).clip(0, tissue.mask.shape[0] - 1)
    cols = (x / tissue.downsample).astype(np.int64).clip(0, tissue.mask.shape[1] - 1)
    here &= tissue.mask[rows, cols]
    return here


def _check_place(result: Result, overwrite: bool) -> None:
    there = [p for p in map(result.beside, READ_ENDINGS) if p.exists()]
    broken_off = work_folder(result).is_dir() and not is_whole(result)
    if there and not overwrite and not broken_off:
        raise OutputError(f"{there[0]} exists; pass --overwrite to read again")


def _check_any(kept: Kept, results: Sequence[Result]) -> None:
    """OutputError where there is not one nucleus: an empty table would pass for a slide without positive cells."""
    if not any(len(y) for y in kept.y):
        raise OutputError(
            f"no nucleus was found under {results[0].stain.path}; is it an H&E of at most 2 um per px, in focus? "
            "Cells found elsewhere can be given with --cells"
        )


def _facts(
    slide: Slide, grid: Grid, source: Source, roi: Path | None, wanted: Sequence[str], left_out: Sequence[str],
    regions: Regions,
) -> dict[str, Any]:  # fmt: skip
    """How the cells were read: plain JSON values."""
    return {
        "statement": STATEMENT,
        "wsistain": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "slide": {"path": slide.info.path, "fingerprint": slide.info.fingerprint, "mpp": slide.info.mpp},
        "cells": source.told,
        "grid_mpp": grid.mpp,
        "roi": None if roi is None else str(roi),
        "roi_class": list(wanted),
        "without": list(left_out),
        "notes": [*regions.notes, *source.notes],
    }


def _provenance(result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    told = result.stain.provenance
    keys = ("marker", "marker_definition", "system", "weights", "plan_hash", "date", "note")
    return {
        **facts,
        "marker": result.marker.name,
        "cutoffs_of_cells": list(result.marker.at_cells),
        "positive_from": result.marker.cell_positive,
        "stain": {"name": Path(result.stain.path).name, **{k: told[k] for k in keys if k in told}},
    }


def _told_of(result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """What the table says of where it comes from. Without the date: the same cells are the same bytes."""
    return {name: value for name, value in _provenance(result, facts).items() if name != "date"}


def _scored(
    result: Result, kept: Kept, regions: Regions, seconds: float, facts: dict[str, Any], trust: TrustMap | None,
    resumed: int,
) -> Reading:  # fmt: skip
    y, x, grade = kept.joined("y", float), kept.joined("x", float), kept.joined("grade", np.int8)
    membrane = kept.joined("membrane", float)
    counted, region = kept.joined("counted", bool), kept.joined("region", object)

    def scores(which: NDArray[np.bool_]) -> Scores:
        return score_cells(y[which], x[which], grade[which], membrane[which], result.marker)

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
        hotspot=find_hotspot(y[counted], x[counted], grade[counted], membrane[counted], result.marker),
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
