"""One pass over the patches: read, stain, measure. Memory holds a few patches, whatever their number."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.data.pictures import read_picture, resize
from wsistain.errors import DataError, WsistainError
from wsistain.evaluation.deep import DeepMetrics
from wsistain.evaluation.given import GivenPictures
from wsistain.evaluation.pair import CellPlaces, PairMeasures, measure_pair
from wsistain.evaluation.rows import Stainer
from wsistain.markers import Marker
from wsistain.runtime.ahead import in_order
from wsistain.runtime.children import end_with_parent

RGB = NDArray[np.uint8]

THUMBNAIL_PX = 320
_INLINE_PAIRS = 12
"""Fewer pairs than this are measured without worker processes, which take a second or two to start."""


@dataclass
class PatchResult:
    """What is kept of one patch: numbers, features of networks, and thumbnails where it is shown in the report.

    digest : SHA-256 of its name and of the pixels of its H&E and IHC as stored.
    """

    ref: PatchRef
    measures: PairMeasures
    size: tuple[int, int]
    digest: str = ""
    features: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    pictures: dict[str, RGB] = field(default_factory=dict)


@dataclass(frozen=True)
class Unusable:
    """A patch that could not be read, and why."""

    name: str
    why: str


@contextmanager
def measuring(workers: int, n_pairs: int) -> Iterator[Callable[..., PairMeasures]]:
    """A function like `measure_pair` that runs in one of `workers` processes; in this one where that does not pay.

    Raises WsistainError when the processes die (usually memory, or a script without a main guard).
    """
    if workers <= 1 or n_pairs < _INLINE_PAIRS:
        yield measure_pair
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent) as pool:

        def measure(*arguments: object) -> PairMeasures:
            try:
                return pool.submit(measure_pair, *arguments).result()  # type: ignore[arg-type]
            except BrokenProcessPool:
                raise WsistainError(
                    "a measuring process died: there may be too little memory (try fewer --workers), or a script that "
                    'calls wsistain.evaluate has no `if __name__ == "__main__":` round it (or pass workers=1)'
                ) from None

        yield measure


def thumbnail(picture: RGB) -> RGB:
    """The picture with its longer side at most 320 px."""
    height, width = picture.shape[:2]
    scale = THUMBNAIL_PX / max(height, width)
    return picture if scale >= 1 else resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def read_patch(ref: PatchRef) -> tuple[RGB, RGB, RGB | None]:
    """H&E, IHC and aligned truth (None without) of a patch, uint8 (h, w, 3) of one size.

    Raises DataError for what cannot be decoded, pictures of one patch that differ in size, and less than 64 px a side.
    """
    he, ihc = read_pair(ref)
    if he is None or ihc is None:
        raise DataError(f"{ref.name} lacks its {'H&E' if he is None else 'IHC'}")
    truth = read_picture(ref.truth) if ref.truth is not None else None
    shapes = {p.shape[:2] for p in (he, ihc, truth) if p is not None}
    if len(shapes) > 1:
        raise DataError(f"its pictures differ in size ({', '.join(f'{h} x {w}' for h, w in sorted(shapes))})")
    if min(he.shape[:2]) < 64:
        raise DataError(f"it is {he.shape[0]} x {he.shape[1]} px, wanted at least 64")
    return he, ihc, truth


def _check_square(he: RGB, size: int | None) -> None:
    """DataError where measuring at `size` x `size` would squash the picture."""
    h, w = he.shape[:2]
    if size is not None and h != w:
        raise DataError(
            f"{h} x {w} px are not square and would be squashed to {size} x {size}; crop it, or leave out --size"
        )


def _resized_cells(cells: CellPlaces | None, height: int, width: int, size: int) -> CellPlaces | None:
    """Cells of a picture (height, width) in the frame of the same picture resized to size x size."""
    if cells is None:
        return None
    fy, fx = size / height, size / width
    y, x = (cells.y + 0.5) * fy - 0.5, (cells.x + 0.5) * fx - 0.5
    return replace(cells, y=y, x=x, mpp=cells.mpp / (fy * fx) ** 0.5)


@dataclass(frozen=True)
class Pass:
    """What one pass over the patches does.

    stainers : rows that are measured in this pass.
    marker   : what they stain.
    shown    : names of the patches of which thumbnails are kept.
    cells    : patch name to cells, where a truth is known.
    size     : edge of the pictures that are measured, None as they are stored.
    mpp      : um per px of the patches as stored, None where it is not known.
    """

    stainers: Sequence[Stainer]
    marker: Marker
    deep: DeepMetrics
    shown: frozenset[str] = frozenset()
    cells: Mapping[str, CellPlaces] = field(default_factory=dict)
    size: int | None = None
    mpp: float | None = None


def run_pass(
    refs: Sequence[PatchRef],
    work: Pass,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[PatchResult], list[Unusable]]:
    """Results of the patches that can be read, in the order of `refs`, and those that cannot.

    workers  : processes for the measures (and threads that read and stain); None: one a core.
    progress : called with (patches done, of how many).
    """
    # Threads read, stain and wait; the measures run in processes of their own.
    n_workers = workers or os.cpu_count() or 1
    results: list[PatchResult] = []
    unusable: list[Unusable] = []
    one_at_a_time = Lock()

    with measuring(n_workers, len(refs)) as measure, ThreadPoolExecutor(n_workers + 1) as threads:

        def one(ref: PatchRef) -> PatchResult | Unusable:
            try:
                he, ihc, truth = read_patch(ref)
                _check_square(he, work.size)
            except DataError as error:
                return Unusable(ref.name, str(error))
            digest = hashlib.sha256(ref.name.encode() + he.tobytes() + ihc.tobytes()).hexdigest()
            # Each network stains at its own scale; the real pictures are resized to what is measured.
            virtual = {s.name: _picture(s, ref, he, work.size) for s in work.stainers}
            cells, mpp = work.cells.get(ref.name), work.mpp
            if work.size is not None:
                px = work.size
                cells = _resized_cells(cells, he.shape[0], he.shape[1], px)
                mpp = None if mpp is None else mpp * (he.shape[0] * he.shape[1]) ** 0.5 / px
                he, ihc = resize(he, px, px), resize(ihc, px, px)
                truth = None if truth is None else resize(truth, px, px)
            measures = measure(he, ihc, virtual, work.marker, truth, cells, mpp)
            result = PatchResult(ref, measures, (he.shape[0], he.shape[1]), digest)
            with one_at_a_time:  # a network's activations of one patch at a time
                _deep(work.deep, result, ihc, virtual)
            if ref.name in work.shown:
                shown = {"he": he, "real": ihc, **({} if truth is None else {"truth": truth}), **virtual}
                result.pictures = {n: thumbnail(p) for n, p in shown.items()}
            return result

        # In the order of the patches, a bounded number of them begun ahead.
        for done, outcome in enumerate(in_order(threads, one, refs, 2 * n_workers + 1), start=1):
            if isinstance(outcome, Unusable):
                unusable.append(outcome)
            else:
                results.append(outcome)
            if progress is not None:
                progress(done, len(refs))
    return results, unusable


def _picture(stainer: Stainer, ref: PatchRef, he: RGB, size: int | None) -> RGB:
    if isinstance(stainer, GivenPictures):
        return stainer.picture(ref, he.shape[0], he.shape[1], size)
    return stainer.stain(he, size)


def _deep(deep: DeepMetrics, result: PatchResult, ihc: RGB, virtual: Mapping[str, RGB]) -> None:
    """Add what the networks at hand say of one patch."""
    if deep.wants_features:
        result.features["real"] = {k: v[0] for k, v in deep.features(ihc[None]).items()}
    for name, picture in virtual.items():
        if deep.wants_features:
            result.features[name] = {k: v[0] for k, v in deep.features(picture[None]).items()}
        for metric, distance in deep.distances(picture[None], ihc[None]).items():
            result.measures.systems[name][metric] = float(distance[0])
