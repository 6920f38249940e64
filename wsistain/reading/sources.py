"""What says where the cells are: the package's own detector, another package's, or a file; one interface for all three."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wsistain.errors import ConfigError
from wsistain.networks.nucleus_finder import SHIPPED
from wsistain.reading.cells import I32
from wsistain.reading.detected import Detected
from wsistain.reading.detectors import is_detector, load_detector
from wsistain.reading.fit import check_fit
from wsistain.reading.given import read_cells
from wsistain.reading.grid import Box, Grid
from wsistain.reading.nuclei import NucleusMaps, find_centres, label_nuclei
from wsistain.slide.base import Slide
from wsistain.slide.fingerprint import fingerprint
from wsistain.slide.tissue import TissueMask
from wsistain.weights.file import file_hash


class CellSource(Protocol):
    """What says where the cells are: labels of a window, exact in its middle."""

    def labels(self, box: Box) -> I32:
        """int32 (2h, 2w), a number on each nucleus."""
        ...


@dataclass(frozen=True)
class Found:
    """The package's own detector as a source of cells."""

    maps: NucleusMaps
    grid: Grid

    def labels(self, box: Box) -> I32:
        """int32 (2h, 2w) of a grid window."""
        answer = self.maps.window(box)
        return label_nuclei(answer[1], find_centres(answer[0], self.grid.mpp, box), self.grid.mpp, box)


@dataclass(frozen=True)
class Source:
    """Cells of one slide. told: where they come from, for people; key: what they depend on; notes: for the user."""

    cells: CellSource
    told: str
    key: str
    notes: Sequence[str] = ()


def make_source(
    slide: Slide, grid: Grid, tissue: TissueMask, blocks: list[Box], cells: str | Path | None, mpp: float | None
) -> Source:
    """The source that `cells` names: None for the package's own, a detector's name, or a file.

    mpp : um per px of a label image. blocks: those that will be read; a file is checked on some of them.

    Raises ConfigError: no such file, detector or model; a file that cannot be of this slide.
    """
    if cells is None:
        return Source(Found(NucleusMaps(slide, grid, tissue), grid), "found by wsistain", file_hash(SHIPPED))
    if is_detector(cells):
        if mpp is not None:
            raise ConfigError(f"--cells-mpp is of a label image, and {cells} is a detector")
        detector = load_detector(str(cells))
        return Source(Detected(detector, slide, grid, tissue), f"found by {detector.told}", detector.key)
    path = Path(cells)
    given = read_cells(path, grid, slide.info, mpp=mpp)
    notes = [*given.notes, *check_fit(given, str(path), slide, grid, blocks)]
    return Source(given, str(path), f"{fingerprint(path)} {mpp}", notes)
