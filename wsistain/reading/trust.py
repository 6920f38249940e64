"""The trust map of a stain: where it can be believed, in cells of about 32 um, and the number that a slide comes to.

How the parts are combined: `wsistain.reading.trusted`.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.generators.known import Known
from wsistain.markers import find_marker
from wsistain.optics.familiar import cell_px, has_tissue
from wsistain.output.label_map import LABELS, read_map, write_map
from wsistain.output.layout import GLASS
from wsistain.output.reading import StoredStain, open_level
from wsistain.output.reading import read_window as read_stored
from wsistain.reading.stained import cell_sums, densities
from wsistain.reading.trusted import (
    CLEAR,
    SPOILING,
    STEADY,
    TRUSTED,
    TrustMap,
    as_stored,
    clearness,
    combine,
    spread,
    trust_of_distance,
)
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.runtime.files import replacing, reporting, write_json
from wsistain.slide.base import RGB, Slide
from wsistain.slide.inside import phantom_of
from wsistain.slide.quality import COARSEST_MPP, FOCUS_MPP, Examined, examine, focus_map
from wsistain.slide.resample import Sampling, choose_sampling, read_window
from wsistain.slide.tissue import TissueMask

WINDOW = 8
"""Cells along a window, the unit of work."""

EVERY = 3
"""How like training a place is, is asked in one window of a square of so many times so many. Asked everywhere it would cost
more than another staining, and what is said of one place tells no more of the cells there than what is said round about.
"""

BLURRED, SHARP = 0.15, 0.35
FOCUS_UM = 96.0

LEAST_DARK = 0.004
"""Share of a cell that must be of nuclei or membranes, for their densities to say something."""

FINE_UM = 1.0
"""um per px, at most, at which they are looked at."""

F32 = NDArray[np.float32]


class Steadiness(Protocol):
    """Says how steady a generator's answers are."""

    def left(self, rgb: RGB, mpp: float) -> F32:
        """As `wsistain.reading.steady.Steady`."""
        ...


@dataclass(frozen=True)
class Place:
    """Where the map of one stain lies on its slide: cells in whole px of the H&E at the scale of the stain.

    sampling : of the H&E. px : edge of a cell. row, col, rows, cols : of the map, in cells from the corner of the slide.
    """

    sampling: Sampling
    px: int
    row: int
    col: int
    rows: int
    cols: int

    @property
    def cell_um(self) -> float:
        """Edge of a cell, um."""
        return self.px * self.sampling.mpp

    def windows(self, strip: int) -> Iterator[tuple[int, int, int, int]]:
        """(row, col, rows, cols) of the windows of a strip, in cells of the map."""
        for col in range(0, self.cols, WINDOW):
            top = strip * WINDOW
            yield top, col, min(WINDOW, self.rows - top), min(WINDOW, self.cols - col)

    def read(self, slide: Slide, window: tuple[int, int, int, int]) -> RGB:
        """The H&E of a window, with half a cell more on each side."""
        row, col, rows, cols = window
        half, px = self.px // 2, self.px
        y, x = (self.row + row) * px - half, (self.col + col) * px - half
        return read_window(slide, self.sampling, y, x, rows * px + 2 * half, cols * px + 2 * half)


def place_of(slide: Slide, stain: StoredStain) -> Place:
    """The cells that a stain touches. SlideError where the slide is too coarse for it."""
    sampling = choose_sampling(slide.info, stain.mpp)
    px = cell_px(sampling.mpp)
    um = px * sampling.mpp
    first = [int(np.floor(origin / um + 1e-6)) for origin in stain.origin_um]
    ends = [o + n * stain.mpp for o, n in zip(stain.origin_um, stain.levels[0], strict=True)]
    last = [max(f + 1, int(np.ceil(end / um - 1e-6))) for f, end in zip(first, ends, strict=True)]
    return Place(sampling, px, first[0], first[1], last[0] - first[0], last[1] - first[1])


class TrustMaker:
    """Makes the trust map of one stain, strip by strip.

    slide  : the H&E; stain : finished; known : what its weights know; seen : a look at the whole slide.
    steady : asks the generator once more; None: not asked.
    every  : as `EVERY`.
    """

    def __init__(
        self, slide: Slide, stain: StoredStain, known: Known, seen: Examined, steady: Steadiness | None = None,
        every: int = EVERY,
    ) -> None:  # fmt: skip
        self.slide, self.stain, self.known, self.seen, self.steady, self.every = (
            slide,
            stain,
            known,
            seen,
            steady,
            every,
        )
        self.place = place_of(slide, stain)
        self._level = max((k for k in range(len(stain.levels)) if stain.mpp * 2**k <= 8), default=0)
        self._array = open_level(stain.path, self._level)
        self._fine_level = max((k for k in range(len(stain.levels)) if stain.mpp * 2**k <= FINE_UM), default=0)
        self._fine = open_level(stain.path, self._fine_level)
        self._tissue_of: dict[tuple[int, int, int, int], int] = {}
        self.marker = find_marker(str(stain.provenance.get("marker", "")))

    @property
    def strips(self) -> int:
        """How many strips of `WINDOW` cells there are."""
        return -(-self.place.rows // WINDOW)

    def strip(self, number: int, threads: int = 1) -> dict[str, F32]:
        """Trust that each part leaves, float32 (rows, cols) by name; NaN where it says nothing. Of "stained" and "unasked" 1 or NaN."""
        height = min(WINDOW, self.place.rows - number * WINDOW)
        names = (*self.names, "stained", "unasked")
        out = {name: np.full((height, self.place.cols), np.nan, np.float32) for name in names}
        windows = list(self.place.windows(number))
        with thread_pool(threads, "trust") as pool:
            found = in_order(pool, self._window, windows, threads + 1)
            for (_, col, _, cols), parts in zip(windows, found, strict=True):
                for name, values in parts.items():
                    out[name][:, col : col + cols] = values
        return out

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts."""
        return (*self.known.parts, *((STEADY,) if self.steady is not None else ()), CLEAR, *SPOILING)

    def _window(self, window: tuple[int, int, int, int]) -> dict[str, F32]:
        rows, cols = window[2:]
        share, stained = self._there(window)
        if not stained.any():
            return {}
        parts = {"stained": np.where(stained, 1, np.nan).astype(np.float32), "tissue": np.minimum(2 * share, 1)}
        for name, mask in (("ink", self.seen.ink), ("fold", self.seen.fold)):
            covered = 0 if mask is None else self._share(mask, window)
            parts[name] = np.asarray(np.clip(1 - 2 * covered, 0, 1) * np.ones((rows, cols)), np.float32)
        parts["focus"] = self._focus(window)
        parts[CLEAR] = self._clear(window)
        asked = self._is_asked(window)
        rgb, mpp = self.place.read(self.slide, window), self.place.sampling.mpp
        if self.steady is not None:
            parts[STEADY] = self.steady.left(rgb, mpp)
        if asked:
            found = self.known.distances(rgb, mpp)
            return parts | {name: trust_of_distance(distance) for name, distance in found.items()}
        half, px = self.place.px // 2, self.place.px
        inner = rgb[half : half + rows * px, half : half + cols * px]
        parts["unasked"] = np.where(has_tissue(inner, mpp), 1, np.nan).astype(np.float32)
        return parts

    def _there(self, window: tuple[int, int, int, int]) -> tuple[F32, NDArray[np.bool_]]:
        """Share of tissue of each cell of a window, and whether it is tissue that was stained."""
        share = self._share(self.seen.tissue, window)
        return share, self._stained(window) & (share > 0)

    def _is_asked(self, window: tuple[int, int, int, int]) -> bool:
        """Whether it is asked how like training a window is: of its square it is the first with most stained tissue."""
        edge = WINDOW * self.every
        square = [n // edge * edge for n in window[:2]]
        others = [
            (row, col, min(WINDOW, self.place.rows - row), min(WINDOW, self.place.cols - col))
            for row in range(square[0], min(square[0] + edge, self.place.rows), WINDOW)
            for col in range(square[1], min(square[1] + edge, self.place.cols), WINDOW)
        ]
        return max(others, key=self._stained_tissue) == window

    def _stained_tissue(self, window: tuple[int, int, int, int]) -> int:
        """How many cells of a window are tissue that was stained."""
        found = self._tissue_of.get(window)
        if found is None:
            found = self._tissue_of[window] = int(self._there(window)[1].sum())
        return found

    def _share(self, mask: TissueMask, window: tuple[int, int, int, int]) -> F32:
        """Share of each cell of a window that lies in a mask, from its px whose centres lie in the cell, or the nearest."""
        per_cell = max(1, round(self.place.cell_um / self.slide.info.mpp / mask.downsample))
        row, col, rows, cols = window
        px_l0 = self.place.cell_um / self.slide.info.mpp / per_cell
        y, x = (self.place.row + row) * per_cell, (self.place.col + col) * per_cell
        inside = mask.window(y, x, rows * per_cell, cols * per_cell, px_l0=px_l0)
        shares: F32 = inside.reshape(rows, per_cell, cols, per_cell).mean(axis=(1, 3), dtype=np.float32)
        return shares

    def _edges(self, window: tuple[int, int, int, int], level: int) -> tuple[list[int], list[int]]:
        """Rows and columns of a level of the stain at which the cells of a window begin, and at which the last ends."""
        row, col, rows, cols = window
        mpp, um = self.stain.mpp * 2**level, self.place.cell_um

        def edges(first: int, n: int, origin: float) -> list[int]:
            return [max(0, round(((first + k) * um - origin) / mpp)) for k in range(n + 1)]

        ys = edges(self.place.row + row, rows, self.stain.origin_um[0])
        return ys, edges(self.place.col + col, cols, self.stain.origin_um[1])

    def _stained(self, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """Whether anything was stained in each cell of a window."""
        ys, xs = self._edges(window, self._level)
        pixels = read_stored(self._array, ys[0], xs[0], max(1, ys[-1] - ys[0]), max(1, xs[-1] - xs[0]))
        sums = cell_sums((pixels != GLASS).any(axis=2).astype(np.float32), ys, xs)
        return np.asarray(sums > 0)

    def _clear(self, window: tuple[int, int, int, int]) -> F32:
        """How far the densities of the stained nuclei and membranes of each cell lie from the cut-off; NaN where there are none."""
        ys, xs = self._edges(window, self._fine_level)
        pixels = read_stored(self._fine, ys[0], xs[0], max(1, ys[-1] - ys[0]), max(1, xs[-1] - xs[0]))
        is_dark, od = densities(pixels, self.marker, self.stain.mpp * 2**self._fine_level)
        dark = is_dark.astype(np.float32)
        share, clear = (cell_sums(v, ys, xs) for v in (dark, dark * clearness(od, self.marker.positive_cell_od)))
        enough = share > LEAST_DARK * cell_sums(np.ones_like(dark), ys, xs)
        return np.where(enough, clear / np.maximum(share, 1), np.nan).astype(np.float32)

    def _focus(self, window: tuple[int, int, int, int]) -> F32:
        """Trust that focus leaves each cell of a window; NaN where it cannot be told."""
        row, col, rows, cols = window
        info = self.slide.info
        if info.mpp > COARSEST_MPP:
            return np.full((rows, cols), np.nan, np.float32)
        sampling = choose_sampling(info, max(FOCUS_MPP, info.mpp))
        um, mpp = self.place.cell_um, sampling.mpp
        reach = int(np.ceil(FOCUS_UM / mpp))
        ys, xs = (
            [round((first + k + 0.5) * um / mpp) for k in range(n)]
            for first, n in ((self.place.row + row, rows), (self.place.col + col, cols))
        )
        # Inside the slide: the edge to what lies beyond it would be the sharpest of all.
        height, width = sampling.shape
        (y, bottom), (x, right) = (
            (max(0, v[0] - reach), min(n, v[-1] + reach + 1)) for v, n in ((ys, height), (xs, width))
        )
        rgb = read_window(self.slide, sampling, y, x, bottom - y, right - x)
        at = np.ix_([min(v, height - 1) - y for v in ys], [min(v, width - 1) - x for v in xs])
        ratio = focus_map(rgb, max(3, round(FOCUS_UM / mpp)))[at]
        left: F32 = np.clip((ratio - BLURRED) / (SHARP - BLURRED), 0, 1).astype(np.float32)
        return left

    def combined(self, parts: Mapping[str, F32]) -> TrustMap:
        """The map of all strips joined. parts: float32 (h, w) by name, as `strip` gives them."""
        where = np.isfinite(parts["stained"])
        wanted, reach = np.isfinite(parts["unasked"]), WINDOW * self.every
        parts = {**parts, **{name: spread(parts[name], wanted, reach) for name in self.known.parts}}
        stored = {name: as_stored(np.where(where, parts[name], np.nan)) for name in self.names}
        never = self.known.never_on(is_phantom=phantom_of(self.slide.info.path) is not None)
        corner = (self.place.row * self.place.cell_um, self.place.col * self.place.cell_um)
        trust = as_stored(combine(stored, bool(never))[0])
        return TrustMap(trust, stored, self.place.cell_um, corner, never, never or self.known.why)


def make_trust(
    slide: Slide,
    stain: StoredStain,
    known: Known,
    *,
    seen: Examined | None = None,
    steady: Steadiness | None = None,
    every: int = EVERY,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TrustMap:
    """The trust map of a finished stain, written into it; one that is there and was made alike is read, not made again.

    slide    : the H&E of which it was made. known : what the weights know (`wsistain.generators.known`).
    seen     : `examine(slide)` where somebody has looked already.
    steady   : asks the generator how steady its answers are, four passes more; None: it is not asked.
    every    : how like training it is, is asked in one window of `every` x `every`; 1: in all of them.
    progress : called with (strips done, of how many).

    An interrupted one is gone on with: finished strips lie in the stain until the map is whole. Raises OutputError where
    the map cannot be written.
    """
    maker = TrustMaker(slide, stain, known, seen or examine(slide), steady, every)
    work = Path(stain.path) / LABELS / ".trust.work"
    key = _key(maker)
    there = read_map(stain)
    if there is not None and there.facts.get("key") == key:
        never, why = (str(there.facts.get(name, "")) for name in ("never", "why"))
        return TrustMap(there.values, there.parts, there.cell_um, there.corner_um, never, why)
    with reporting(work, retry="run again"):
        parts = _strips(maker, work, key, threads, progress)
    made = maker.combined(parts)
    facts = {**describe(made), "key": key, "provenance": _origin(stain)}
    write_map(stain, made.values, made.parts, cell_um=made.cell_um, corner_um=made.corner_um, facts=facts)
    shutil.rmtree(work, ignore_errors=True)
    return made


def _strips(
    maker: TrustMaker, work: Path, key: dict[str, Any], threads: int, progress: Callable[[int, int], None] | None
) -> dict[str, F32]:
    """All strips joined; those that an interrupted session left are read."""
    try:
        same = json.loads((work / "key.json").read_text(encoding="utf-8")) == key
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / "key.json", key)
    strips = []
    for number in range(maker.strips):
        path = work / f"{number}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                strips.append({name: file[name] for name in file.files})
        else:
            strips.append(maker.strip(number, threads))
            with replacing(path) as part, part.open("wb") as file:
                np.savez(file, **strips[-1])
        if progress is not None:
            progress(number + 1, maker.strips)
    return {name: np.concatenate([strip[name] for strip in strips]) for name in strips[0]}


def _key(maker: TrustMaker) -> dict[str, Any]:
    """What decides the map: another one is not gone on with."""
    return {
        "wsistain": __version__,
        "slide": maker.slide.info.fingerprint,
        "stain": maker.stain.provenance.get("key"),
        "weights": _weights_hash(maker.stain),
        "parts": list(maker.names),
        "asked_every": maker.every,
        "from_distance": [float(v) for v in trust_of_distance(np.array([1.0, 1.5, 2.0]))],
        "why": maker.known.why,
    }


def _weights_hash(stain: StoredStain) -> str | None:
    weights = stain.provenance.get("weights")
    return str(weights.get("sha256")) if isinstance(weights, dict) else None


def describe(made: TrustMap) -> dict[str, Any]:
    """What a reader of the map must know: plain JSON values."""
    return {
        **made.facts(),
        "statement": "Where a virtual stain can be believed, by what its weights were trained on and by the picture; it says "
        "nothing of whether the stain is true. For research use only, not for diagnosis.",
        "unit": "1 (no trust) to 255 (full trust), 0 where nothing is known",
        "formula": "1 + 254 x features (looks, where there are none) x clear x least of focus, ink, fold and tissue; "
        "see docs/reading.md",
        "trusted_from": TRUSTED,
    }


def _origin(stain: StoredStain) -> dict[str, Any]:
    told = stain.provenance
    return {k: told[k] for k in ("marker", "system", "weights", "plan_hash", "slide") if k in told}
