"""`run`: one slide to one OME-Zarr a marker. Plan, generate, blend, write; every step resumable."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from wsistain.config import RunConfig
from wsistain.errors import ConfigError, OutputError, SlideError
from wsistain.generators.load import find_generator
from wsistain.generators.spec import GeneratorSpec
from wsistain.generators.tiling import exact_tiling, with_tiling
from wsistain.markers import find_marker
from wsistain.output.journal import Journal, open_journal
from wsistain.output.layout import WORK
from wsistain.output.metadata import write_metadata
from wsistain.output.names import output_name
from wsistain.output.preview import write_preview
from wsistain.output.pyramid import finish_pyramid
from wsistain.output.recognise import refuse_virtual
from wsistain.output.store import OutputSpec, create_output
from wsistain.pipeline.graph import (
    LOCAL_AHEAD,
    build_graph,
    connect,
    has_gpus,
    most_on_one_machine,
    run_in_threads,
    run_on_cluster,
)
from wsistain.pipeline.report import RunReport, Tally, make_report, provenance
from wsistain.pipeline.tasks import Job, Written, release_kits
from wsistain.runtime.files import local_path, reporting, write_json
from wsistain.runtime.heap import share_arenas
from wsistain.slide.base import Slide, SlideInfo
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.reader import open_slide
from wsistain.slide.resample import choose_sampling
from wsistain.slide.roi import Roi
from wsistain.slide.tissue import TissueMask, find_tissue
from wsistain.tiling.plan import RunPlan, make_tiling, plan_run

NO_TISSUE = "shows no tissue"
"""What the refusal of a blank slide says; a batch tells it from a failure by this."""

TISSUE_MARGIN_UM = 16.0
"""The mask is grown by this much, so that faint edges of tissue are not cut."""


@dataclass(frozen=True)
class RunEvent:
    """Progress for whoever watches: `done` of `total` blocks, and megapixels written so far of all."""

    stage: str
    done: int
    total: int
    megapixels: float
    total_megapixels: float


OnEvent = Callable[[RunEvent], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Markers whose generators share one tiling, and so one pass over the slide."""

    specs: tuple[GeneratorSpec, ...]
    plan: RunPlan


def _is_silent(event: RunEvent) -> None:
    """Nobody watches."""


def plan_groups(
    slide: Slide, specs: Sequence[GeneratorSpec], config: RunConfig, roi: Roi | None, *, crop: bool
) -> list[Group]:
    """The plans of a run: markers with the same grid are stained in one pass.

    Raises ConfigError or SlideError where slide, weights and tiling do not go together, or no tissue is found.
    """
    info = slide.info
    if config.all_tiles:
        tissue = TissueMask.everywhere(info)
    else:
        tissue = find_tissue(slide).dilated(TISSUE_MARGIN_UM / info.mpp)
        if not tissue.mask.any():
            raise SlideError(f"{info.path} {NO_TISSUE}; pass --all-tiles if there is some all the same")
    by_grid: dict[tuple[Any, ...], list[GeneratorSpec]] = {}
    for spec in specs:
        by_grid.setdefault((spec.mpp, spec.stride, spec.overlap, spec.halo, spec.size_multiple), []).append(spec)
    groups = []
    for (mpp, stride, overlap, halo, multiple), members in by_grid.items():
        tiling = make_tiling(
            stride=stride, overlap=overlap, halo=halo, size_multiple=multiple, block=config.tiling.block
        )
        plan = plan_run(info, choose_sampling(info, mpp), tissue, tiling, roi, crop=crop)
        if not plan.n_tiles:
            raise SlideError(f"{info.path} {NO_TISSUE} in the region; pass --all-tiles if there is some all the same")
        groups.append(Group(tuple(members), plan))
    return groups


def preview_path(output: OutputSpec) -> Path:
    """Where the preview of an output lies: beside it."""
    return Path(f"{output.path.removesuffix('.ome.zarr')}.preview.jpg")


def report_path(output: OutputSpec) -> Path:
    """Where the `run.json` of an output lies: beside it."""
    return Path(f"{output.path.removesuffix('.ome.zarr')}.run.json")


def norm_mode(spec: GeneratorSpec, config: RunConfig) -> str:
    """The norm that a generator runs with: what was asked for, or the measured default for its kind."""
    if spec.norm != "instance":
        if config.norm in ("slide", "field"):
            raise ConfigError(
                f"--norm {config.norm} needs a generator with instance norm; {spec.name} has none (use --norm auto)"
            )
        return "tile"
    return "slide" if config.norm == "auto" else config.norm


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
    on_event: OnEvent = _is_silent,
) -> list[RunReport]:
    """Stain a slide: one OME-Zarr a marker in the folder `output`, with a preview and `run.json` beside each.

    slide     : a slide that `open_slide` reads.
    markers   : names, as a sequence or "ER,PR"; the slide is read once for all that share a tile grid.
    region    : a rectangle; its pixels equal the crop of the whole slide's.
    roi       : shapes outside which nothing is stained.
    scheduler : address of a Dask scheduler; workers: processes of a local cluster where none is given.

    Raises WsistainError children; what was finished before an error can be resumed.
    """
    share_arenas()
    config, folder = config or RunConfig(), local_path(output)
    names = [m.strip() for m in markers.split(",")] if isinstance(markers, str) else list(markers)
    wanted = list(dict.fromkeys(find_marker(m).name for m in names))
    specs = [make_spec(config, m) for m in wanted]
    if config.direction == "he-to-ihc":
        refuse_virtual(slide)
    opened = open_slide(slide, mpp=config.mpp, reader=config.reader)
    try:
        groups = plan_groups(opened, specs, config, region or roi, crop=roi is None)
        for spec in specs:
            norm_mode(spec, config)
        reports = []
        with connect(scheduler, workers) as client:
            for group in groups:
                reports += _run_group(opened, group, folder, config, resume, overwrite, client, on_event)
        return reports
    finally:
        release_kits()
        opened.close()


def make_spec(config: RunConfig, marker: str) -> GeneratorSpec:
    """The generator for `marker` with the tiling of `config` where it names one."""
    spec = replace(find_generator(config.weights, marker, direction=config.direction), seed=config.seed)
    if spec.weights != "identity" and (spec.norm == "frozen" or norm_mode(spec, config) == "slide"):
        spec = exact_tiling(spec)
    t = config.tiling
    return with_tiling(spec, stride=t.stride, overlap=t.overlap, halo=t.halo)


def _output_spec(folder: Path, info: SlideInfo, spec: GeneratorSpec, plan: RunPlan, config: RunConfig) -> OutputSpec:
    y, x, height, width = plan.canvas
    return OutputSpec(
        path=str(folder / f"{output_name(info.path, spec.marker)}.ome.zarr"),
        height=height,
        width=width,
        mpp=plan.sampling.mpp,
        chunk=config.output.chunk,
        shard=config.output.shard,
        block=plan.tiling.block,
        zstd_level=config.output.zstd_level,
        ngff=config.output.ngff,
        origin_um=(y * plan.sampling.mpp, x * plan.sampling.mpp),
    )


def _key(plan: RunPlan, spec: GeneratorSpec, output: OutputSpec, config: RunConfig, norm: str) -> dict[str, Any]:
    """What must be the same for a run to be resumed: everything that decides a byte."""
    return {
        "plan": plan.hash,
        "slide": plan.fingerprint,
        "weights": spec.weights_hash,
        "marker": spec.marker,
        "norm": f"{norm}/{config.norm_tiles}",
        "precision": config.precision,
        "seed": config.seed,
        "output": f"{output.ngff}/{output.chunk}/{output.shard}/{output.zstd_level}",
    }


def _run_group(
    slide: Slide,
    group: Group,
    folder: Path,
    config: RunConfig,
    resume: bool,
    overwrite: bool,
    client: Any,
    on_event: OnEvent,
) -> list[RunReport]:
    start = time.perf_counter()
    plan, info = group.plan, slide.info
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder {folder} cannot be made ({error.strerror}); choose another --output"
        ) from None
    outputs = tuple(_output_spec(folder, info, s, plan, config) for s in group.specs)
    norms = [norm_mode(s, config) for s in group.specs]
    keys = [_key(plan, s, o, config, n) for s, o, n in zip(group.specs, outputs, norms, strict=True)]
    with ExitStack() as stack:
        journals = [
            stack.enter_context(open_journal(o.path, key, resume, overwrite))
            for o, key in zip(outputs, keys, strict=True)
        ]
        open_ones = [k for k, journal in enumerate(journals) if not journal.finished]
        for output in (outputs[k] for k, journal in enumerate(journals) if journal.finished):
            if not preview_path(output).is_file():
                write_preview(output, preview_path(output), config.output.preview_px)
        if not open_ones:
            return []
        todo = Group(tuple(group.specs[k] for k in open_ones), plan)
        job = Job(
            plan=replace(plan, slide=_absolute(plan.slide)),
            mpp=info.mpp,
            reader=info.reader if config.reader == "auto" else config.reader,
            generators=todo.specs,
            outputs=tuple(replace(outputs[k], path=_absolute(outputs[k].path)) for k in open_ones),
            norm_files=("",) * len(open_ones),
            device=config.device,
            precision=config.precision,
            compiled=config.compile,
            batch_size=config.batch_size,
            strict=config.strict,
            share=1 if client is None else most_on_one_machine(client),
        )
        for made in job.outputs:
            create_output(made)
            _forget_earlier(made)
        seconds: dict[str, float] = {}
        job, seconds["norm"] = _timed(lambda: _with_norm(slide, job, [norms[k] for k in open_ones], config))
        live = [journals[k] for k in open_ones]
        finished = set.intersection(*(set(j.done()) for j in live))
        tally, seconds["blocks"] = _timed(lambda: _run_blocks(job, live, finished, client, on_event))
        _check_slide(info, live)
        for journal in live:
            journal.check()
        device = config.device
        reports = []
        for k, journal in enumerate(live):
            spec, output = job.generators[k], job.outputs[k]
            source = provenance(info, plan, spec, config, norms[open_ones[k]], keys[open_ones[k]], device)
            shards, pyramid_seconds = _timed(lambda o=output: finish_pyramid(o, threads=job.threads))  # type: ignore[misc]
            report = make_report(
                output=outputs[open_ones[k]].path,
                k=k,
                spec=spec,
                plan=plan,
                tally=tally,
                resumed=len(finished),
                pyramid_shards=shards,
                seconds={
                    "total": round(time.perf_counter() - start, 3),
                    **{name: round(value, 3) for name, value in seconds.items()},
                    "pyramid": round(pyramid_seconds, 3),
                },
                source=source,
                n_outputs=len(live),
            )
            with reporting(report_path(output)):
                report.write(report_path(output))
            # the metadata comes last: what has metadata is finished; the preview is made from it
            write_metadata(output, source, f"{output_name(info.path, spec.marker)} (virtual)", key=keys[open_ones[k]])
            write_preview(output, preview_path(output), config.output.preview_px)
            journal.finish()
            reports.append(report)
    return reports


def _forget_earlier(output: OutputSpec) -> None:
    """Remove what an earlier run wrote beside the output, so that nothing old is taken for the new one's."""
    with reporting(output.path):
        preview_path(output).unlink(missing_ok=True)
        report_path(output).unlink(missing_ok=True)


def _check_slide(info: SlideInfo, journals: Sequence[Journal]) -> None:
    """Raises SlideError when the slide's file is not what it was at the start; nothing of it is then kept."""
    path = Path(info.path)
    if "://" in info.path:
        return
    try:
        same = fingerprint(path) == info.fingerprint
    except OSError:
        same = False
    if not same:
        for journal in journals:
            journal.restart()
            _unreadable_file(journal.folder).unlink(missing_ok=True)
        raise SlideError(f"{path} changed while it was read; wait until it is copied whole, then run with --overwrite")


def _absolute(path: str) -> str:
    """A path that means the same in a worker that runs elsewhere; URLs as they are."""
    return path if "://" in path else str(Path(path).absolute())


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def _with_norm(slide: Slide, job: Job, modes: Sequence[str], config: RunConfig) -> Job:
    """The job with the norm statistics of every generator that freezes them, measured unless a resumed run has them."""
    files = []
    for spec, output, mode in zip(job.generators, job.outputs, modes, strict=True):
        if mode == "tile":
            files.append("")
            continue
        from wsistain.generators.load import build_generator
        from wsistain.generators.network import NetworkGenerator
        from wsistain.pipeline.norm import measure, save_norm

        path = output.folder / ".wsistain" / "norm.safetensors"
        if not path.is_file():
            generator = build_generator(spec, device=config.device, precision=config.precision)
            if not isinstance(generator, NetworkGenerator) or not generator.has_instance_norm:
                raise ConfigError(f"--norm {mode}: {spec.name} has no instance norm to freeze; use --norm tile")
            save_norm(path, measure(generator, slide, job.plan, mode, config.norm_tiles))  # type: ignore[arg-type]
        files.append(str(path.resolve()))
    return replace(job, norm_files=tuple(files))


def _unreadable_file(folder: Path) -> Path:
    return folder / WORK / "unreadable.json"


def _read_unreadable(path: Path) -> set[tuple[int, ...]]:
    """The native tiles that an interrupted run could not decode."""
    if not path.is_file():
        return set()
    try:
        return {tuple(int(n) for n in key) for key in json.loads(path.read_bytes())}
    except (ValueError, TypeError):
        raise OutputError(f"{path} is damaged; run again with --overwrite") from None


def _run_blocks(
    job: Job, journals: Sequence[Journal], finished: set[tuple[int, int]], client: Any, on_event: OnEvent
) -> Tally:
    """Generate and write every block that is not finished, and journal each as it ends."""
    kept = _unreadable_file(job.outputs[0].folder)
    tally = Tally(unreadable=_read_unreadable(kept))
    blocks = list(job.plan.blocks())
    area = {(b.row, b.col): b.height * b.width / 1e6 for b in blocks}
    total_mp = sum(area.values())
    before = sum(area[k] for k in finished if k in area)
    state = {"n": len(finished), "mp": before}
    on_event(RunEvent("staining", state["n"], len(blocks), state["mp"], total_mp))  # type: ignore[arg-type]

    def done(written: Written) -> None:
        if not written.unreadable <= tally.unreadable:
            with reporting(kept):
                write_json(kept, sorted(map(list, tally.unreadable | written.unreadable)), indent=None)
        for journal, record in zip(journals, written.done, strict=True):
            journal.append(record)
        tally.add(written)
        state["n"] += 1
        state["mp"] += area[written.row, written.col]
        on_event(RunEvent("staining", int(state["n"]), len(blocks), state["mp"], total_mp))

    if client is None:
        run_in_threads(build_graph(job, finished, ahead=LOCAL_AHEAD), done)
    else:
        run_on_cluster(build_graph(job, finished, on_gpu=has_gpus(client)), done, client)
    return tally
