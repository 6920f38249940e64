"""Made material of the reading's tests: a phantom slide with its cells, as an open slide and as a finished result."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile

from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.phantom.tables import cell_table

SIZE, MPP = 320, 0.5


@lru_cache(maxsize=1)
def tissue():
    """(H&E uint8 (SIZE, SIZE, 3), truth of the stain, table of its cells) of phantom slide 7001."""
    phantom = Phantom(PhantomConfig(height=SIZE, width=SIZE, mpp=MPP, seed=7001, whole=True))
    pictures = (phantom.render(name, 0, 0, SIZE, SIZE) for name in ("he_a", "ihc_a"))
    return (*pictures, cell_table(phantom, "a", 0, 0, SIZE, SIZE))


def write_he(folder: Path) -> Path:
    """The H&E as a slide with its mpp."""
    path = folder / "he.tif"
    tifffile.imwrite(
        path,
        tissue()[0],
        photometric="rgb",
        tile=(256, 256),
        resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
    )
    return path


def result(folder: Path, **kwargs: object) -> tuple[Path, Path]:
    """(H&E, finished result) of a run that returns the H&E as it is."""
    from wsistain.config import RunConfig
    from wsistain.pipeline.run import run

    he = write_he(folder)
    reports = run(he, "ER", folder, config=RunConfig(weights="identity"), **kwargs)  # type: ignore[arg-type]
    return he, Path(reports[0].output)


def as_slide(path: Path):
    """The slide at `path`, open."""
    from wsistain.slide.reader import open_slide

    return open_slide(path)


def lattice(n: int, step: float, grade: int, *, y: float = 0, x: float = 0):
    """n x n cells every `step` um from (y, x) on, all of one grade: (y, x, grade)."""
    rows, cols = np.divmod(np.arange(n * n), n)
    return rows * step + y, cols * step + x, np.full(n * n, grade, np.int8)
