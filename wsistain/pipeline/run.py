"""`run`: one slide to one OME-Zarr a marker. Check, plan, generate, blend, write; every step resumable."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from wsistain.config import RunConfig
from wsistain.errors import OutputError, SlideError
from wsistain.generators.device import Device
from wsistain.generators.spec import Generator
from wsistain.markers import find_marker
from wsistain.output.layout import WORK
from wsistain.output.metadata import write_metadata
from wsistain.output.preview import write_preview
from wsistain.output.pyramid import finish_pyramid
from wsistain.output.recognise import refuse_virtual
from wsistain.output.unfinished import describe_begun
from wsistain.pipeline.engine import (
    LOCAL_AHEAD,
    connect,
    dashboard_of,
    find_devices,
    has_gpus,
    most_on_one_machine,
    on_one_worker,
    run_in_threads,
    run_on_cluster,
)
from wsistain.pipeline.graph import build_graph
from wsistain.pipeline.job import Job, Written
from wsistain.pipeline.kit import check_generators, install_kit, load_generators, release_kits
from wsistain.pipeline.planning import Group, make_spec, plan_groups
from wsistain.pipeline.report import About, RunReport, Tally, make_report, of_layer, provenance
from wsistain.pipeline.stain import Stain, make_stain
from wsistain.pipeline.trust import Trust, judge
from wsistain.pipeline.watch import Progress, listening
from wsistain.runtime.event import OnEvent, RunEvent, is_silent
from wsistain.runtime.files import local_path, reporting, write_json
from wsistain.runtime.heap import share_arenas
from wsistain.slide.base import Slide, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.reader import open_slide
from wsistain.slide.roi import Roi
from wsistain.tiling.plan import RunPlan

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


@dataclass
class Pass:
    """One pass over the slide: the stains that share a tile grid.

    about      : what `planning` says of the slide: its quality, and warnings.
    job        : of those that are not finished; None where all are.
    generators : loaded in this process, where this process stains.
    """

    plan: RunPlan
    stains: list[Stain]
    about: About
    job: Job | None = None
    generators: tuple[Generator, ...] = ()

    @property
    def todo(self) -> list[Stain]:
        return [stain for stain in self.stains if not stain.is_done]


@dataclass(frozen=True)
class How:
    """How a run is to be done; the same for all its passes."""

    config: RunConfig
    resume: bool
    overwrite: bool
    client: Any
    on_event: OnEvent
    settings_from: Mapping[str, str]


def run(
    slide: str | Path,
    markers: str | Sequence[str] = "ER",
    output: str | Path = ".",
    *,
    config: RunConfig | None = None,
    region: Roi | None = None,
    roi: Roi | None = None,
    resume: bool = False,
    overwrite: bool = False,
    scheduler: str | None = None,
    workers: int = 1,
    settings_from: Mapping[str, str] | None = None,
    on_event: OnEvent = is_silent,
) -> list[RunReport]:
    """Stain a slide: one OME-Zarr a marker in the folder `output`, with a preview and `run.json` beside each.

    slide     : a slide that `open_slide` reads.
    markers   : names, as a sequence or "ER,PR"; the slide is read once for all that share a tile grid.
    region    : a rectangle; its pixels equal the crop of the whole slide's.
    roi       : shapes outside which nothing is stained.
    scheduler : address of a Dask scheduler; workers: processes of a local cluster where none is given.
    settings_from : where the values of `config` come from, by dotted key, for the provenance.
    on_event  : told how far the run is; from other threads too, never two at once.

    Raises WsistainError children. What can be refused is refused before anything is made; what was finished before an
    error can be resumed.
    """
    share_arenas()
    with ExitStack() as stack:
        stack.callback(release_kits)

        # What is wanted: weights for every marker, an H&E slide, and a plan that both go with.
        config, folder = config or RunConfig(), local_path(output)
        names = [m.strip() for m in markers.split(",")] if isinstance(markers, str) else list(markers)
        specs = [make_spec(config, m) for m in dict.fromkeys(find_marker(m).name for m in names)]
        if config.direction == "he-to-ihc":
            refuse_virtual(slide)
        opened = stack.enter_context(
            closing(open_slide(slide, mpp=config.mpp, reader=config.reader, series=config.series))
        )
        groups = plan_groups(opened, specs, config, region or roi, crop=roi is None)

        # What is there: devices, places for the results, generators that load.
        client = stack.enter_context(connect(scheduler, workers))
        address = dashboard_of(client)
        if address is not None:
            on_event(RunEvent("connected", note=f"Dask dashboard: {address}"))
        how = How(config, resume, overwrite, client, on_event, settings_from or {})
        devices = find_devices(config.device, is_network=config.weights != "identity", client=client)
        passes = [_checked(opened.info, group, folder, devices, how) for group in groups]
        for each in passes:
            _LOG.info("%s", _described(opened.info, each, devices))

        # From here on files are made.
        reports = []
        for each in passes:
            reports += _run_pass(opened, each, how)
        return reports


def _described(info: SlideInfo, each: Pass, devices: list[Device]) -> str:
    """One line for the log: what a pass over the slide is going to do."""
    tiling, made = each.plan.tiling, each.stains[0].made
    names = ", ".join(f"{s.spec.marker} by {s.spec.name}{' (finished)' if s.is_done else ''}" for s in each.stains)
    return (
        f"{info.path} ({info.reader}, {info.size_l0[1]} x {info.size_l0[0]} px, {info.mpp:g} um/px): {names}; "
        f"{each.plan.n_tiles} tiles of {tiling.tile} px at {each.plan.sampling.mpp:g} um/px, stride {tiling.stride}, halo "
        f"{tiling.halo}, norm {made.norm}, {made.precision}, on {', '.join(d.name for d in devices)}"
    )


def _checked(info: SlideInfo, group: Group, folder: Path, devices: list[Device], how: How) -> Pass:
    """A pass with everything resolved and checked that can be; nothing is made. Raises WsistainError children."""
    # Which results are wanted, and which of them are there already.
    stains = [make_stain(folder, info, group.plan, spec, devices, how.config) for spec in group.specs]
    for stain in stains:
        stain.check(info.path, resume=how.resume, overwrite=how.overwrite)
    made = Pass(group.plan, stains, About(group.quality, group.warnings))
    if not made.todo:
        return made

    # What the tasks are told: values that mean the same in another process.
    wanted = how.config.device
    made.job = Job(
        plan=replace(group.plan, slide=_absolute(group.plan.slide)),
        mpp=info.mpp,
        generators=tuple(s.spec for s in made.todo),
        made=tuple(s.made for s in made.todo),
        outputs=tuple(replace(s.output, path=_absolute(s.output.path)) for s in made.todo),
        # A worker of a cluster calls its own device by the name that it has there.
        device=devices[0].torch if how.client is None or wanted == "auto" else wanted,
        strict=how.config.strict,
        share=1 if how.client is None else most_on_one_machine(how.client),
        run=uuid.uuid4().hex,
    )

    # The generators are loaded now, where they will stain: weights that do not load end the run before it begins.
    if how.client is None:
        made.generators = load_generators(made.job)
    else:
        on_one_worker(how.client, check_generators, made.job)
    return made


def _run_pass(slide: Slide, each: Pass, how: How) -> list[RunReport]:
    """Stain what one pass over the slide gives. Raises WsistainError children."""
    start = time.perf_counter()
    config = how.config
    with ExitStack() as stack:
        # One journal a stain, under its lock; a finished output is left as it is.
        for stain in each.stains:
            with reporting(stain.output.path):
                stain.output.folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                stain.begin(resume=how.resume, overwrite=how.overwrite, preview_px=config.output.preview_px)
            )
            if not stain.is_done:
                describe_begun(stain.output, _told_while_running(slide.info, stain, each.plan))
        stains = each.todo
        if each.job is None or not stains:
            return []
        if len(stains) != len(each.job.outputs):
            raise OutputError("another run finished a part of these results a moment ago; run again with --resume")

        # Norm statistics, unless a run that is resumed has measured them; then the blocks.
        seconds: dict[str, float] = {}
        progress = _progress(each.job, stains, how)
        with listening(each.job.run, progress.heard, how.client):
            _, seconds["norm"] = _timed(lambda: _measure_norms(slide, each, how))
            resumed = len(_finished(stains))
            tally, seconds["blocks"] = _timed(lambda: _run_blocks(each.job, stains, how, progress))  # type: ignore[arg-type]
        for name, value in seconds.items():
            _LOG.info("%s: %.1f s", name, value)
        _check_slide(slide.info, stains)
        for stain in stains:
            stain.journal.check()

        # The levels above the blocks, and what the result says of itself.
        reports = []
        for stain in stains:
            output = stain.output
            shards, pyramid = _timed(
                lambda s=stain: sum(finish_pyramid(o, threads=each.job.threads) for o in s.layers)  # type: ignore[misc]
            )
            trust = judge(slide, each.plan, stain.spec) if config.direction == "he-to-ihc" else Trust("not known")
            source = {
                **provenance(slide.info, each.plan, stain, config),
                "settings_from": dict(sorted(how.settings_from.items())),
                "trust": trust.describe(),
            }
            total = time.perf_counter() - start
            times = {"total": total, **seconds, "pyramid": pyramid}
            report = make_report(
                stain, each.plan, tally, resumed, shards, times, source, each.about.also(trust.warnings())
            )
            with reporting(stain.report):
                report.write(stain.report)
            # The metadata comes last, the stain's own after all: what has it is finished; the preview is made from it.
            for layer in stain.layers[1:]:
                write_metadata(layer, of_layer(source), f"{stain.name} {layer.layer.folder} (virtual)")
            write_metadata(output, source, f"{stain.name} (virtual)", key=stain.key)
            write_preview(output, stain.preview, config.output.preview_px)
            stain.write_tiff(each.job.threads)
            stain.journal.finish()
            reports.append(report)
    return reports


def _told_while_running(info: SlideInfo, stain: Stain, plan: RunPlan) -> dict[str, Any]:
    """What an unfinished output says of itself to whoever looks at it (`wsistain view`): plain JSON values."""
    slide: dict[str, Any] = {
        "name": Path(info.path).name,
        "path": _absolute(info.path),
        "fingerprint": info.fingerprint,
    }
    slide |= {"mpp": info.mpp, "mpp_source": info.mpp_source, "size_l0": list(info.size_l0), "reader": info.reader}
    return {
        "marker": stain.spec.marker,
        "system": stain.spec.name,
        "series": info.series,
        "slide": slide,
        "blocks": sum(1 for _ in plan.blocks()),
    }


def _measure_norms(slide: Slide, each: Pass, how: How) -> None:
    """Have every statistics file that the job names, and this process's generators ready where it stains."""
    job = each.job
    if job is None:
        raise ValueError("a pass without a job has no norms")
    if any(path is not None and not path.is_file() for path in map(job.norm_file, range(len(job.generators)))):
        from wsistain.pipeline.norm import measure_missing, measure_on_worker  # with torch, which identity never needs

        if how.client is None:
            measure_missing(job, slide, each.generators)
        else:
            on_one_worker(how.client, measure_on_worker, job)
    if how.client is None:
        install_kit(job, each.generators)


def _finished(stains: Sequence[Stain]) -> set[tuple[int, int]]:
    """The blocks that are finished for every marker."""
    return set.intersection(*(set(s.blocks) for s in stains))


def _progress(job: Job, stains: Sequence[Stain], how: How) -> Progress:
    """Where a pass stands: what earlier sessions finished counts as done."""
    area = _areas(job)
    finished = _finished(stains)
    return Progress(
        how.on_event,
        blocks=len(area),
        total_megapixels=sum(area.values()),
        n_blocks=len(finished),
        megapixels=sum(area[k] for k in finished if k in area),
        tiles=min(stain.n_tiles for stain in stains),
    )


def _areas(job: Job) -> dict[tuple[int, int], float]:
    """Megapixels of each block."""
    return {(b.row, b.col): b.height * b.width / 1e6 for b in job.plan.blocks()}


def _run_blocks(job: Job, stains: Sequence[Stain], how: How, progress: Progress) -> Tally:
    """Generate and write every block that is not finished, and journal each as it ends."""
    finished = _finished(stains)
    kept = stains[0].output.folder / WORK / "unreadable.json"
    tally = Tally(unreadable=_read_unreadable(kept))
    area = _areas(job)

    def done(written: Written) -> None:
        # First what the block says of the slide, then the block: a kill between the two loses nothing.
        if not written.unreadable <= tally.unreadable:
            with reporting(kept):
                write_json(kept, sorted(map(list, tally.unreadable | written.unreadable)), indent=None)
        for k, stain in enumerate(stains):
            stain.record(written, k)
        tally.add(written)
        _LOG.debug("block %d, %d: %d tiles in %s", written.row, written.col, written.n_tiles, written.process)
        progress.wrote(area[written.row, written.col])

    # On threads a bond keeps generated blocks from piling up; a cluster goes by the priorities in the graph.
    graph = build_graph(job, finished, ahead=LOCAL_AHEAD if how.client is None else None)
    progress.total_tiles = progress.tiles + graph.n_tiles
    progress.show()
    if how.client is None:
        run_in_threads(graph, done)
    else:
        run_on_cluster(graph, done, how.client, on_gpu=has_gpus(how.client))
    return tally


def _read_unreadable(path: Path) -> set[tuple[int, ...]]:
    """The native tiles that an interrupted run could not decode."""
    if not path.is_file():
        return set()
    try:
        return {tuple(int(n) for n in key) for key in json.loads(path.read_bytes())}
    except (ValueError, TypeError):
        raise OutputError(f"{path} is damaged; run again with --overwrite") from None


def _check_slide(info: SlideInfo, stains: Sequence[Stain]) -> None:
    """Raises SlideError when the slide's file is not what it was at the start; nothing of it is then kept."""
    path = Path(info.path)
    if "://" in info.path:
        return
    try:
        same = fingerprint(path) == info.fingerprint
    except OSError:
        same = False
    # Blocks of the old file and of the new one may stand side by side: none of them can be trusted.
    if not same:
        for stain in stains:
            stain.journal.restart()
            (stain.output.folder / WORK / "unreadable.json").unlink(missing_ok=True)
        raise SlideError(f"{path} changed while it was read; wait until it is copied whole, then run with --overwrite")


def _absolute(path: str) -> str:
    """A path that means the same in a worker that runs elsewhere; URLs as they are."""
    return path if "://" in path else str(Path(path).absolute())


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start
