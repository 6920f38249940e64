"""One marker of a run: its generator, its output, with what it is made, and how far it is."""

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wsistain.config import RunConfig
from wsistain.errors import OutputError
from wsistain.generators.device import Device
from wsistain.generators.spec import GeneratorSpec
from wsistain.output.export import export_ome_tiff
from wsistain.output.journal import Journal, check_place, open_journal
from wsistain.output.layout import PROBABILITY
from wsistain.output.names import READ_ENDINGS, READ_WORK, output_name
from wsistain.output.preview import write_preview
from wsistain.output.store import BlockDone, OutputSpec, create_output
from wsistain.pipeline.job import Written
from wsistain.pipeline.made import MadeWith, key_of, resolve
from wsistain.runtime.files import reporting
from wsistain.slide.base import SlideInfo
from wsistain.tiling.plan import RunPlan
from wsistain.tiling.seams import SeamSums


@dataclass
class Stain:
    """A marker that a run stains.

    name    : stem of everything that is written for it.
    key     : what must be the same for the run to be resumed.
    is_done : the output is finished already; known once `check` was called.
    journal : there from `begin` on, until the run closes it.
    """

    name: str
    spec: GeneratorSpec
    output: OutputSpec
    made: MadeWith
    key: dict[str, Any]
    is_done: bool = False
    journal: Journal = field(init=False, repr=False)

    @property
    def layers(self) -> tuple[OutputSpec, ...]:
        """What is written: the stain, and what lies beside it in the same folder."""
        beside = (replace(self.output, layer=PROBABILITY),) if self.spec.probability else ()
        return (self.output, *beside)

    @property
    def preview(self) -> Path:
        """Where the preview lies: beside the output."""
        return self.output.folder.with_name(f"{self.name}.preview.jpg")

    @property
    def tiff(self) -> Path | None:
        """Where the same stain lies as OME-TIFF, beside the output; None where none is wanted."""
        wanted = "ome-tiff" in self.output.storage.formats
        return self.output.folder.with_name(f"{self.name}.ome.tif") if wanted else None

    @property
    def report(self) -> Path:
        """Where `run.json` lies: beside the output."""
        return self.output.folder.with_name(f"{self.name}.run.json")

    def check(self, slide: str, *, resume: bool, overwrite: bool) -> None:
        """Refuses a place that the stain may not be written to, before anything is made. Raises OutputError."""
        if "://" not in slide:
            source = Path(slide).resolve()
            for place in (self.output.folder, self.preview, self.report, *([self.tiff] if self.tiff else [])):
                if place.resolve() == source or place.resolve() in source.parents:
                    raise OutputError(f"the result {place} would replace the slide itself; choose another --output")
        self.is_done = check_place(self.output.path, self.key, resume, overwrite)
        if self.tiff and self.tiff.exists() and not (resume or overwrite or self.is_done):
            raise OutputError(f"{self.tiff} exists; pass --overwrite to replace it or choose another --output")

    def begin(self, *, resume: bool, overwrite: bool, preview_px: int) -> Journal:
        """The journal, new or continued; with the folders of an output that is not finished. Raises OutputError."""
        self.journal = open_journal(self.output.path, self.key, resume, overwrite)
        self.is_done = self.journal.finished
        if self.is_done:
            if not self.preview.is_file():
                write_preview(self.output, self.preview, preview_px)
            if self.tiff and not self.tiff.is_file():
                self.write_tiff(threads=2)
            return self.journal
        for layer in self.layers:
            create_output(layer)
        # Nothing old is taken for the new one's.
        with reporting(self.output.path):
            self.preview.unlink(missing_ok=True)
            if self.tiff:
                self.tiff.unlink(missing_ok=True)
            self.report.unlink(missing_ok=True)
            for ending in READ_ENDINGS:
                self.output.folder.with_name(f"{self.name}.{ending}").unlink(missing_ok=True)
            shutil.rmtree(self.output.folder.with_name(f"{self.name}.{READ_WORK}"), ignore_errors=True)
        self.journal.begin_session({"device_names": list(self.made.device_names)})
        return self.journal

    def write_tiff(self, threads: int) -> None:
        """The finished output once more as OME-TIFF, where one is wanted. Raises OutputError."""
        if self.tiff:
            export_ome_tiff(self.output.folder, self.tiff, overwrite=True, threads=threads)

    def record(self, written: Written, k: int) -> None:
        """Journals one block, of which this stain is number `k`. Raises OutputError."""
        self.journal.append(written.done[k], {"tiles": written.n_tiles, "seam": asdict(written.seams[k])})

    @property
    def blocks(self) -> dict[tuple[int, int], BlockDone]:
        """Every finished block, of this session and of those before it."""
        return self.journal.done()

    @property
    def n_tiles(self) -> int:
        """Tiles that were generated for them."""
        return sum(int(note["tiles"]) for note in self.journal.notes().values())

    @property
    def seams(self) -> SeamSums:
        """Their seam sums."""
        return sum((SeamSums(**note["seam"]) for note in self.journal.notes().values()), SeamSums())

    @property
    def device_names(self) -> list[str]:
        """The processors or GPUs of all sessions."""
        return sorted({name for session in self.journal.sessions for name in session["device_names"]})


def make_stain(
    folder: Path, info: SlideInfo, plan: RunPlan, spec: GeneratorSpec, devices: list[Device], config: RunConfig
) -> Stain:
    """The stain of `spec`, resolved; nothing is made. Raises OutputError where sizes do not fit together."""
    name = output_name(info.path, spec.marker)
    y, x, height, width = plan.canvas
    output = OutputSpec(
        path=str(folder / f"{name}.ome.zarr"),
        height=height,
        width=width,
        mpp=plan.sampling.mpp,
        block=plan.tiling.block,
        storage=config.output,
        origin_um=(y * plan.sampling.mpp, x * plan.sampling.mpp),
    )
    made = resolve(config, info, spec, devices)
    return Stain(name, spec, output, made, key_of(plan, spec, made, output))
