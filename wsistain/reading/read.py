"""`read`: cells of one slide under one or several of its stains, block by block, to tables, objects and scores."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsistain.errors import OutputError
from wsistain.output.names import READ_ENDINGS
from wsistain.reading.blocks import read_blocks
from wsistain.reading.facts import facts_of, provenance_of, told_of
from wsistain.reading.grid import BLOCK_PX, Cover, make_grid
from wsistain.reading.qupath import object_writer
from wsistain.reading.regions import Regions, read_regions
from wsistain.reading.report import write_report
from wsistain.reading.scored import Kept, Reading, scored
from wsistain.reading.shown import HePictures
from wsistain.reading.source import Result, known_to, open_he, open_results, steady_of
from wsistain.reading.sources import make_source
from wsistain.reading.stain import StainReader, positive_from
from wsistain.reading.table import Rows, table_writer
from wsistain.reading.told import write_facts, write_scores
from wsistain.reading.trust import make_trust
from wsistain.reading.trusted import TrustMap
from wsistain.reading.unfinished import KeptBlocks, is_whole, kept_blocks, key_of, work_folder
from wsistain.runtime.files import reporting
from wsistain.slide.base import Slide
from wsistain.slide.quality import examine
from wsistain.slide.tissue import find_tissue

TISSUE_MARGIN_UM = 16.0
OnRows = Callable[[int, int], None]


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
        facts = facts_of(opened, grid, source, roi, roi_class, without, regions)
        choices = {**{name: facts[name] for name in ("roi", "roi_class", "without")}, "cover": cover.rectangles}
        keys = [key_of(result, opened.info, grid, source.key, choices) for result in results]
        work = stack.enter_context(kept_blocks(results, keys))
        asked = (trust_features, trust_jitter)
        maps = _trust_maps(opened, results, weights, asked, threads, progress_trust) if trust else [None] * len(results)
        readers = [StainReader(r.stain, r.marker, grid) for r in results]
        found = read_blocks(opened, grid, tissue, source.cells, readers, regions, blocks, threads, work, cover)
        told = [told_of(result, facts) for result in results]
        kept = _write_cells(results, told, found, maps, opened.info.mpp, len(blocks), progress)
        if not any(len(y) for y in kept[0].y):
            work.remove()
        _check_any(kept[0], results)
        readings = _finish(opened, results, kept, maps, regions, facts, begin, work)
        work.remove()
    return readings


def _finish(
    slide: Slide, results: Sequence[Result], kept: Sequence[Kept], maps: Sequence[TrustMap | None], regions: Regions,
    facts: dict[str, Any], begin: float, work: KeptBlocks,
) -> list[Reading]:  # fmt: skip
    """The scores of the cells, and all files in their places, `read.json` last. begin: by `perf_counter`."""
    # Pictures of the H&E for the reports, once for all stains of one place.
    he = HePictures(slide)
    shown = [he.of(result.stain) for result in results]
    if slide.unreadable_tiles:
        facts["notes"].append(
            f"{slide.unreadable_tiles} native tiles of {slide.info.path} could not be decoded and have no cells"
        )
    seconds = time.perf_counter() - begin
    readings = [
        scored(result, keep, regions, seconds, provenance_of(result, facts), there, work.resumed)
        for result, keep, there in zip(results, kept, maps, strict=True)
    ]
    _put_in_place(readings)
    for reading, (view, picture) in zip(readings, shown, strict=True):
        write_scores(reading)
        write_report(reading, view, picture, regions)
        write_facts(reading)  # last: what has it was read
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
    od = rows.readings.od if rows.readings.deciding is None else rows.readings.deciding
    return replace(rows, trust=trust.of_cells(rows.nuclei.y, rows.nuclei.x, od, positive_from(result.marker)))


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
